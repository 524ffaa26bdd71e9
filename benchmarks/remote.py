"""The cost of reading over a network: throughput relative to the local file, and bytes for a small area.

Writes a large tiled COG, serves it on loopback from a separate process, without and with added latency, and reads it
as the engines do. Prints tiles per second of `read_unit` over all units, scene megapixels per second of
`geosod.detect`, their ratios to the local file, and the fraction of the file that is read for an area of one tile.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import rasterio.shutil
import shapely

import geosod
from geosod.scene import TileBatch
from geosod.scenes.open import open_scene
from geosod.scenes.read import ReadSpec, read_unit
from geosod.scenes.sources import find_scenes
from geosod.tiling.grid import make_grid
from geosod.tiling.units import plan_units
from tests.remote.server import serving

BLOCK = 512


def write_scene(path: Path, side: int) -> None:
    """A deflate COG of RGB noise at several scales, which compresses to about three fifths, as imagery does."""
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "crs": "EPSG:32631"}
    profile |= {"transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_800_000), "photometric": "RGB"}
    draft = path.with_suffix(".draft.tif")
    with rasterio.open(draft, "w", tiled=True, blockxsize=BLOCK, blockysize=BLOCK, **profile) as dataset:
        for row in range(0, side, BLOCK):
            coarse = rng.integers(20, 220, (3, BLOCK // 16, side // 16), dtype=np.uint8)
            fine = rng.integers(0, 16, (3, BLOCK, side), dtype=np.uint8)
            window = ((row, row + BLOCK), (0, side))
            dataset.write(np.kron(coarse, np.ones((1, 16, 16), np.uint8)) + fine, window=window)
    rasterio.shutil.copy(draft, path, driver="COG", compress="DEFLATE", predictor="YES", blocksize=BLOCK)
    draft.unlink()


def _serve(root: Path, latency: float, pipe: Connection) -> None:
    with serving(root, latency=latency) as state:
        pipe.send(state.url)
        while pipe.recv():
            pipe.send((len(state.requests), state.sent))
            state.reset_counts()


class Served:
    """A server in another process."""

    def __init__(self, url: str, pipe: Connection) -> None:
        self.url, self._pipe = url, pipe

    def counts(self) -> tuple[int, int]:
        """Requests and bytes since the last call."""
        self._pipe.send(True)
        requests, sent = self._pipe.recv()
        return int(requests), int(sent)


@contextmanager
def server(root: Path, latency: float) -> Iterator[Served]:
    mine, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(root, latency, theirs), daemon=True)
    process.start()
    yield Served(mine.recv(), mine)
    mine.send(False)
    process.join(5)


def read_speed(uri: str) -> float:
    """Tiles per second of `read_unit` over all units of a scene, including lookup and opening."""
    started = time.perf_counter()
    (ref,), _ = find_scenes([uri])
    scene = open_scene(ref)
    grid = make_grid(scene.width, scene.height, tile=(512, 512), overlap=(102, 102))
    tiles = 0
    for unit in plan_units(scene.id, grid, shape=(8, 8), keep=None):
        for item in read_unit(scene, unit, ReadSpec((1, 2, 3), (512, 512), 16)):
            tiles += len(item) if isinstance(item, TileBatch) else 0
    return tiles / (time.perf_counter() - started)


def detect_speed(uri: str, model: str, engine: str, folder: Path) -> float:
    """Scene megapixels per second, after detectors are loaded."""
    marks: list[float] = []

    def on_event(event: object) -> None:
        if type(event).__name__ == "Ready":
            marks.append(time.perf_counter())

    out = folder / f"out-{time.monotonic_ns()}"
    result = geosod.detect(uri, model=model, out=out, engine=engine, on_event=on_event)
    assert result.exit_code == 0, result.failures
    return result.megapixels / (time.perf_counter() - marks[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=8192, help="pixels on a side, a multiple of 512")
    parser.add_argument(
        "--latency", type=float, nargs="+", default=[0.0, 0.03], help="seconds of delay before each response"
    )
    parser.add_argument("--model", default="demo-harbour")
    parser.add_argument("--engine", nargs="*", default=["serial"], choices=["serial", "ray"])
    parser.add_argument("--repeat", type=int, default=3, help="number of runs; the best one is printed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = folder / "site" / "scene.tif"
        scene.parent.mkdir()
        write_scene(scene, args.side)
        size = scene.stat().st_size
        print(f"{args.side} x {args.side} px RGB, deflate, {size / 1e6:.0f} MB")
        local = {"read": max(read_speed(str(scene)) for _ in range(args.repeat))}
        local |= {
            e: max(detect_speed(str(scene), args.model, e, folder) for _ in range(args.repeat)) for e in args.engine
        }
        _row("local", local, local)
        for latency in args.latency:
            with server(scene.parent, latency) as served:
                uri = f"{served.url}/scene.tif"
                speeds = {"read": max(read_speed(uri) for _ in range(args.repeat))}
                for engine in args.engine:
                    speeds[engine] = max(detect_speed(uri, args.model, engine, folder) for _ in range(args.repeat))
                _row(f"{latency * 1e3:.0f} ms", speeds, local)
                served.counts()
                _small_area(uri, args.model, folder)
                requests, sent = served.counts()
                print(f"{'':>10}  area of one tile: {requests} requests, {sent / size:.2%} of the file")


def _row(label: str, speeds: dict[str, float], local: dict[str, float]) -> None:
    units = {"read": "tiles/s"}
    parts = [f"{k} {v:7.1f} {units.get(k, 'Mpx/s')} ({v / local[k]:4.0%})" for k, v in speeds.items()]
    print(f"{label:>10}  " + "   ".join(parts), flush=True)


def _small_area(uri: str, model: str, folder: Path) -> None:
    area = folder / "area.gpkg"
    geopandas.GeoSeries([shapely.box(500_600, 5_799_300, 500_700, 5_799_400)], crs=32631).to_file(area)
    out = folder / f"out-{time.monotonic_ns()}"
    assert geosod.detect(uri, model=model, out=out, engine="serial", aoi=area).exit_code == 0


if __name__ == "__main__":
    main()
