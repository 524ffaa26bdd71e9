"""How much area polygons share, in pairs."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from geosod.arrays import BoolArray, FloatArray, IntArray

Geometries = npt.NDArray[Any]
#: Share of a quarter turn; from this latitude on, degrees are measured on a map about the pole.
_POLAR = 80 / 90
#: Shapes, and pairs of them, that are held as geometries at a time.
_BATCH = 65_536


class Overlap(NamedTuple):
    """Areas of pairs: what both share, and of each; (M,) float64, all three on one map."""

    shared: FloatArray
    first: FloatArray
    second: FloatArray


def parts_of(wkb: pa.Array, bounds: FloatArray, count: npt.NDArray[np.int32]) -> tuple[FloatArray, IntArray]:
    """Bounds of the parts of shapes.

    A polygon that is split at the antimeridian is looked at part by part. Both of two such polygons are split at one
    line, so the areas that their parts share add up to that of the whole.

    Args:
        wkb: (N,) Polygons and MultiPolygons.
        bounds: (N, 4) float64, theirs.
        count: (N,) number of their parts.

    Returns:
        (P, 4) float64 ``xmin, ymin, xmax, ymax``, and (P,) int64, the shape that each part is of.
    """
    single, split = np.flatnonzero(count == 1), np.flatnonzero(count != 1)
    parts, index = shapely.get_parts(decoded(wkb.take(pa.array(split))), return_index=True)
    return np.concatenate([bounds[single], shapely.bounds(parts).reshape(-1, 4)]), np.concatenate(
        [single, split[index]]
    )


def decoded(wkb: pa.Array) -> Geometries:
    """(N,) geometries."""
    return np.asarray(shapely.from_wkb(wkb.to_numpy(zero_copy_only=False)), object).reshape(-1)


def areas_and_parts(wkb: pa.Array) -> tuple[FloatArray, npt.NDArray[np.int32]]:
    """(N,) float64, areas in the plane, and (N,) int32, how many parts there are; some shapes at a time."""
    areas, count = np.empty(len(wkb)), np.empty(len(wkb), np.int32)
    for begin in range(0, len(wkb), _BATCH):
        shapes = decoded(wkb.slice(begin, _BATCH))
        areas[begin : begin + _BATCH] = shapely.area(_valid(shapes))
        count[begin : begin + _BATCH] = shapely.get_num_geometries(shapes)
    return areas, count


def near_pole(bounds: FloatArray, turn: float | None) -> BoolArray:
    """Which of (N, 4) bounds reach so near a pole that degrees are measured on a map about it."""
    if turn is None:
        return np.zeros(len(bounds), np.bool_)
    return np.asarray(np.maximum(np.abs(bounds[:, 1]), np.abs(bounds[:, 3])) >= _POLAR * turn / 4, np.bool_)


def shared_areas(wkb: pa.Array, a: IntArray, b: IntArray, *, turn: float | None) -> Overlap:
    """The areas of pairs, some of which are in memory as geometries at a time.

    Args:
        wkb: (N,) Polygons and MultiPolygons; those that are not valid are mended.
        a, b: (M,) int64.
        turn: units of a full turn where the CRS is geographic, else None.
    """
    out = Overlap(*(np.empty(len(a)) for _ in range(3)))
    for begin in range(0, len(a), _BATCH):
        some = slice(begin, begin + _BATCH)
        used, index = np.unique(np.concatenate([a[some], b[some]]), return_inverse=True)
        shapes, half = decoded(wkb.take(pa.array(used))), len(index) // 2
        for column, values in zip(out, _areas(shapes, index[:half], index[half:], turn), strict=True):
            column[some] = values
    return out


def _areas(shapes: Geometries, a: IntArray, b: IntArray, turn: float | None) -> Overlap:
    near = near_pole(shapely.bounds(shapes).reshape(-1, 4), turn)
    polar = near[a] | near[b]
    if turn is None or not polar.any():
        return _measured(shapes, a, b)
    out = Overlap(*(np.empty(len(a)) for _ in range(3)))
    north = _is_north(shapes, a)
    for side, chosen in ((0, ~polar), (1, polar & north), (-1, polar & ~north)):
        if not chosen.any():
            continue
        used, index = np.unique(np.concatenate([a[chosen], b[chosen]]), return_inverse=True)
        maps, half = _polar_maps(shapes[used], turn, side) if side else shapes[used], len(index) // 2
        for column, values in zip(out, _measured(maps, index[:half], index[half:]), strict=True):
            column[chosen] = values
    return out


def _is_north(shapes: Geometries, index: IntArray) -> BoolArray:
    bounds = shapely.bounds(shapes[index]).reshape(-1, 4)
    return np.asarray(bounds[:, 1] + bounds[:, 3] > 0, np.bool_)


def _polar_maps(shapes: Geometries, turn: float, side: int) -> Geometries:
    """Polygons in degrees on a map about a pole, those that were split at the antimeridian whole again.

    The vertices that splitting put in, where not at the pole, lie on the straight line between two corners on the map
    of degrees, which is another one about the pole. Without them the four corners are left.
    """
    maps = shapely.transform(shapes, partial(_about_pole, turn=turn, side=side))
    xy, owner = shapely.get_coordinates(shapes, return_index=True)
    line = turn / 2
    for i in np.intersect1d(owner[xy[:, 0] == line], owner[xy[:, 0] == -line]):
        own = xy[owner == i]
        put_in = (np.abs(own[:, 0]) == line) | (np.abs(own[:, 1]) == turn / 4)
        corners = np.unique(own[~put_in], axis=0)
        corners = corners if len(corners) >= 4 else own
        maps[i] = shapely.convex_hull(shapely.multipoints(_about_pole(corners, turn=turn, side=side)))
    return maps


def _about_pole(xy: FloatArray, *, turn: float, side: int) -> FloatArray:
    """Longitudes and latitudes on the azimuthal equidistant map about the north (1) or south (-1) pole."""
    distance, angle = turn / 4 - side * xy[:, 1], xy[:, 0] * (2 * np.pi / turn)
    return np.stack([distance * np.sin(angle), distance * np.cos(angle)], axis=1)


def _measured(shapes: Geometries, a: IntArray, b: IntArray) -> Overlap:
    valid = _valid(shapes)
    areas = shapely.area(valid)
    return Overlap(shapely.area(shapely.intersection(valid[a], valid[b])), areas[a], areas[b])


def _valid(shapes: Geometries) -> Geometries:
    broken = ~shapely.is_valid(shapes)
    mended = np.array(shapes, object)
    # Rings that run to the pole and back, and parts that touch along the antimeridian, are not valid about the pole.
    mended[broken] = shapely.make_valid(mended[broken], method="structure", keep_collapsed=False)
    return mended
