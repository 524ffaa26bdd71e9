"""Reading: what the codec allows, what cutting tiles makes of it, and whole runs with a detector that costs nothing."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks import near_free
from benchmarks.detect_run import durations, run_detect
from benchmarks.limits import decode_once, read_alone
from benchmarks.options import Options, say
from benchmarks.processes import Ended
from benchmarks.scenes import CODECS, demo_scene, recoded
from benchmarks.table import Row, Table
from benchmarks.timing import alternate
from geosod.running.detect import make_job
from geosod.running.planning import plan_scene
from geosod.scene import SceneRef

#: A function that makes the detector; as an object it is not put together anew.
NEAR_FREE = "object benchmarks.near_free:detector"
LIMIT, CUT = "every block once", "read and cut tiles"
WHOLE, STEADY = "geosod, whole process", "geosod, from the first detection on"


def run(options: Options) -> list[Table]:
    scene = demo_scene(options, options.pick(32768, 2048))
    mpx, seconds = measured(scene, options)
    steps: list[Row] = [
        {"step": name, "seconds": each, "Mpx/s": mpx / each, "speed relative to the limit": seconds[LIMIT] / each}
        for name, each in seconds.items()
    ]
    return [
        Table.of("read", f"Reading a drawn scene of {mpx:,.0f} Mpx, JPEG with a mask", steps),
        Table.of("read-codecs", "Reading a smaller scene without a mask, by codec", by_codec(scene, options)),
    ]


def by_codec(scene: Path, options: Options) -> list[Row]:
    """A row for each codec: Mpx/s of each step, and in brackets relative to the limit."""
    rows: list[Row] = []
    side = options.pick(16384, 1024)
    for codec in options.pick(tuple(CODECS), ("JPEG",)):
        say(f"{side} x {side} pixels as {codec}")
        path = recoded(scene, options.folder / f"{codec}.tif", codec, side=side)
        mpx, seconds = measured(path, options)
        row: dict[str, str | float | None] = {"codec": codec, "Mpx": round(mpx)}
        for name, each in seconds.items():
            row[f"{name}, Mpx/s"] = mpx / each
            if name != LIMIT:
                row[f"{name}, relative"] = seconds[LIMIT] / each
        rows.append(row)
        path.unlink()
    return rows


def measured(scene: Path, options: Options) -> tuple[float, dict[str, float]]:
    """Megapixels of a scene, and median seconds of each step."""
    job = make_job(near_free.detector())
    plan = plan_scene(job, SceneRef(str(scene), "scene"))
    runs: list[Ended] = []

    def whole_run() -> float:
        runs.append(run_detect(scene, NEAR_FREE, options.folder / "out", engine="local"))
        return runs[-1].seconds

    times = alternate(
        {LIMIT: lambda: decode_once(scene), CUT: lambda: read_alone(job, plan), WHOLE: whole_run}, options.rounds
    )
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return plan.scene.megapixels, seconds | {STEADY: durations(runs)["from first"]}
