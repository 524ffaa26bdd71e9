"""Regions of which only points can be asked: where something holds, and polygons some of whose corners are lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import shapely

from geosod.arrays import BoolArray, FloatArray

#: Points asked along each side at first, and where they disagree.
COARSE, FINE = 65, 257
#: Corners on the border of a region lie this far inside it, in units of the rectangle, so that rounding leaves them in.
_MARGIN = 1e-4
_HALVINGS = 40

Predicate = Callable[[FloatArray], BoolArray]


def region_where(inside: Predicate, x0: float, y0: float, x1: float, y1: float) -> Any:
    """Outline of the part of a rectangle where `inside` holds.

    Marching squares on a lattice (Lorensen and Cline 1987, in the plane), each crossing of a lattice line halved
    down to rounding. Parts, and holes, that pass between all points of the lattice are not seen.

    Args:
        inside: (N, 2) points → (N,) bool.
        x0, y0, x1, y1: the rectangle.

    Returns:
        A Polygon or MultiPolygon; the rectangle itself where every point of a coarse lattice is inside, and an
        empty one where no point of a fine one is.
    """
    xs, ys, flags = _lattice(inside, (x0, y0, x1, y1), COARSE)
    if flags.all():
        return shapely.box(x0, y0, x1, y1)
    xs, ys, flags = _lattice(inside, (x0, y0, x1, y1), FINE)
    if not flags.any():
        return shapely.Polygon()
    cells = np.concatenate([_full_cells(xs, ys, flags), _mixed_cells(inside, xs, ys, flags)])
    return shapely.simplify(shapely.union_all(cells), 0.0)


def _lattice(
    inside: Predicate, bounds: tuple[float, float, float, float], n: int
) -> tuple[FloatArray, FloatArray, BoolArray]:
    xs, ys = np.linspace(bounds[0], bounds[2], n), np.linspace(bounds[1], bounds[3], n)
    return xs, ys, inside(np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)).reshape(n, n)


def _full_cells(xs: FloatArray, ys: FloatArray, flags: BoolArray) -> Any:
    """Runs of cells whose four corners are inside, one box a run."""
    full = flags[:-1, :-1] & flags[:-1, 1:] & flags[1:, :-1] & flags[1:, 1:]
    steps = np.diff(np.pad(full, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (rows, first), (_, last) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    return shapely.box(xs[first], ys[rows], xs[last], ys[rows + 1])


def _mixed_cells(inside: Predicate, xs: FloatArray, ys: FloatArray, flags: BoolArray) -> Any:
    """What of each other cell is inside: its corners there, and where its edges cross the border."""
    points = np.stack(np.meshgrid(xs, ys), axis=-1)
    across = _crossings(inside, points[:, :-1], points[:, 1:], flags[:, :-1], flags[:, 1:])
    down = _crossings(inside, points[:-1], points[1:], flags[:-1], flags[1:])
    parts = [flags[:-1, :-1], flags[:-1, 1:], flags[1:, 1:], flags[1:, :-1]]
    count = np.sum(parts, axis=0)
    rows, cols = np.nonzero((count > 0) & (count < 4))
    ring = [
        points[rows, cols], across[rows, cols], points[rows, cols + 1], down[rows, cols + 1],
        points[rows + 1, cols + 1], across[rows + 1, cols], points[rows + 1, cols], down[rows, cols],
    ]  # fmt: skip
    corners = np.stack([part[rows, cols] for part in parts], axis=1)
    vertices = np.stack(ring, axis=1)
    used: BoolArray = np.asarray(np.isfinite(vertices).all(axis=2))
    used[:, ::2] &= corners
    owner = np.nonzero(used)[0]
    return shapely.polygons(shapely.linearrings(vertices[used], indices=owner))


def _crossings(
    inside: Predicate, first: FloatArray, second: FloatArray, first_in: BoolArray, second_in: BoolArray
) -> FloatArray:
    """The last point inside on each lattice edge whose ends disagree; NaN on the others. Shape as `first`."""
    out = np.full(first.shape, np.nan)
    mixed = first_in != second_in
    start = np.where(first_in[..., None], first, second)[mixed]
    end = np.where(first_in[..., None], second, first)[mixed]
    low, high = np.zeros(len(start)), np.ones(len(start))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        holds = inside(start + (end - start) * middle[:, None])
        low, high = np.where(holds, middle, low), np.where(holds, high, middle)
    length = np.abs(end - start).sum(axis=1)
    low = np.maximum(low - _MARGIN / np.maximum(length, _MARGIN), 0)
    out[mixed] = start + (end - start) * low[:, None]
    return out


def with_corners(polygons: Any, xy: FloatArray, keep: BoolArray) -> Any:
    """Polygons whose corners have moved, and some have gone.

    Args:
        polygons: (N,) object array of Polygons.
        xy: (M, 2) float64, where their corners are now, in the order of `shapely.get_coordinates`.
        keep: (M,) bool, False for those that have gone.

    Returns:
        (N,) object array of valid geometries; one without three corners left is empty.
    """
    out = shapely.set_coordinates(np.array(polygons, object).reshape(-1), np.where(keep[:, None], xy, 0.0))
    counts = shapely.get_num_coordinates(out)
    ends = np.cumsum(counts)
    for i in np.flatnonzero(~np.logical_and.reduceat(keep, ends - counts)) if len(out) else ():
        rings = [out[i].exterior, *out[i].interiors]
        kept = np.split(keep[ends[i] - counts[i] : ends[i]], np.cumsum(shapely.get_num_coordinates(rings))[:-1])
        left = [shapely.get_coordinates(ring)[k] for ring, k in zip(rings, kept, strict=True)]
        shells = [shapely.make_valid(shapely.Polygon(ring)) if len(ring) > 2 else shapely.Polygon() for ring in left]
        out[i] = shapely.difference(shells[0], shapely.union_all(shells[1:]))
    return shapely.make_valid(out)
