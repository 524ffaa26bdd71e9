"""Many scenes of one tile in one call: planning, committing and skipping a scene must cost the same however many."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import rasterio
from rasterio.windows import Window

from benchmarks.options import Options, say
from benchmarks.processes import call
from benchmarks.scenes import demo_scene, profile_of
from benchmarks.table import Row, Table

SIDE = 64
#: Scenes of a run, and distinct ones among them; the others are copies.
COUNTS, DISTINCT = (1_000, 5_000, 20_000), 100
#: Scenes whose pace is measured at the beginning and the end of a run.
PACED = 500


def run(options: Options) -> list[Table]:
    drawn, rows = demo_scene(options, 1024), list[Row]()
    for count in options.pick(COUNTS, (50, 100)):
        say(f"{count:,} scenes of {SIDE} x {SIDE} pixels, then the same command again")
        scenes, out = options.folder / f"scenes-{count}", options.folder / f"out-{count}"
        write_scenes(drawn, scenes, count)
        for again in (False, True):
            rows.append(_row(count, scenes, out, options.model, again=again))
            say(str(rows[-1]))
        shutil.rmtree(scenes)
        shutil.rmtree(out)
    return [Table.of("many", f"Runs of many scenes of {SIDE} × {SIDE} pixels", rows)]


def write_scenes(drawn: Path, folder: Path, count: int) -> None:
    """Parts of a drawn scene, of which few are distinct and the others copies, each a file."""
    folder.mkdir()
    with rasterio.open(drawn) as source:
        profile = profile_of(source, "deflate", SIDE, SIDE) | {"blockxsize": SIDE, "blockysize": SIDE}
        across = source.width // SIDE
        for k in range(min(count, DISTINCT)):
            part = Window(k % across * SIDE, k // across * SIDE, SIDE, SIDE)
            place = {"transform": source.window_transform(part)}
            with rasterio.open(folder / f"{k:06}.tif", "w", **(profile | place)) as file:
                file.write(source.read(window=part))
    for k in range(DISTINCT, count):
        shutil.copyfile(folder / f"{k % DISTINCT:06}.tif", folder / f"{k:06}.tif")


def _row(count: int, scenes: Path, out: Path, model: str, *, again: bool) -> Row:
    ended = call("benchmarks.many:detect", watch=True, scenes=scenes, out=out, model=model)
    found = ended.value
    assert found["statuses"] == {"skipped" if again else "done": count}, found["statuses"]
    return {
        "scenes": count,
        "run": "again" if again else "first",
        "seconds": ended.seconds,
        "ms a scene": 1e3 * (found["last"] - found["first"]) / count,
        "CPU ms a scene": 1e3 * found["cpu"] / count,
        f"ms, first {PACED}": found["pace"][0],
        f"ms, last {PACED}": found["pace"][1],
        "seconds before the first scene": found["first"] - found["called"],
        "peak MiB": ended.peak / 2**20,
    }


def detect(scenes: str, out: str, model: str) -> dict[str, Any]:
    """Run `geosod.detect`; when scenes ended, on the clock of `time.monotonic`, and the time of cores for all."""
    import geosod
    from geosod.running.events import SceneFinished

    ended: list[float] = []
    used: list[float] = []

    def on_event(event: object) -> None:
        if isinstance(event, SceneFinished):
            ended.append(time.monotonic())
            if not used:
                used.append(time.process_time())

    called = time.monotonic()
    result = geosod.detect(scenes, model=model, out=out, on_event=on_event, tile=SIDE, overlap=0, engine="local")
    statuses: dict[str, int] = {}
    for scene in result.scenes:
        statuses[scene.status] = statuses.get(scene.status, 0) + 1
    used.append(time.process_time())
    few = min(PACED, len(ended) - 1)
    pace = [1e3 * (some[-1] - some[0]) / few for some in (ended[: few + 1], ended[-few - 1 :])]
    return {
        "called": called, "first": ended[0], "last": ended[-1], "cpu": used[1] - used[0], "pace": pace,
        "statuses": statuses,
    }  # fmt: skip
