"""geosod and its peers: time of a whole process, peak memory, boxes kept, and recall of the objects that were drawn."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.detect_run import run_detect
from benchmarks.options import Options, UnavailableError, say
from benchmarks.peers.environments import python_of
from benchmarks.processes import Ended, ProgramError, call
from benchmarks.scenes import demo_scene, demo_truth, recoded
from benchmarks.table import Row, Table
from benchmarks.timing import alternate
from geosod.demo.scene import Truth
from geosod.evaluation.scene_score import score
from geosod.machine import usable_cpus

#: As users run a network that nobody prepared for their machine.
PLAIN = {"precision": "fp32", "backend": "eager"}
BATCHES = (2, 4, 8, 16)
RETINANET = "benchmarks.peers.retinanet:detector"
SIDES = ("px_xmin", "px_ymin", "px_xmax", "px_ymax")


@dataclass(frozen=True, slots=True)
class Program:
    """One way to search a scene: a peer's program with options, or geosod's where `peer` is None."""

    name: str
    peer: str | None = None
    target: str = ""
    settings: dict[str, Any] | None = None
    options: dict[str, Any] | None = None

    def run(self, scene: Path, model: str, out: Path, *, watch: bool = False) -> Ended:
        """Run it in a new process of its environment."""
        if self.peer is None:
            return run_detect(scene, model, out, watch=watch, **(self.settings or {}))
        given: dict[str, Any] = {"scene": scene, "model": model, "out": out.with_suffix(".npz")}
        given |= {"settings": self.settings or {}, **(self.options or {})}
        return call(f"benchmarks.peers.{self.target}:run", python=python_of(self.peer), watch=watch, **given)

    def found(self, ended: Ended, out: Path) -> dict[str, np.ndarray]:
        """The boxes, scores and labels that a run left."""
        if self.peer is not None:
            return dict(np.load(out.with_suffix(".npz")))
        table = pq.read_table(ended.value["files"][0])
        boxes = np.column_stack([table[side].to_numpy() for side in SIDES])
        return {"boxes": boxes, "scores": table["score"].to_numpy(), "labels": table["label_id"].to_numpy()}


def compare(options: Options) -> list[Table]:
    """The tables of the benchmark `peers`."""
    size = options.pick(8192, 1024)
    scene, truth = demo_scene(options, size), demo_truth(size)
    tables = []
    for name, title, settings in (
        ("peers", "the forward pass that geosod chose behind all", {}),
        ("peers-plain", "as users run them: fp32, eager", PLAIN),
    ):
        say(title)
        programs = [Program("geosod", settings=settings), *peer_programs(settings, options)]
        if settings:
            programs.insert(0, Program("geosod, as its users run it"))
        rows = measured(programs, scene, options.model, truth, options)
        tables.append(Table.of(name, f"A drawn scene of {size} × {size} pixels, {title}", rows))
    return [*tables, deepforest(options)]


def peer_programs(settings: dict[str, Any], options: Options) -> list[Program]:
    """Every peer that shares geosod's model; SAHI as its users run it where `settings` are, else with NMS."""
    postprocessing = {"postprocessing": "default" if settings else "nms"}
    programs = [
        Program("rasterio + torch loop", "plain-loop", "plain_loop", settings),
        Program("SAHI", "sahi", "sahi_slices", settings, postprocessing),
        Program("supervision", "supervision", "supervision_slicer", settings),
        Program("supervision, a thread for each core", "supervision", "supervision_slicer", settings,
                {"workers": usable_cpus()}),
        Program("Ray Data", "ray-data", "ray_data", settings),
    ]  # fmt: skip
    if batch := best_batch(settings, options):
        options_of = {**postprocessing, "batch": batch}
        programs.insert(2, Program(f"SAHI, batches of {batch}", "sahi", "sahi_slices", settings, options_of))
    return programs


def best_batch(settings: dict[str, Any], options: Options) -> int | None:
    """The batch size with which SAHI is fastest, above 1, on a smaller scene; None without SAHI."""
    given: dict[str, Any] = {"model": options.model, "out": options.folder / "trial.npz", "settings": settings}
    try:
        python = python_of("sahi")
    except UnavailableError:
        return None
    if options.quick:
        return 2
    scene, target = demo_scene(options, 4096), "benchmarks.peers.sahi_slices:best_batch"
    return int(call(target, python=python, scene=scene, batches=BATCHES, **given).value)


def measured(programs: list[Program], scene: Path, model: str, truth: Truth | None, options: Options) -> list[Row]:
    """A row for each program that can run: a first run for memory and boxes, then alternating rounds for time."""
    first: dict[str, Row] = {}
    missing: list[Row] = []
    ways: dict[str, Callable[[], Ended]] = {}
    for program in programs:
        out = options.folder / "out"
        try:
            ended = program.run(scene, model, out, watch=True)
        except (UnavailableError, ProgramError) as error:
            say(f"{program.name}: {str(error).strip().splitlines()[-1]}")
            missing.append({"": f"{program.name} ({'failed' if isinstance(error, ProgramError) else 'not installed'})"})
            continue
        found = program.found(ended, out)
        row: dict[str, Any] = {"peak GiB": ended.peak / 2**30, "boxes": len(found["boxes"])}
        if truth is not None:
            columns = found["boxes"], found["labels"], found["scores"]
            agreement = score(truth.boxes, truth.labels, *columns)
            row |= {"recall": agreement.recall, "precision": agreement.precision}
        first[program.name] = row
        ways[program.name] = partial(program.run, scene, model, out)
    runs = alternate(ways, options.rounds)
    seconds = {name: statistics.median([run.seconds for run in each]) for name, each in runs.items()}
    after = {name: statistics.median(map(after_loading, each)) for name, each in runs.items()}
    ours = seconds.get("geosod")
    rows: list[Row] = [
        {
            "": name, "seconds, whole process": seconds[name], "after loading": after[name],
            "time relative to geosod's": seconds[name] / ours if ours else None, **row,
        }
        for name, row in first.items()
    ]  # fmt: skip
    return rows + missing


def after_loading(run: Ended) -> float:
    """Seconds of a run from when its network was loaded."""
    return float(run.value["end"] - run.value["loaded"])


def deepforest(options: Options) -> Table:
    """DeepForest with its own network, and geosod with the same one."""
    size = options.pick(1601, 416)
    scene = recoded(demo_scene(options, options.pick(2048, 1024)), options.folder / "part.tif", "deflate", side=size)
    programs = [
        # Single tiles, as DeepForest takes them: the last batch of a scene so small would be half empty.
        Program("geosod", settings={"trust": True, "engine": "local", "batch": 1}),
        Program("DeepForest", "deepforest", "deepforest_tile"),
    ]
    title = f"A RetinaNet with random weights on {size} × {size} pixels: the network of DeepForest behind both"
    return Table.of("peers-deepforest", title, measured(programs, scene, RETINANET, None, options))
