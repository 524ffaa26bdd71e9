"""The cost of reading over a network: throughput relative to the local file, and bytes for a small area.

A large tiled COG is served on loopback from a separate process, without and with added latency, and read as the
engines do.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
import rasterio.shutil
import shapely

import geosod
from benchmarks.limits import columns_of
from benchmarks.options import Options, say
from benchmarks.table import Row, Table
from geosod.running.stages import read_tiles
from geosod.scene import TileBatch
from geosod.scenes.open import open_scene
from geosod.scenes.read import ReadSpec
from geosod.scenes.sources import find_scenes
from geosod.tiling.grid import make_grid
from geosod.tiling.units import plan_units
from tests.remote.server import serving

BLOCK = 512
#: Seconds of delay before each response.
LATENCIES = (0.0, 0.03)


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
    """Tiles per second of `read_tiles` over all units of a scene, including lookup and opening."""
    started = time.perf_counter()
    (ref,), _ = find_scenes([uri])
    scene = open_scene(ref)
    grid = make_grid(scene.width, scene.height, tile=(512, 512), overlap=(102, 102))
    tiles = 0
    units = plan_units(scene.id, grid, shape=(8, 8), keep=None)
    for column in columns_of(units):
        for item in read_tiles(scene, column, ReadSpec((1, 2, 3), (512, 512), 16)):
            tiles += len(item) if isinstance(item, TileBatch) else 0
    return tiles / (time.perf_counter() - started)


def detect_speed(uri: str, model: str, engine: Any, folder: Path) -> float:
    """Scene megapixels per second, after detectors are loaded."""
    marks: list[float] = []

    def on_event(event: object) -> None:
        if type(event).__name__ == "Ready":
            marks.append(time.perf_counter())

    out = folder / f"out-{time.monotonic_ns()}"
    result = geosod.detect(uri, model=model, out=out, engine=engine, on_event=on_event)
    assert result.exit_code == 0, result.failures
    return result.megapixels / (time.perf_counter() - marks[0])


def run(options: Options) -> list[Table]:
    scene = options.folder / "site" / "scene.tif"
    scene.parent.mkdir()
    side = options.pick(8192, 2048)
    write_scene(scene, side)
    size = scene.stat().st_size
    local = speeds(str(scene), options)
    rows: list[Row] = [described("local file", local, local)]
    for latency in LATENCIES:
        say(f"server with {latency * 1e3:.0f} ms before each response")
        with server(scene.parent, latency) as served:
            uri = f"{served.url}/scene.tif"
            row = described(f"{latency * 1e3:.0f} ms before each response", speeds(uri, options), local)
            served.counts()
            _small_area(uri, options.model, options.folder)
            requests, sent = served.counts()
        rows.append({**row, "requests for one tile": requests, "bytes for one tile, %": 100 * sent / size})
    title = f"{side} × {side} pixels of RGB, deflate, {size / 1e6:.0f} MB; the server shares the cores"
    return [Table.of("remote", title, rows)]


def speeds(uri: str, options: Options) -> dict[str, float]:
    """Medians of the speed of reading and of a whole run."""
    read = [read_speed(uri) for _ in range(options.rounds)]
    detect = [detect_speed(uri, options.model, "serial", options.folder) for _ in range(options.rounds)]
    return {"reading, tiles/s": statistics.median(read), "detect, serial, Mpx/s": statistics.median(detect)}


def described(source: str, found: dict[str, float], local: dict[str, float]) -> Row:
    """A row of the table, each speed also in percent of that of the local file."""
    row: dict[str, str | float | None] = {"": source}
    for name, speed in found.items():
        row |= {name: speed, f"{name.partition(',')[0]}, % of local": 100 * speed / local[name]}
    return row


def _small_area(uri: str, model: str, folder: Path) -> None:
    area = folder / "area.gpkg"
    geopandas.GeoSeries([shapely.box(500_600, 5_799_300, 500_700, 5_799_400)], crs=32631).to_file(area)
    out = folder / f"out-{time.monotonic_ns()}"
    assert geosod.detect(uri, model=model, out=out, engine="serial", aoi=area).exit_code == 0
