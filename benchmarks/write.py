"""From boxes to a GeoParquet file: geosod, and a script with geopandas that writes the same columns.

Both sort the rows along a Hilbert curve, project four corners of each box, measure its true width, height and area,
and write polygons with a covering, compressed with zstd. Rounds alternate; medians are printed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import shapely
from pyproj import Geod

from benchmarks.machine import describe_machine
from benchmarks.timing import medians
from geosod.demo.scene import write_scene
from geosod.detections import Detections
from geosod.output.geoparquet import write_geoparquet
from geosod.output.table import detection_table, with_ground_position
from geosod.results import Execution, Provenance
from geosod.scene import Scene, SceneRef
from geosod.scenes.open import open_scene

CLASSES = ("vessel", "vehicle", "tank")
PROVENANCE = Provenance("model", "digest", "digest", "0", CLASSES, Execution("cpu", "eager", "fp32", 1, 1), {})


def random_detections(scene: Scene, count: int) -> Detections:
    """Boxes of 4 to 60 px anywhere in a scene."""
    rng = np.random.default_rng(7)
    low = rng.uniform(0, scene.width - 60, (count, 2))
    boxes = np.hstack([low, low + rng.uniform(4, 60, (count, 2))])
    scores, labels = rng.random(count).astype(np.float32), rng.integers(0, 3, count).astype(np.int32)
    return Detections(boxes=boxes, scores=scores, labels=labels)


def with_geosod(scene: Scene, found: Detections, path: Path) -> None:
    table = detection_table(scene, with_ground_position(scene, found), PROVENANCE, crs="OGC:CRS84")
    write_geoparquet(table, path, crs="OGC:CRS84", metadata={})


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
    frame = frame.to_crs("OGC:CRS84")
    geod = Geod(ellps="WGS84")
    lonlat = geopandas.GeoSeries(shapely.points(rings.mean(axis=1)), crs=scene.crs).to_crs("OGC:CRS84")
    frame["lon"], frame["lat"] = lonlat.x, lonlat.y
    for name, (a, b) in {"width_m": (0, 1), "height_m": (1, 2)}.items():
        ends = [geopandas.GeoSeries(shapely.points(rings[:, i]), crs=scene.crs).to_crs("OGC:CRS84") for i in (a, b)]
        frame[name] = geod.inv(ends[0].x, ends[0].y, ends[1].x, ends[1].y)[2].astype(np.float32)
    frame = frame.iloc[np.argsort(frame.geometry.hilbert_distance().to_numpy(), kind="stable")]
    frame.to_parquet(path, compression="zstd", write_covering_bbox=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scene(folder / "scene.tif", size=2048, seed=7)
        scene = open_scene(SceneRef(str(folder / "scene.tif"), "scene"))
        found = random_detections(scene, args.rows)
        table = detection_table(scene, found, PROVENANCE, crs="OGC:CRS84")
        ways: dict[str, Callable[[], None]] = {
            "table to file": lambda: write_geoparquet(table, folder / "t", crs="OGC:CRS84", metadata={}),
            "detections to file": lambda: with_geosod(scene, found, folder / "g"),
            "geopandas": lambda: with_geopandas(scene, found, folder / "p"),
        }
        times = medians(ways, args.rounds)
        ours = times["detections to file"]
        for way, each in times.items():
            print(
                f"{way:<20} {args.rows:>10,} rows {each:>8.2f} s {each / ours:>8.2f} x detections to file", flush=True
            )


if __name__ == "__main__":
    main()
