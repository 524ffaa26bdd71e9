"""The shipped models on tiles in memory, on all cores, by precision and backend, and what geosod chooses."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from benchmarks.limits import model_alone, sample_tiles
from benchmarks.options import Options, say
from benchmarks.scenes import demo_scene
from benchmarks.table import Row, Table
from geosod.detectors.bundle import shipped_models
from geosod.detectors.ways import this_machine
from geosod.results import Execution
from geosod.running.detect import make_job
from geosod.running.job import resolve_execution


def run(options: Options) -> list[Table]:
    scene = demo_scene(options, options.pick(8192, 2048))
    rows: list[Row] = []
    for name in shipped_models():
        job = make_job(name, device="cpu")
        chosen, _ = resolve_execution(job)
        kinds = product(("fp32", "bf16"), backends(chosen, options))
        ways = [replace(chosen, precision=precision, backend=backend) for precision, backend in kinds]
        tiles = sample_tiles(scene, job.model.card, chosen.batch * options.pick(8, 1))
        say(f"{name}: {len(ways)} ways, {len(tiles)} tiles a process")
        found = model_alone(job.model, ways, tiles, rounds=options.rounds)
        mpx = tiles.pixels.shape[-1] * tiles.pixels.shape[-2] / 1e6
        reference = found[ways.index(chosen)]["detector"]
        for way, seconds in zip(ways, found, strict=True):
            rows.append({
                "model": name, "precision": way.precision, "backend": way.backend, "chosen": way == chosen,
                "network, tiles/s": 1 / seconds["network"], "network, Mpx/s": mpx / seconds["network"],
                "detector, tiles/s": 1 / seconds["detector"], "detector, Mpx/s": mpx / seconds["detector"],
                "speed relative to the chosen one": reference / seconds["detector"],
            })  # fmt: skip
    return [Table.of("forward", "Models alone, tiles in memory, a process for each core", rows)]


def backends(chosen: Execution, options: Options) -> list[str]:
    """Those that this machine can run; a quick run compiles only if the model would."""
    compiled = this_machine().compiler and (not options.quick or chosen.backend == "compile")
    return ["eager", "compile"] if compiled else ["eager"]
