"""Outlines as polygons: of equal codes in a grid, of the region where a predicate holds, and their parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine
from rasterio.features import shapes

from geosod.arrays import BoolArray, FloatArray, paired

#: Sample points along each side of a rectangle: at first, and where those disagree.
COARSE, FINE = 65, 257
#: Vertices on the border of a region are moved inwards by this length, so that rounding leaves them inside.
_MARGIN = 1e-4
_BISECTIONS = 40
#: Where a scene is so small that more samples would be closer than this many pixels, fewer are taken.
_PIXELS_A_SAMPLE = 16
_IDENTITY = Affine.identity()

Geometries = npt.NDArray[Any]
Codes = npt.NDArray[np.uint8]
Predicate = Callable[[FloatArray], BoolArray]


def code_outlines(
    codes: Codes, *, mask: BoolArray | None = None, transform: Affine = _IDENTITY, limit: int | None = None
) -> tuple[Geometries, Codes]:
    """One polygon for every 4-connected region of equal code.

    Args:
        codes: (rows, cols) uint8.
        mask: (rows, cols) bool, the cells to use; None uses all.
        transform: from cells, (0, 0) the top-left corner and x along columns, to the coordinates of the polygons.
        limit: maximum number of polygons.

    Returns:
        (K,) object array of valid shapely Polygons, shells counter-clockwise, and (K,) uint8, the code of each.
    """
    if mask is None and transform == _IDENTITY and codes.size and (codes == codes.flat[0]).all():
        # Most small scenes are of one code, and GDAL takes longer to start than numpy to find that out.
        rows, cols = codes.shape
        whole = shapely.Polygon([(0, 0), (cols, 0), (cols, rows), (0, rows)])
        return np.array([whole], object), codes.reshape(-1)[:1]
    found = list(islice(shapes(codes, mask=mask, connectivity=4, transform=transform), limit))
    polygons = np.empty(len(found), object)
    polygons[:] = [shapely.Polygon(rings[0], rings[1:]) for rings in (outline["coordinates"] for outline, _ in found)]
    return np.asarray(shapely.orient_polygons(polygons), object), np.array([code for _, code in found], np.uint8)


def samples(width: float, height: float, most: int) -> int:
    """How many samples along a side of a scene are as many as one every 16 pixels; from 9 to `most`, 2^k + 1.

    Lattices of such numbers are parts of each other, and have the centre of the scene.
    """
    spans = max(width, height) / _PIXELS_A_SAMPLE
    return min(most, max(8, 1 << max(0, math.ceil(math.log2(spans)))) + 1)


def lattice(xs: FloatArray, ys: FloatArray) -> FloatArray:
    """(N, 2) points at every combination of x and y, row by row."""
    return paired(np.tile(xs, len(ys)), np.repeat(ys, len(xs)))


def region_where(inside: Predicate, x0: float, y0: float, x1: float, y1: float) -> Any:
    """Outline of the part of a rectangle where a predicate holds.

    Marching squares on a lattice (Lorensen and Cline 1987, in the plane); the crossing of each lattice edge is found
    by bisection. Parts and holes between the points of the lattice are missed.

    Args:
        inside: the predicate, (N, 2) float64 points → (N,) bool.
        x0, y0, x1, y1: the rectangle.

    Returns:
        A Polygon or MultiPolygon; the rectangle itself where every point of a coarse lattice is inside, an empty
        polygon where no point of a fine lattice is.
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
    return xs, ys, inside(lattice(xs, ys)).reshape(n, n)


