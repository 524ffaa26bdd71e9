"""A whole run compared with its limits: decoding, the model alone, and both one after the other on the same cores."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

from benchmarks.detect_run import durations, run_detect
from benchmarks.limits import decode_once, model_alone, sample_tiles
from benchmarks.options import Options, say
from benchmarks.processes import Ended
from benchmarks.scenes import demo_scene
from benchmarks.table import Row, Table
from benchmarks.timing import alternate
from geosod.running.detect import make_job
from geosod.running.job import resolve_execution

ENGINES = ("local", "ray")
#: A run may take so much more than the floor, besides its start.
MARGIN = 1.10


def run(options: Options) -> list[Table]:
    rows: list[Row] = []
    ratios: list[Row] = []
    for size in options.pick((16384, 32768), (2048,)):
        seconds, mpx = measured(size, options)
        floor = seconds["floor: one after the other"]
        rows += [
            {
                "scene": f"{size} × {size}", "step": name, "seconds": each, "Mpx/s": mpx / each,
                "time relative to the floor": each / floor,
            }
            for name, each in seconds.items()
        ]  # fmt: skip
        ratios.append(compared(size, seconds, floor))
    return [
        Table.of("pipeline", "Whole runs compared with their limits", rows),
        Table.of("pipeline-ratios", "Ratios of the same", ratios),
    ]


def measured(size: int, options: Options) -> tuple[dict[str, float], float]:
    """Seconds of each step and engine for a drawn scene, and its megapixels."""
    scene = demo_scene(options, size)
    job = make_job(options.model)
    execution, line = resolve_execution(job)
    say(f"{size} x {size} pixels, {line}")
    tiles = sample_tiles(scene, job.model.card, execution.batch * options.pick(24, 1))
    runs: dict[str, list[Ended]] = {engine: [] for engine in ENGINES}

    def engine_run(engine: str) -> float:
        runs[engine].append(run_detect(scene, options.model, options.folder / engine, engine=engine))
        return runs[engine][-1].seconds

    ways: dict[str, Callable[[], float]] = {
        "read": lambda: decode_once(scene),
        "model": lambda: model_alone(job.model, [execution], tiles, rounds=1)[0]["detector"],
        **{engine: partial(engine_run, engine) for engine in ENGINES},
    }
    times = alternate(ways, options.rounds)
    value = runs["local"][0].value
    read, each = statistics.median(times["read"]), statistics.median(times["model"])
    seconds = {"every block once": read, "model alone": each * value["tiles"]}
    seconds["floor: one after the other"] = sum(seconds.values())
    for engine in ENGINES:
        found = durations(runs[engine])
        seconds[f"{engine} engine, whole process"] = found["in all"]
        seconds[f"{engine} engine, call of detect"] = found["call"]
        seconds[f"{engine} engine, from the first detection on"] = found["from first"]
    return seconds, value["megapixels"]


def compared(size: int, seconds: dict[str, float], floor: float) -> Row:
    """What is asked of a run, as ratios and seconds."""
    local, ray = (seconds[f"{engine} engine, whole process"] for engine in ENGINES)
    first, ray_first = (seconds[f"{engine} engine, from the first detection on"] for engine in ENGINES)
    return {
        "scene": f"{size} × {size}",
        "local / floor": local / floor,
        "local from the first detection on / floor": first / floor,
        f"seconds of local over {MARGIN:.2f} floor": local - MARGIN * floor,
        "Ray / local": ray / local,
        "Ray / local, both from the first detection on": ray_first / first,
    }
