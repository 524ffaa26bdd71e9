"""Where the pixels of a large raster are sampled."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from geosod.arrays import FloatArray
from geosod.scene import Window


def patches(width: int, height: int, *, count: int, side: int) -> Iterator[Window]:
    """A lattice of `count` × `count` windows, each in the middle of an equal part of a raster; fewer of a small one."""

    def starts(size: int) -> FloatArray:
        middles = (np.arange(count) + 0.5) * size / count
        return np.unique((middles - side / 2).clip(0, max(0, size - side)).round())

    for row in starts(height):
        for col in starts(width):
            yield Window(int(col), int(row), min(side, width), min(side, height))