def _full_cells(xs: FloatArray, ys: FloatArray, flags: BoolArray) -> Any:
    """Runs of cells whose four corners are inside, one box for each run."""
    full = flags[:-1, :-1] & flags[:-1, 1:] & flags[1:, :-1] & flags[1:, 1:]
    steps = np.diff(np.pad(full, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (rows, first), (_, last) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    return shapely.box(xs[first], ys[rows], xs[last], ys[rows + 1])


def _mixed_cells(inside: Predicate, xs: FloatArray, ys: FloatArray, flags: BoolArray) -> Any:
    """The part of each other cell that is inside: its corners inside, and the crossings of its edges."""
    nodes = np.stack(np.meshgrid(xs, ys), axis=-1)
    across = _crossings(inside, nodes[:, :-1], nodes[:, 1:], flags[:, :-1], flags[:, 1:])
    down = _crossings(inside, nodes[:-1], nodes[1:], flags[:-1], flags[1:])
    parts = [flags[:-1, :-1], flags[:-1, 1:], flags[1:, 1:], flags[1:, :-1]]
    count = np.sum(parts, axis=0)
    rows, cols = np.nonzero((count > 0) & (count < 4))
    ring = [
        nodes[rows, cols], across[rows, cols], nodes[rows, cols + 1], down[rows, cols + 1],
        nodes[rows + 1, cols + 1], across[rows + 1, cols], nodes[rows + 1, cols], down[rows, cols],
    ]  # fmt: skip
    corners = np.stack([part[rows, cols] for part in parts], axis=1)
    vertices = np.stack(ring, axis=1)
    used: BoolArray = np.asarray(np.isfinite(vertices).all(axis=2))
    used[:, ::2] &= corners
    return shapely.polygons(shapely.linearrings(vertices[used], indices=np.nonzero(used)[0]))


def _crossings(
    inside: Predicate, first: FloatArray, second: FloatArray, first_in: BoolArray, second_in: BoolArray
) -> FloatArray:
    """The last point inside on each lattice edge whose ends differ; NaN on the others. Shape as `first`."""
    out = np.full(first.shape, np.nan)
    mixed = first_in != second_in
    start = np.where(first_in[..., None], first, second)[mixed]
    end = np.where(first_in[..., None], second, first)[mixed]
    low, high = np.zeros(len(start)), np.ones(len(start))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        holds = inside(start + (end - start) * middle[:, None])
        low, high = np.where(holds, middle, low), np.where(holds, high, middle)
    length = np.abs(end - start).sum(axis=1)
    low = np.maximum(low - _MARGIN / np.maximum(length, _MARGIN), 0)
    out[mixed] = start + (end - start) * low[:, None]
    return out


def with_vertices(polygons: Any, xy: FloatArray, keep: BoolArray) -> Any:
    """Replace the vertices of polygons, and remove some of them.

    Args:
        polygons: (N,) object array of Polygons.
        xy: (M, 2) float64, the new vertices in the order of `shapely.get_coordinates`.
        keep: (M,) bool, False for vertices to remove.

    Returns:
        (N,) object array of valid geometries; empty where fewer than three vertices are left.
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


def polygon_rings(polygons: Any) -> tuple[FloatArray, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The vertices of polygons; the same as `shapely.to_ragged_array`, which takes several times as long for a few.

    Args:
        polygons: (N,) Polygons, none of them empty.

    Returns:
        (M, 2) vertices, (R + 1,) offsets of the rings into them, and (N + 1,) offsets of the polygons into the rings.
    """
    rings = shapely.get_rings(polygons)
    counts = shapely.get_num_coordinates(rings), shapely.get_num_interior_rings(polygons) + 1
    ring_offsets, offsets = (np.concatenate([[0], np.cumsum(count)]) for count in counts)
    return shapely.get_coordinates(rings), ring_offsets, offsets


def polygon_parts(geometries: Any, *, min_area: float = 0.0) -> tuple[Geometries, npt.NDArray[np.int64]]:
    """The polygons of geometries of any type.

    Args:
        geometries: one geometry or (N,) of them.
        min_area: polygons of this area or less are dropped.

    Returns:
        (M,) Polygons, and (M,) int64, the index of the geometry that each is a part of.
    """
    parts, first = shapely.get_parts(np.asarray(geometries, object).reshape(-1), return_index=True)
    # A collection may hold multi-part geometries.
    parts, second = shapely.get_parts(parts, return_index=True)
    kept = (shapely.get_type_id(parts) == shapely.GeometryType.POLYGON) & (shapely.area(parts) > min_area)
    return np.asarray(parts[kept], object), first[second[kept]]
