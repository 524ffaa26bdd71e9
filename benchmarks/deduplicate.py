"""Deduplicating the outputs of overlapping scenes: geosod and geopandas, each in a separate process.

Four scenes in a square overlap by a fifth of their area. Both programs read their detections, find boxes of different
scenes with an IoU of at least 0.5, keep the one with the higher score, and write the rest as GeoParquet. The geopandas
script holds all boxes in memory, finds pairs with an STR tree and measures polygons with shapely (as geosod does), then
loops over the matches in Python. It writes no coverage, no items and no duplicates.

There are also stacks of many scenes of the same place; in each, one of ten objects is missing.
"""

from __future__ import annotations

import datetime as dt
import resource
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import shapely
from affine import Affine
from pyproj import CRS

from benchmarks.options import Options, say
from benchmarks.processes import call
from benchmarks.table import Row, Table
from benchmarks.timing import alternate, median_of
from geosod import deduplicate
from geosod.arrays import FloatArray
from geosod.detections import Detections
from geosod.output.commit import commit_scene, open_output
from geosod.output.coverage import coverage_table
from geosod.output.folder import OutputFolder
from geosod.output.geoparquet import file_metadata
from geosod.output.stac_item import scene_item
from geosod.output.table import detection_table
from geosod.results import INSPECTED, Coverage, Execution, Provenance
from geosod.scene import Scene, SceneRef

STEP, SPACING, DAY = 0.894, 24.0, dt.datetime(2024, 5, 1, tzinfo=dt.UTC)
PROVENANCE = Provenance("none", "", "", "", ("tree",), Execution("cpu", "eager", "fp32", 1, 1))


def scene(name: str, side: int, corner: tuple[float, float]) -> Scene:
    ref = SceneRef(f"/{name}.tif", name, DAY)
    transform = Affine(0.5, 0, 500_000 + corner[0], 0, -0.5, 5_300_000 - corner[1])
    wkt = CRS.from_epsg(32633).to_wkt()
    nothing = (None,) * 3, (False,) * 3, None, ("",) * 3, (256, 256), ()
    return Scene(ref, side, side, 3, "uint8", wkt, transform, *nothing, (0.5, 0.5))


def visible_boxes(objects: FloatArray, offset: FloatArray, side: int, rng: np.random.Generator) -> Detections:
    """Boxes of the objects in a scene, each with an error of about a pixel."""
    centre = objects - offset
    centre = centre[((centre > 10) & (centre < side - 10)).all(axis=1)]
    boxes = np.hstack([centre - 8, centre + 8]) + rng.normal(0, 0.7, (len(centre), 4))
    return Detections(boxes=boxes, scores=rng.random(len(boxes)), labels=np.zeros(len(boxes)))


