"""Boxes as the geometry columns of a file, without making a geometry object of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geosod.arrays import BoolArray, FloatArray
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
    ring = np.stack([np.stack(p, axis=1) for p in ((x1, y0), (x1, y1), (x0, y1), (x0, y0))], axis=1)
    if crs is None:
        return _quadrilaterals(ring)
    ring = project(scene, ring.reshape(-1, 2), crs).reshape(-1, 4, 2)
    turns = _turns(ring)
    clockwise = (turns < 0).all(axis=1)
    ring[clockwise, 1:] = ring[clockwise, :0:-1]
    plain = (clockwise | (turns > 0).all(axis=1)) & _in_one_piece(ring, crs)
    wkb, bbox = _quadrilaterals(ring[plain])
    if plain.all():
        return wkb, bbox
    others = geometry_columns(ground_polygons(scene, boxes[~plain], crs))
    order = np.empty(len(ring), np.int64)
    order[plain], order[~plain] = np.arange(plain.sum()), plain.sum() + np.arange((~plain).sum())
    return pa.concat_arrays([wkb, others[0]]).take(order), pa.concat_arrays([bbox, others[1]]).take(order)


def _turns(ring: FloatArray) -> FloatArray:
    """(N, 4), twice the area to the left of each corner's turn; all of one sign where a ring is convex."""
    before, after = ring - np.roll(ring, 1, axis=1), np.roll(ring, -1, axis=1) - ring
    return np.asarray(before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0])


def _in_one_piece(ring: FloatArray, crs: str) -> BoolArray:
    """(N,) bool, which rings lie on the map and do not cross its edge."""
    target = horizontal_crs(crs)
    edge = np.abs(np.roll(ring, -1, axis=1) - ring)
    if target.is_geographic:
        half = full_circle(target) / 2
        inside = (np.abs(ring) <= (half, half / 2)).all(axis=(1, 2))
        return np.asarray(inside & (edge[..., 0] < half / 2).all(axis=1))
    limit = np.pi / 2 * radius(crs) / target.axis_info[0].unit_conversion_factor
    return np.asarray((edge < limit / 2).all(axis=(1, 2)))


def _quadrilaterals(ring: FloatArray) -> tuple[pa.Array, pa.Array]:
    """Convex rings (N, 4, 2), counter-clockwise and open, as columns."""
    n = len(ring)
    records: npt.NDArray[Any] = np.empty(n, _WKB)
    records["order"], records["type"], records["rings"], records["points"] = 1, 3, 1, 5
    records["xy"][:, :4], records["xy"][:, 4] = ring, ring[:, 0]
    offsets = np.arange(n + 1, dtype=np.int32) * np.int32(_WKB.itemsize)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(records.view(np.uint8))]
    low, high = ring.min(axis=1), ring.max(axis=1)
    columns = [pa.array(np.ascontiguousarray(c)) for c in (*low.T, *high.T)]
    wkb = pa.BinaryArray.from_buffers(pa.binary(), n, buffers)
    return wkb, pa.StructArray.from_arrays(columns, fields=list(BBOX_TYPE))
