"""A small area of interest in a large scene: work, bytes and time are proportional to the tiles it covers.

Ten polygons of several sizes are scattered over a drawn scene.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import psutil
import shapely

import geosod
from benchmarks.options import Options, say
from benchmarks.scenes import demo_scene
from benchmarks.table import Row, Table
from geosod.running.detect import make_job
from geosod.running.events import Ready, TilesDetected
from geosod.running.planning import plan_scene
from geosod.scene import Scene, SceneRef

#: Of the scene that the polygons cover.
SHARES = (0.001, 0.01, 0.05)


def ten_polygons(scene: Scene, *, share: float, seed: int) -> geopandas.GeoDataFrame:
    """Hexagons that do not overlap and cover the fraction `share` of the scene, in its CRS."""
    rng = np.random.default_rng(seed)
    radius = np.sqrt(share * scene.width * scene.height / 10 / (1.5 * np.sqrt(3)))
    shapes: list[Any] = []
    while len(shapes) < 10:
        x, y = rng.uniform(radius, scene.width - radius), rng.uniform(radius, scene.height - radius)
        angle = np.arange(6) * np.pi / 3
        hexagon = shapely.Polygon(np.column_stack([x + radius * np.cos(angle), y + radius * np.sin(angle)]))
        if not any(hexagon.intersects(other) for other in shapes):
            shapes.append(hexagon)
    assert scene.transform is not None
    t = scene.transform
    ground = shapely.affinity.affine_transform(shapely.MultiPolygon(shapes), (t.a, t.b, t.d, t.e, t.c, t.f))
    return geopandas.GeoDataFrame(geometry=list(ground.geoms), crs=scene.crs)


def measure(scene: Path, model: str, **settings: Any) -> dict[str, float]:
    """Tiles, bytes and seconds of a run into a new folder, after its detector is loaded."""
    counts = {"tiles": 0, "loaded": 0.0, "before": 0}

    def on_event(event: object) -> None:
        if isinstance(event, Ready):
            counts["loaded"] = time.perf_counter()
            counts["before"] = psutil.Process().io_counters().read_chars
        if isinstance(event, TilesDetected):
            counts["tiles"] += event.tiles

    with tempfile.TemporaryDirectory() as out:
        result = geosod.detect(scene, model=model, out=out, engine="serial", on_event=on_event, **settings)
    assert result.exit_code == 0
    read = psutil.Process().io_counters().read_chars - counts["before"]
    return {"tiles": counts["tiles"], "bytes": read, "seconds": time.perf_counter() - counts["loaded"]}


def run(options: Options) -> list[Table]:
    path = demo_scene(options, options.pick(32768, 2048))
    ref = SceneRef(str(path), "scene")
    plan = plan_scene(make_job(options.model), ref)
    whole = measure(path, options.model)
    rows: list[Row] = [described("whole scene", 1.0, whole, whole)]
    for i, share in enumerate(options.pick(SHARES, (0.05,))):
        say(f"an area of interest of {share:.1%}")
        aoi = options.folder / f"{i}.gpkg"
        ten_polygons(plan.scene, share=share, seed=i).to_file(aoi)
        covered = plan_scene(make_job(options.model, aoi=aoi), ref)
        part = measure(path, options.model, aoi=aoi)
        rows.append(described(f"{share:.1%}", covered.tiles / plan.tiles, part, whole))
    return [Table.of("aoi", f"Ten hexagons on a scene of {plan.scene.megapixels:,.0f} Mpx, serial engine", rows)]


def described(aoi: str, covered: float, part: dict[str, float], whole: dict[str, float]) -> Row:
    """A row of the table: what a run did, and in percent of a run without an AOI."""
    shares = {name: 100 * part[name] / whole[name] for name in ("tiles", "bytes", "seconds")}
    return {
        "AOI, share of the scene": aoi, "tiles covered, %": 100 * covered, "tiles detected, %": shares["tiles"],
        "bytes read, %": shares["bytes"], "time, %": shares["seconds"], "tiles": int(part["tiles"]),
        "MB": part["bytes"] / 1e6, "seconds": part["seconds"],
    }  # fmt: skip
