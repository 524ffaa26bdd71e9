"""Deduplicating the outputs of overlapping scenes: geosod and geopandas, each in a separate process.

    python -m benchmarks.deduplicate [--rows 2000000] [--no-peer]
    python -m benchmarks.deduplicate --deep 365 --rows 2000 --no-peer

Four scenes in a square overlap by a fifth of their area. Both programs read their detections, find boxes of different
scenes with an IoU of at least 0.5, keep the one with the higher score, and write the rest as GeoParquet. The geopandas
script holds all boxes in memory, finds pairs with an STR tree and measures polygons with shapely (as geosod does), then
loops over the matches in Python. It writes no coverage, no items and no duplicates.

With `--deep N` there are N scenes of the same place; in each, one of ten objects is missing.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import shapely
from affine import Affine
from pyproj import CRS

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


def measure(program: str, output: Path, out: Path) -> dict[str, float]:
    """Run one program in a separate process."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.deduplicate",
        "--only",
        program,
        "--output",
        str(output),
        "--out",
        str(out),
    ]
    figures: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return figures


def run_one(program: str, output: Path, out: Path) -> None:
    start, cpu = time.perf_counter(), time.process_time()
    if program == "geosod":
        result = deduplicate([output], out=out)
        before, after = result.rows_in, result.rows_out
    else:
        before, after = geopandas_deduplicate([output], out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(json.dumps({"before": before, "after": after, "seconds": seconds, "cpu": cpu, "peak": peak}))


def print_table(results: dict[str, dict[str, float]]) -> None:
    print(f"{'':>10} {'rows in':>10} {'rows out':>10} {'wall s':>8} {'CPU s':>8} {'rows/s':>10} {'peak GiB':>9}")
    for program, t in results.items():
        speed = t["before"] / t["seconds"]
        print(
            f"{program:>10} {t['before']:10,} {t['after']:10,} {t['seconds']:8.1f} {t['cpu']:8.1f} {speed:10,.0f}"
            f" {t['peak']:9.2f}"
        )
    if len(results) == 2:
        ours, theirs = results["geosod"], results["geopandas"]
        print(
            f"geopandas takes {theirs['seconds'] / ours['seconds']:.1f} times as long and "
            f"{theirs['peak'] / ours['peak']:.1f} times the memory"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows",
        type=int,
        default=2_000_000,
        help="detections in total, or with --deep in each scene (default: %(default)s)",
    )
    parser.add_argument("--deep", type=int, default=0, metavar="N", help="number of scenes of the same place")
    parser.add_argument("--no-peer", action="store_true", help="leave geopandas out")
    parser.add_argument("--only", choices=("geosod", "geopandas", "make"), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only == "make":
        if options.deep:
            make_stack(options.output, options.rows, options.deep)
        else:
            make_output(options.output, options.rows)
        return
    if options.only:
        run_one(options.only, options.output, options.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        print("making the scenes", file=sys.stderr)
        # In a separate process, since the peak of a forked process starts at the memory of its parent.
        command = [sys.executable, "-m", "benchmarks.deduplicate", "--only", "make", "--rows", str(options.rows)]
        command += ["--deep", str(options.deep)]
        subprocess.run([*command, "--output", str(root / "scenes")], check=True)
        names = ["geosod"] if options.no_peer else ["geosod", "geopandas"]
        results = {program: measure(program, root / "scenes", root / program) for program in names}
    print_table(results)


if __name__ == "__main__":
    main()
