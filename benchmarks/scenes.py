"""Scenes to measure on: drawn ones with their truth, the same in other compressions, and repeated to any size."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window

import geosod.demo
from benchmarks.options import SEED, Options, say
from geosod.demo.layout import make_layout
from geosod.demo.scene import Truth, truth_of, write_scene
from geosod.machine import usable_cpus

BLOCK = 512
CODECS: dict[str, dict[str, object]] = {
    "deflate": {"compress": "deflate", "predictor": 2},
    "JPEG": {"compress": "jpeg", "photometric": "ycbcr"},
    "ZSTD": {"compress": "zstd", "predictor": 2},
    "LZW": {"compress": "lzw", "predictor": 2},
}


def demo_scene(options: Options, size: int) -> Path:
    """A drawn scene of `size` × `size` pixels, JPEG with a mask; one that was drawn before by the same code is kept."""
    drawing = Path(geosod.demo.__path__[0])
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(drawing.glob("*.py")))).hexdigest()[:8]
    path = options.scenes / f"demo-{size}-{SEED}-{code}.tif"
    if not path.exists():
        say(f"drawing {size} x {size} pixels")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_scene(path, size=size, seed=SEED, threads=usable_cpus())
    return path


def demo_truth(size: int) -> Truth:
    """The objects of `demo_scene`."""
    return truth_of(make_layout(size, SEED))


def profile_of(source: Any, codec: str, width: int, height: int) -> dict[str, Any]:
    """For a tiled GeoTIFF of the bands and the position of an open dataset."""
    return {
        "driver": "GTiff", "width": width, "height": height, "count": source.count, "dtype": source.dtypes[0],
        "crs": source.crs, "transform": source.transform, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK,
        "interleave": "pixel", "bigtiff": "IF_SAFER", "num_threads": "ALL_CPUS",
    } | CODECS[codec]  # fmt: skip


def recoded(source: Path, path: Path, codec: str, *, side: int | None = None) -> Path:
    """The middle `side` × `side` pixels of a scene, or all, in another compression and without a mask."""
    with rasterio.open(source) as scene:
        width, height = (min(side or whole, whole) for whole in (scene.width, scene.height))
        col, row = (scene.width - width) // 2, (scene.height - height) // 2
        with rasterio.open(path, "w", **profile_of(scene, codec, width, height)) as copy:
            for top in range(0, height, BLOCK):
                rows = min(BLOCK, height - top)
                copy.write(scene.read(window=Window(col, row + top, width, rows)), window=Window(0, top, width, rows))
    return path


def repeated(source: Path, path: Path, across: int, down: int) -> Path:
    """A scene as often as asked for side by side and below itself, one row of blocks at a time; every pixel valid.

    Drawing as much would take much longer. The scene's sides must be multiples of 512.
    """
    with rasterio.open(source) as scene:
        width, height = across * scene.width, down * scene.height
        with rasterio.open(path, "w", **profile_of(scene, "JPEG", width, height)) as copy:
            for top in range(0, height, BLOCK):
                rows = scene.read(window=Window(0, top % scene.height, scene.width, BLOCK))
                copy.write(np.tile(rows, (1, 1, across)), window=Window(0, top, width, BLOCK))
    return path