def make_output(out: Path, rows: int) -> None:
    """One output of four scenes with about `rows` boxes in total."""
    rng, side = np.random.default_rng(0), round(np.sqrt(rows / 4) * SPACING)
    step = round(side * STEP)
    objects = forest(step + side, rng)
    folder = open_output(out)
    for k in range(4):
        offset = np.array([k % 2, k // 2], np.float64) * step
        where = scene(f"scene{k}", side, (float(offset[0]) / 2, float(offset[1]) / 2))
        write(folder, where, visible_boxes(objects, offset, side, rng))


def make_stack(out: Path, rows: int, scenes: int) -> None:
    """One output of scenes of the same place, with about `rows` objects."""
    rng, side = np.random.default_rng(0), round(np.sqrt(rows) * SPACING)
    objects = forest(side, rng)
    folder = open_output(out)
    for k in range(scenes):
        found = objects[rng.random(len(objects)) < 0.9]
        write(folder, scene(f"scene{k:03}", side, (0.0, 0.0)), visible_boxes(found, np.zeros(2), side, rng))


def forest(side: float, rng: np.random.Generator) -> FloatArray:
    """(N, 2) centres of objects about `SPACING` apart."""
    across = np.arange(0, side, SPACING)
    objects: FloatArray = np.stack(np.meshgrid(across, across), axis=-1).reshape(-1, 2)
    return objects + rng.uniform(-3, 3, objects.shape)


def write(folder: OutputFolder, where: Scene, detections: Detections) -> None:
    """Commit a scene."""
    table = detection_table(where, detections, PROVENANCE, crs="OGC:CRS84")
    coverage = Coverage.of_window(where.window, 1024, INSPECTED)
    item = scene_item(
        where, PROVENANCE, hrefs=folder.files(where).hrefs(), detections=len(table), status="done", failures=0,
        inspected_km2=None, crs="OGC:CRS84", processed=DAY,
    )  # fmt: skip
    commit_scene(
        folder, where, detections=table, coverage=coverage_table(where, coverage, crs="OGC:CRS84"), item=item,
        crs="OGC:CRS84", metadata=file_metadata(where, PROVENANCE),
    )  # fmt: skip


def geopandas_deduplicate(outputs: list[Path], out: Path) -> tuple[int, int]:
    """Deduplicate as a simple script would; number of rows before and after."""
    files = [path for output in outputs for path in sorted(output.glob("detections/*/*.parquet"))]
    frame = pd.concat([geopandas.read_parquet(path) for path in files], ignore_index=True)
    shapes, scenes = frame.geometry.to_numpy(), pd.factorize(frame["scene_id"])[0]
    first, second = shapely.STRtree(shapes).query(shapes)
    wanted = scenes[first] < scenes[second]
    first, second = first[wanted], second[wanted]
    shared = shapely.area(shapely.intersection(shapes[first], shapes[second]))
    area = shapely.area(shapes)
    iou = shared / (area[first] + area[second] - shared)
    matches: dict[int, list[tuple[float, int]]] = {}
    for a, b, value in zip(
        first[iou >= 0.5].tolist(), second[iou >= 0.5].tolist(), iou[iou >= 0.5].tolist(), strict=True
    ):
        matches.setdefault(a, []).append((-value, b))
        matches.setdefault(b, []).append((-value, a))
    gone: set[int] = set()
    kept: set[int] = set()
    for box in sorted(matches, key=lambda i: -frame["score"][i]):
        if box in gone:
            continue
        kept.add(box)
        matched_scenes = set()
        for _, other in sorted(matches[box]):
            if other not in gone and other not in kept and scenes[other] not in matched_scenes:
                gone.add(other)
                matched_scenes.add(scenes[other])
    rest = frame.drop(index=list(gone))
    out.mkdir()
    rest.to_parquet(out / "detections.parquet", compression="zstd", write_covering_bbox=False)
    return len(frame), len(rest)


def run_one(program: str, output: str, out: str) -> dict[str, float]:
    """Run one program in this process, which is a new one: a forked process starts at the peak of its parent."""
    start, cpu = time.perf_counter(), time.process_time()
    if program == "geosod":
        result = deduplicate([output], out=out)
        before, after = result.rows_in, result.rows_out
    else:
        before, after = geopandas_deduplicate([Path(output)], Path(out))
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"before": before, "after": after, "seconds": seconds, "cpu": cpu, "peak": peak}


def make(out: str, rows: int, deep: int) -> None:
    """Make the scenes: `deep` of one place, or four that overlap if that is 0."""
    if deep:
        make_stack(Path(out), rows, deep)
    else:
        make_output(Path(out), rows)


def run(options: Options) -> list[Table]:
    compared = measured(options.pick(2_000_000, 4_000), 0, ("geosod", "geopandas"), options)
    ours = compared["geosod"]
    rows: list[Row] = [
        {
            "": program, "rows in": int(found["before"]), "rows out": int(found["after"]), "seconds": found["seconds"],
            "CPU s": found["cpu"], "rows/s": found["before"] / found["seconds"], "peak GiB": found["peak"] / 2**30,
            "time relative to geosod's": found["seconds"] / ours["seconds"],
            "memory relative to geosod's": found["peak"] / ours["peak"],
        }
        for program, found in compared.items()
    ]  # fmt: skip
    by_rows = [grown(rows, 0, options) for rows in options.pick((200_000, 2_000_000, 5_000_000), (2_000,))]
    stacks = [grown(options.pick(2_000, 200), depth, options) for depth in options.pick((12, 50, 365), (3,))]
    return [
        Table.of("deduplicate", "Four scenes that overlap by a fifth", rows),
        Table.of("deduplicate-rows", "geosod on four scenes, by number of rows", by_rows),
        Table.of("deduplicate-stack", "geosod on scenes of one place, by number of scenes", stacks),
    ]


def grown(rows: int, deep: int, options: Options) -> Row:
    """A row for geosod alone."""
    found = measured(rows, deep, ("geosod",), options)["geosod"]
    return {
        "scenes": deep or 4, "rows in": int(found["before"]), "rows out": int(found["after"]),
        "seconds": found["seconds"], "peak MiB": found["peak"] / 2**20,
    }  # fmt: skip


def measured(rows: int, deep: int, programs: Sequence[str], options: Options) -> dict[str, dict[str, float]]:
    """Medians of each program on scenes that are made for it."""
    say(f"{rows:,} rows, {deep or 4} scenes")
    output = options.folder / f"scenes-{rows}-{deep}"
    call("benchmarks.deduplicate:make", out=output, rows=rows, deep=deep)

    def once(program: str) -> dict[str, float]:
        out = options.folder / program
        value: dict[str, float] = call("benchmarks.deduplicate:run_one", program=program, output=output, out=out).value
        shutil.rmtree(out)
        return value

    found = alternate({program: partial(once, program) for program in programs}, options.rounds)
    shutil.rmtree(output)
    return {program: median_of(each) for program, each in found.items()}
