"""How much area do pairs of polygons share?"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from geosod.arrays import BoolArray, FloatArray, IntArray

Geometries = npt.NDArray[Any]
#: Fraction of a quarter circle; from this latitude on, areas of polygons in degrees are taken on a map about the pole.
_POLAR = 80 / 90
#: Polygons, or pairs of them, that are from_wkb at a time.
_BATCH = 65_536


class Overlap(NamedTuple):
    """Areas of pairs of polygons, (M,) float64 each: the shared area, and the area of either; all on one map."""

    shared: FloatArray
    first: FloatArray
    second: FloatArray


def part_bounds(wkb: pa.Array, bounds: FloatArray, count: npt.NDArray[np.int32]) -> tuple[FloatArray, IntArray]:
    """Bounds of the parts of geometries.

    A polygon that is split at the antimeridian is compared part by part. All are split at the same line, so the areas
    that the parts of two polygons share add up to the area that the polygons share.

    Args:
        wkb: (N,) Polygons and MultiPolygons.
        bounds: (N, 4) float64, their bounds.
        count: (N,) int32, number of their parts.

    Returns:
        (P, 4) float64 ``xmin, ymin, xmax, ymax``, and (P,) int64, the geometry that each part belongs to.
    """
    single, split = np.flatnonzero(count == 1), np.flatnonzero(count != 1)
    parts, index = shapely.get_parts(from_wkb(wkb.take(pa.array(split))), return_index=True)
    return np.concatenate([bounds[single], shapely.bounds(parts).reshape(-1, 4)]), np.concatenate(
        [single, split[index]]
    )


def from_wkb(wkb: pa.Array) -> Geometries:
    """(N,) geometries."""
    return np.asarray(shapely.from_wkb(wkb.to_numpy(zero_copy_only=False)), object).reshape(-1)


def areas_and_parts(wkb: pa.Array) -> tuple[FloatArray, npt.NDArray[np.int32]]:
    """(N,) float64, areas in the plane of the CRS, and (N,) int32, numbers of parts; decoded in batches."""
    areas, count = np.empty(len(wkb)), np.empty(len(wkb), np.int32)
    for begin in range(0, len(wkb), _BATCH):
        shapes = from_wkb(wkb.slice(begin, _BATCH))
        areas[begin : begin + _BATCH] = shapely.area(_valid(shapes))
        count[begin : begin + _BATCH] = shapely.get_num_geometries(shapes)
    return areas, count


def near_pole(bounds: FloatArray, full_circle: float | None) -> BoolArray:
    """Which of (N, 4) bounds reach so near a pole that areas are taken on a map about it; (N,) bool."""
    if full_circle is None:
        return np.zeros(len(bounds), np.bool_)
    return np.asarray(np.maximum(np.abs(bounds[:, 1]), np.abs(bounds[:, 3])) >= _POLAR * full_circle / 4, np.bool_)


def shared_areas(wkb: pa.Array, a: IntArray, b: IntArray, *, full_circle: float | None) -> Overlap:
    """The areas of pairs, decoded in batches.

    Args:
        wkb: (N,) Polygons and MultiPolygons; invalid ones are fixed.
        a, b: (M,) int64, indices into `wkb`.
        full_circle: 360° in units of the CRS if it is geographic, else None.
    """
    out = Overlap(*(np.empty(len(a)) for _ in range(3)))
    for begin in range(0, len(a), _BATCH):
        batch = slice(begin, begin + _BATCH)
        used, index = np.unique(np.concatenate([a[batch], b[batch]]), return_inverse=True)
        shapes, half = from_wkb(wkb.take(pa.array(used))), len(index) // 2
        for column, values in zip(out, _areas(shapes, index[:half], index[half:], full_circle), strict=True):
            column[batch] = values
    return out


def _areas(shapes: Geometries, a: IntArray, b: IntArray, full_circle: float | None) -> Overlap:
    near = near_pole(shapely.bounds(shapes).reshape(-1, 4), full_circle)
    polar = near[a] | near[b]
    if full_circle is None or not polar.any():
        return _plane_areas(shapes, a, b)
    out = Overlap(*(np.empty(len(a)) for _ in range(3)))
    north = _is_north(shapes, a)
    for side, chosen in ((0, ~polar), (1, polar & north), (-1, polar & ~north)):
        if not chosen.any():
            continue
        used, index = np.unique(np.concatenate([a[chosen], b[chosen]]), return_inverse=True)
        maps, half = _polar_maps(shapes[used], full_circle, side) if side else shapes[used], len(index) // 2
        for column, values in zip(out, _plane_areas(maps, index[:half], index[half:]), strict=True):
            column[chosen] = values
    return out


def _is_north(shapes: Geometries, index: IntArray) -> BoolArray:
    bounds = shapely.bounds(shapes[index]).reshape(-1, 4)
    return np.asarray(bounds[:, 1] + bounds[:, 3] > 0, np.bool_)


def _polar_maps(shapes: Geometries, full_circle: float, side: int) -> Geometries:
    """Polygons in degrees, projected to a map about a pole; those split at the antimeridian are made whole again.

    Vertices that the split inserted lie on lines that are straight in degrees but not on this map (except at the
    pole). They are removed, which leaves the four corners.
    """
    maps = shapely.transform(shapes, partial(_about_pole, full_circle=full_circle, side=side))
    xy, polygon = shapely.get_coordinates(shapes, return_index=True)
    line = full_circle / 2
    for i in np.intersect1d(polygon[xy[:, 0] == line], polygon[xy[:, 0] == -line]):
        own = xy[polygon == i]
        inserted = (np.abs(own[:, 0]) == line) | (np.abs(own[:, 1]) == full_circle / 4)
        corners = np.unique(own[~inserted], axis=0)
        corners = corners if len(corners) >= 4 else own
        maps[i] = shapely.convex_hull(shapely.multipoints(_about_pole(corners, full_circle=full_circle, side=side)))
    return maps


def _about_pole(xy: FloatArray, *, full_circle: float, side: int) -> FloatArray:
    """Longitudes and latitudes on the azimuthal equidistant map about the north (1) or south (-1) pole."""
    distance, angle = full_circle / 4 - side * xy[:, 1], xy[:, 0] * (2 * np.pi / full_circle)
    return np.stack([distance * np.sin(angle), distance * np.cos(angle)], axis=1)


def _plane_areas(shapes: Geometries, a: IntArray, b: IntArray) -> Overlap:
    valid = _valid(shapes)
    areas = shapely.area(valid)
    return Overlap(shapely.area(shapely.intersection(valid[a], valid[b])), areas[a], areas[b])


def _valid(shapes: Geometries) -> Geometries:
    invalid = ~shapely.is_valid(shapes)
    fixed = np.array(shapes, object)
    # On a map about the pole, rings that run to the pole and back and parts that touch at the antimeridian are invalid.
    fixed[invalid] = shapely.make_valid(fixed[invalid], method="structure", keep_collapsed=False)
    return fixed
