"""Boxes as the geometry columns of a file, without making a geometry object of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geosod.arrays import BoolArray, FloatArray, paired
from geosod.georeference.crs import full_circle, horizontal_crs, radius
from geosod.georeference.points import project
from geosod.georeference.polygons import ground_polygons
from geosod.output.geoparquet import BBOX_TYPE, geometry_columns
from geosod.scene import Scene

#: A polygon of one ring of five points as WKB: little-endian, type 3, one ring, five points.
_WKB = np.dtype([("order", "u1"), ("type", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("xy", "<f8", (5, 2))])


def box_columns(scene: Scene, boxes: FloatArray, crs: str | None) -> tuple[pa.Array, pa.Array]:
    """Boxes as a WKB column and a bounding box column.

    The same as `geometry_columns` of `ground_polygons`, which makes those that cross an edge of the map or whose
    corners do not form a convex ring there.

    Args:
        scene: where the boxes are.
        boxes: (N, 4) float64 ``x0, y0, x1, y1``, scene frame; all `placed` where there is a CRS.
        crs: of the geometries; None leaves them in the scene frame.

    Returns:
        ``geometry`` (binary) and ``bbox`` (struct of float64), N rows each.

    Raises:
        SceneError: as `project`.
    """
    x0, y0, x1, y1 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    # The order in which shapely goes around a box.
    x, y = np.stack([x1, x1, x0, x0]), np.stack([y0, y1, y1, y0])
    if crs is None:
        return _quadrilaterals(x, y)
    x, y = np.ascontiguousarray(project(scene, paired(x.ravel(), y.ravel()), crs).T).reshape(2, 4, -1)
    turns = _turns(x, y)
    clockwise = (turns < 0).all(axis=0)
    x[1], x[3] = np.where(clockwise, x[3], x[1]), np.where(clockwise, x[1], x[3])
    y[1], y[3] = np.where(clockwise, y[3], y[1]), np.where(clockwise, y[1], y[3])
    plain = (clockwise | (turns > 0).all(axis=0)) & _in_one_piece(x, y, crs)
    if plain.all():
        return _quadrilaterals(x, y)
    wkb, bbox = _quadrilaterals(x[:, plain], y[:, plain])
    others = geometry_columns(ground_polygons(scene, boxes[~plain], crs))
    order = np.empty(len(plain), np.int64)
    order[plain], order[~plain] = np.arange(plain.sum()), plain.sum() + np.arange((~plain).sum())
    return pa.concat_arrays([wkb, others[0]]).take(order), pa.concat_arrays([bbox, others[1]]).take(order)


def _edges(corners: FloatArray) -> FloatArray:
    """(4, N) of the corners of N rings → (4, N), from each to the next."""
    return np.asarray(np.roll(corners, -1, axis=0) - corners)


def _turns(x: FloatArray, y: FloatArray) -> FloatArray:
    """(4, N), twice the area to the left of each corner's turn; all of one sign where a ring is convex."""
    after_x, after_y = _edges(x), _edges(y)
    return np.asarray(np.roll(after_x, 1, axis=0) * after_y - np.roll(after_y, 1, axis=0) * after_x)


def _in_one_piece(x: FloatArray, y: FloatArray, crs: str) -> BoolArray:
    """(N,) bool, which of the rings (4, N) lie on the map and do not cross its edge."""
    target = horizontal_crs(crs)
    across = np.abs(_edges(x)).max(axis=0)
    if target.is_geographic:
        half = full_circle(target) / 2
        return np.asarray(
            (across < half / 2) & (np.abs(x).max(axis=0) <= half) & (np.abs(y).max(axis=0) <= half / 2), np.bool_
        )
    limit = np.pi / 2 * radius(crs) / target.axis_info[0].unit_conversion_factor
    return np.asarray((across < limit / 2) & (np.abs(_edges(y)).max(axis=0) < limit / 2), np.bool_)


def _quadrilaterals(x: FloatArray, y: FloatArray) -> tuple[pa.Array, pa.Array]:
    """Convex rings, counter-clockwise and open, as columns; `x` and `y` of their corners are (4, N)."""
    n = x.shape[1]
    records: npt.NDArray[Any] = np.empty(n, _WKB)
    records["order"], records["type"], records["rings"], records["points"] = 1, 3, 1, 5
    for corner in range(5):
        records["xy"][:, corner, 0], records["xy"][:, corner, 1] = x[corner % 4], y[corner % 4]
    offsets = np.arange(n + 1, dtype=np.int32) * np.int32(_WKB.itemsize)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(records.view(np.uint8))]
    columns = [pa.array(c) for c in (x.min(axis=0), y.min(axis=0), x.max(axis=0), y.max(axis=0))]
    wkb = pa.BinaryArray.from_buffers(pa.binary(), n, buffers)
    return wkb, pa.StructArray.from_arrays(columns, fields=list(BBOX_TYPE))
