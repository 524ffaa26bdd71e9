"""Where the time of a run goes, by sampling the stacks of all its threads and processes with py-spy.

Writes a flame graph for each engine to ``profiles/`` in the documentation, if that is to be updated.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from pathlib import Path

from benchmarks.detect_run import GEOSOD
from benchmarks.flame_graph import Stack, flame_graph
from benchmarks.options import Options, UnavailableError, say
from benchmarks.processes import command
from benchmarks.scenes import demo_scene
from benchmarks.table import Row, Table

SAMPLES_PER_SECOND = 200
#: Frames in which a thread waits, though the system may call it busy.
_WAITS = (
    "wait (",
    "wait_for (",
    "get (",
    "next (",
    "_run (",
    "_worker (",
    "select (",
    "poll (",
    "join (",
    "main_loop (",
)
#: Frames in which every thread begins.
_BEGINS = ("_bootstrap (", "_bootstrap_inner (", "Thread.run (", "Threads._run (", "_done (", "_run_code (", "_main (")
#: What a stack is counted as: the first whose frame is on it.
STAGES = {
    "decoding": "valid_pixels (",
    "cutting tiles": "UnitReader.read (",
    "scaling pixels": "scaled_tiles (",
    "network": "ZooAdapter.predict (",
    "boxes of tiles": "detect_batch (",
    "merging": "settle (",
    "writing": "commit_outputs (",
    "planning": "plan_scene (",
    "importing": "importlib",
}


def run(options: Options) -> list[Table]:
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if program is None:
        raise UnavailableError("py-spy is not installed; pip install '.[bench]' installs it")
    scene = demo_scene(options, options.pick(16384, 2048))
    shares: dict[str, dict[str, float]] = {}
    for engine in ("local", "ray"):
        say(f"sampling a run of the {engine} engine")
        stacks = sampled(program, scene, engine, options)
        shares[engine] = by_stage(stacks)
        if options.docs is not None:
            folder = options.docs / "profiles"
            folder.mkdir(exist_ok=True)
            title = f"geosod detect, {engine} engine, {scene.stem}: samples of busy threads"
            (folder / f"{engine}.svg").write_text(flame_graph(stacks, title))
    rows: list[Row] = [
        {"stage": stage, **{f"{engine} engine, %": 100 * shares[engine][stage] for engine in shares}}
        for stage in (*STAGES, "other")
    ]
    return [Table.of("profile", "Share of the samples of busy threads, start-up included", rows)]


def sampled(program: str, scene: Path, engine: str, options: Options) -> Counter[Stack]:
    """Samples by stack of a whole command, of which nothing is compiled any more."""
    detect = [*GEOSOD, "detect", scene, "-m", options.model, "--engine", engine, "--overwrite", "-q"]
    detect += ["-o", options.folder / f"out-{engine}"]
    command(detect)
    raw = options.folder / f"{engine}.txt"
    spy = [program, "record", "--rate", SAMPLES_PER_SECOND, "--function", "--threads", "--subprocesses"]
    command([*spy, "--nonblocking", "--format", "raw", "--output", raw, "--", *detect])
    return stacks_of(raw.read_text())


def stacks_of(text: str) -> Counter[Stack]:
    """Samples by stack of lines ``frame;frame;… count``: by kind of thread, without those that wait."""
    found: Counter[Stack] = Counter()
    for line in text.splitlines():
        frames, _, samples = line.rpartition(" ")
        stack = [frame for frame in frames.split(";") if not frame.startswith("process ")]
        thread = re.sub(r"^thread \([^)]*\)(: )?|[-_\d()x]+$", "", stack[0]) or "main"
        calls = [frame for frame in stack[1:] if not any(mark in frame for mark in _BEGINS)]
        if calls and not any(mark in calls[-1] for mark in _WAITS):
            found[thread, *calls] += int(samples)
    return found


def by_stage(stacks: Counter[Stack]) -> dict[str, float]:
    """The share of each stage of `STAGES`, and of all others."""
    counts = dict.fromkeys((*STAGES, "other"), 0)
    for stack, samples in stacks.items():
        text = "\n".join(stack)
        counts[next((stage for stage, mark in STAGES.items() if mark in text), "other")] += samples
    total = max(1, stacks.total())
    return {stage: count / total for stage, count in counts.items()}
