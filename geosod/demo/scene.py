"""The demo scene as a file on disk, with its ground truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from affine import Affine

from geosod.arrays import BoolArray, FloatArray
from geosod.demo.cog import BLOCK, write_cog
from geosod.demo.layout import CLASSES, Layout, make_layout
from geosod.demo.render import render
from geosod.scene import Window

#: Ground sample distance in metres.
GSD = 0.5

#: UTM zone 31 north; the scene's corner lies in the North Sea, far from any coast.
CRS = "EPSG:32631"
ORIGIN = (480_000.0, 6_020_000.0)

#: Minimum width of the part of a strip that one thread draws, in pixels.
_MIN_WIDTH = 2048

_Pixels = tuple[npt.NDArray[np.uint8], BoolArray]


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Every object of a demo scene.

    Attributes:
        boxes: (N, 4) float64 ``x0, y0, x1, y1``, scene frame.
        labels: (N,) int32, index into `classes`.
        classes: names of the classes.
        crs: CRS of the scene, as ``EPSG:<code>``.
        transform: scene frame → CRS coordinates.
    """

    boxes: FloatArray
    labels: npt.NDArray[np.int32]
    classes: tuple[str, ...]
    crs: str
    transform: Affine


def truth_of(layout: Layout) -> Truth:
    """The ground truth of the scene that `write_scene` writes for a layout."""
    transform = Affine(GSD, 0.0, ORIGIN[0], 0.0, -GSD, ORIGIN[1])
    return Truth(layout.boxes, layout.labels, CLASSES, CRS, transform)


def write_scene(
    path: str | Path,
    *,
    size: int,
    seed: int,
    threads: int = 2,
    progress: Callable[[float], None] | None = None,
) -> Truth:
    """Draw a demo scene and write it as a COG.

    Memory is bounded by a few strips of 512 rows, whatever the size.

    Args:
        path: the file; an existing one is replaced.
        size: width and height in pixels, at least 1024.
        seed: selects the scene.
        threads: threads that draw and compress.
        progress: called with the fraction of the scene that is drawn, 0 to 1.

    Raises:
        ConfigError: the size or the seed is out of range.
        OutputError: the file cannot be written.
    """
    layout = make_layout(size, seed)
    truth = truth_of(layout)
    strips = _strips(layout, threads=threads, progress=progress)
    write_cog(path, width=size, height=size, crs=truth.crs, transform=truth.transform, strips=strips, threads=threads)
    return truth


def _strips(layout: Layout, *, threads: int, progress: Callable[[float], None] | None) -> Iterator[_Pixels]:
    """The scene from top to bottom; the next strip is drawn while one is being written."""
    rows = [Window(0, row, layout.size, min(BLOCK, layout.size - row)) for row in range(0, layout.size, BLOCK)]
    with ThreadPoolExecutor(threads) as pool:
        ahead = _start(pool, layout, rows[0], threads)
        for k, window in enumerate(rows):
            parts = [job.result() for job in ahead]
            ahead = _start(pool, layout, rows[k + 1], threads) if k + 1 < len(rows) else []
            yield np.concatenate([p for p, _ in parts], axis=2), np.concatenate([v for _, v in parts], axis=1)
            if progress is not None:
                progress(window.bottom / layout.size)


def _start(pool: ThreadPoolExecutor, layout: Layout, window: Window, threads: int) -> list[Future[_Pixels]]:
    """Start drawing a strip, in parts of at least `_MIN_WIDTH` columns."""
    wide = max(_MIN_WIDTH, math.ceil(window.width / (4 * threads) / BLOCK) * BLOCK)
    parts = [
        Window(col, window.row, min(wide, window.right - col), window.height)
        for col in range(window.col, window.right, wide)
    ]
    return [pool.submit(render, layout, part) for part in parts]
