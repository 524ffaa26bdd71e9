"""From boxes to a GeoParquet file: geosod, and a script with geopandas that writes the same columns.

Both sort the rows along a Hilbert curve, project four corners of each box, measure its true width, height and area,
and write polygons with a covering, compressed with zstd. Rounds alternate; medians are reported.

Memory is what a process of its own has at its peak beyond what it has with the boxes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import geopandas
import numpy as np
import psutil
import shapely
from pyproj import Geod

from benchmarks.options import Options, say
from benchmarks.processes import call
from benchmarks.table import Row, Table
from benchmarks.timing import medians
from geosod.demo.scene import write_scene
from geosod.detections import Detections
from geosod.output.geoparquet import write_geoparquet
from geosod.output.table import detection_rows, detection_table, with_ground_position
from geosod.results import Execution, Provenance
from geosod.scene import Scene, SceneRef
from geosod.scenes.open import open_scene

CLASSES = ("vessel", "vehicle", "tank")
PROVENANCE = Provenance("model", "digest", "digest", "0", CLASSES, Execution("cpu", "eager", "fp32", 1, 1), {})
CRS = "OGC:CRS84"


def run(options: Options) -> list[Table]:
    path = options.folder / "scene.tif"
    write_scene(path, size=2048, seed=7)
    few, many = options.pick((1_000_000, 10_000_000), (20_000, 100_000))
    return [
        Table.of("write", "From boxes to a file", three_ways(path, few, options.rounds)),
        Table.of("write-memory", "Writing by number of boxes", growth(path, (few, many))),
    ]


def three_ways(path: Path, rows: int, rounds: int) -> list[Row]:
    """Median seconds of each way to write a file, the ready table to a file among them.

    Args:
        path: a scene.
        rows: number of boxes.
        rounds: how often each way is timed.
    """
    scene = opened(path)
    found = random_detections(scene, rows)
    table = detection_table(scene, found, PROVENANCE, crs=CRS)
    times = medians(
        {
            "table to file": lambda: write_geoparquet(table, path.parent / "t", crs=CRS, metadata={}),
            "boxes to file": lambda: with_geosod(scene, found, path.parent / "g"),
            "geopandas": lambda: with_geopandas(scene, found, path.parent / "p"),
        },
        rounds,
    )
    ours = times["boxes to file"]
    return [
        {"way": way, "boxes": rows, "seconds": each, "relative to boxes to file": each / ours}
        for way, each in times.items()
    ]


def growth(path: Path, sizes: Sequence[int]) -> list[Row]:
    """Seconds and peak memory of writing by number of boxes, each in a process of its own.

    Args:
        path: a scene.
        sizes: numbers of boxes, ascending.
    """
    found = []
    for rows in sizes:
        say(f"writing {rows:,} boxes")
        found.append(call("benchmarks.write:written_alone", path=path, rows=rows).value)
    return [
        {
            "boxes": rows, "seconds": one["seconds"], "boxes MiB": one["boxes"] / 2**20,
            "peak beyond the boxes MiB": one["peak"] / 2**20,
            "peak relative to the first": one["peak"] / found[0]["peak"],
        }
        for rows, one in zip(sizes, found, strict=True)
    ]  # fmt: skip


def written_alone(path: str, rows: int) -> dict[str, float]:
    """Seconds, bytes of the boxes, and bytes at the peak beyond them."""
    scene, target = opened(Path(path)), Path(path).with_name("alone")
    with_geosod(scene, random_detections(scene, 20_000), target)  # libraries load what they need
    found = random_detections(scene, rows)
    start = time.perf_counter()
    with peak_memory() as peak:
        with_geosod(scene, found, target)
    seconds, columns = time.perf_counter() - start, (getattr(found, name) for name in Detections.__slots__)
    return {"seconds": seconds, "boxes": sum(column.nbytes for column in columns), "peak": peak[0]}


@contextmanager
def peak_memory(every: float = 0.005) -> Iterator[list[int]]:
    """Bytes of this process at its peak beyond those at the beginning, in a list of one that is kept up to date."""
    process, peak, over = psutil.Process(), [0], threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not over.wait(every):
            peak[0] = max(peak[0], process.memory_info().rss - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def opened(path: Path) -> Scene:
    return open_scene(SceneRef(str(path), "scene"))


def random_detections(scene: Scene, count: int) -> Detections:
    """Boxes of 4 to 60 px anywhere in a scene."""
    rng = np.random.default_rng(7)
    low = rng.uniform(0, scene.width - 60, (count, 2))
    boxes = np.hstack([low, low + rng.uniform(4, 60, (count, 2))])
    scores, labels = rng.random(count).astype(np.float32), rng.integers(0, 3, count).astype(np.int32)
    return Detections(boxes=boxes, scores=scores, labels=labels)


def with_geosod(scene: Scene, found: Detections, path: Path) -> None:
    rows = detection_rows(scene, with_ground_position(scene, found), PROVENANCE, crs=CRS)
    write_geoparquet(rows, path, crs=CRS, metadata={})


def with_geopandas(scene: Scene, found: Detections, path: Path) -> None:
    x0, y0, x1, y1 = found.boxes.T
    assert scene.transform is not None
    corners = [scene.transform @ pair for pair in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
    rings = np.stack([np.stack(pair, axis=1) for pair in corners], axis=1)
    frame = geopandas.GeoDataFrame(
        {
            "detection_id": [f"{scene.id}-{i:016x}" for i in range(len(found))],
            "label": np.array(CLASSES)[found.labels],
            "label_id": found.labels,
            "score": found.scores,
            **dict(zip(("px_xmin", "px_ymin", "px_xmax", "px_ymax"), found.boxes.T, strict=True)),
            "truncated": found.truncated,
            "n_merged": found.n_merged,
            "scene_id": scene.id,
        },
        geometry=shapely.polygons(rings),
        crs=scene.crs,
    )
    frame["area_m2"] = frame.geometry.to_crs("+proj=laea +lat_0=54.3 +lon_0=2.7").area.astype(np.float32)
    frame = frame.to_crs(CRS)
    geod = Geod(ellps="WGS84")
    lonlat = geopandas.GeoSeries(shapely.points(rings.mean(axis=1)), crs=scene.crs).to_crs(CRS)
    frame["lon"], frame["lat"] = lonlat.x, lonlat.y
    for name, (a, b) in {"width_m": (0, 1), "height_m": (1, 2)}.items():
        ends = [geopandas.GeoSeries(shapely.points(rings[:, i]), crs=scene.crs).to_crs(CRS) for i in (a, b)]
        frame[name] = geod.inv(ends[0].x, ends[0].y, ends[1].x, ends[1].y)[2].astype(np.float32)
    frame = frame.iloc[np.argsort(frame.geometry.hilbert_distance().to_numpy(), kind="stable")]
    frame.to_parquet(path, compression="zstd", write_covering_bbox=True)
