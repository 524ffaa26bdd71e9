"""A small area of interest in a large scene: work, bytes and time are proportional to the tiles it covers.

Ten polygons are scattered over a demo scene, at several sizes. For each size this prints the fraction of the scene's
tiles that they cover, and the tiles detected, bytes read and time as fractions of a run without an AOI in the same
process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import psutil
import shapely

import geosod
from geosod.demo.scene import write_scene
from geosod.running.detect import make_job
from geosod.running.events import Ready, TilesDetected
from geosod.running.planning import plan_scene
from geosod.scene import Scene, SceneRef


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32768, help="side of the scene in pixels")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.001, 0.01, 0.05])
    parser.add_argument("--scene", type=Path, help="an existing demo scene")
    parser.add_argument("--model", default="demo-harbour")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.scene or Path(folder) / "scene.tif"
        if args.scene is None:
            write_scene(path, size=args.size, seed=7)
        plan = plan_scene(make_job(args.model), SceneRef(str(path), "scene"))
        whole = measure(path, args.model)
        print(
            f"whole scene: {plan.scene.megapixels:.0f} Mpx, {whole['tiles']} tiles with valid pixels of {plan.tiles}, ",
            end="",
        )
        print(f"{whole['bytes'] / 1e6:.1f} MB, {whole['seconds']:.1f} s", flush=True)
        print(f"{'AOI':>7} {'tiles covered':>14} {'detected':>9} {'bytes':>8} {'time':>8} {'s':>7}")
        for i, share in enumerate(args.shares):
            aoi = Path(folder) / f"{i}.gpkg"
            ten_polygons(plan.scene, share=share, seed=i).to_file(aoi)
            covered = plan_scene(make_job(args.model, aoi=aoi), SceneRef(str(path), "scene"))
            part = measure(path, args.model, aoi=aoi)
            shares = [part[name] / whole[name] for name in ("tiles", "bytes", "seconds")]
            cells = " ".join(f"{value:>8.2%}" for value in shares)
            print(f"{share:>7.1%} {covered.tiles / plan.tiles:>14.2%}  {cells} {part['seconds']:>7.1f}", flush=True)


if __name__ == "__main__":
    main()
