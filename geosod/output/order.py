"""The order of rows in a file: along a Hilbert curve over the scene."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from geosod.arrays import FloatArray
from geosod.detections import Detections
from geosod.errors import ConfigError
from geosod.output.parts import by_part
from geosod.scene import Scene

#: Bits of each coordinate on the curve.
_LEVEL = 16
#: A row and its distance in one integer, which sorts by distance.
_KEY = np.dtype([("row", "<u4"), ("distance", "<u4")])


def row_order(scene: Scene, detections: Detections) -> npt.NDArray[np.uint32]:
    """(N,) uint32, the order of rows in a file: along a Hilbert curve, ties by `Detections.canonical_order`.

    It depends on the set of boxes, not on their order. The curve is in pixels, so that no projection interrupts it.

    Raises:
        ConfigError: there are 2^32 boxes or more.
    """
    n, boxes = len(detections), detections.boxes
    if n >= 1 << 32:
        raise ConfigError(f"scene {scene.id!r} has {n} boxes; a file holds fewer than 2^32")
    size = np.array([scene.width, scene.height], np.float64)
    keys = np.empty(n, "<u8")
    named = keys.view(_KEY)

    def fill(part: slice) -> None:
        centres = np.clip((boxes[part, :2] + boxes[part, 2:]) / 2, 0, size)
        named["distance"][part] = hilbert_distance(centres * (((1 << _LEVEL) - 1) / size))
        named["row"][part] = np.arange(part.start, part.stop)

    for _ in by_part(fill, n):
        pass
    keys.sort()
    order = named["row"].copy()
    first = np.flatnonzero(named["distance"][1:] == named["distance"][:-1])
    tied = np.union1d(first, first + 1)
    if len(tied):
        rows, distance = order[tied], named["distance"][tied]
        canonical = np.empty(len(rows), np.int64)
        canonical[detections[rows].canonical_order()] = np.arange(len(rows))
        order[tied] = rows[np.lexsort((canonical, distance))]
    return order


def hilbert_distance(xy: FloatArray) -> npt.NDArray[np.uint32]:
    """Distance along a Hilbert curve (Hilbert 1891) over a square of 2^16 cells a side.

    The same as `geopandas.GeoSeries.hilbert_distance`, without a geometry object for each point.

    Args:
        xy: (N, 2) float64 from 0 to 2^16 - 1.

    Returns:
        (N,) uint32.
    """
    x, y = xy.astype(np.uint32).T
    distance = np.zeros(len(x), np.uint32)
    for bit in range(_LEVEL - 1, -1, -1):
        right, up = (x >> bit) & 1, (y >> bit) & 1
        distance = (distance << 2) | ((3 * right) ^ up)
        # The two lower quadrants hold the curve mirrored at a diagonal.
        mirrored = (right & ~up & 1) * np.uint32((1 << _LEVEL) - 1)
        x, y = x ^ mirrored, y ^ mirrored
        exchanged = (x ^ y) * (up ^ 1)
        x, y = x ^ exchanged, y ^ exchanged
    return distance
