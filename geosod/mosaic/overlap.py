"""How much area polygons share, in pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import shapely

from geosod.types import BoolArray, FloatArray, IntArray

Geometries = npt.NDArray[Any]
#: Share of a quarter turn; from this latitude on, degrees are measured on a map about the pole.
_POLAR = 80 / 90
#: Pairs whose intersections are held at a time.
_CHUNK = 65_536


class Overlap(NamedTuple):
    """Areas of pairs: what both share, and of each; (M,) float64, all three on one map."""

    shared: FloatArray
    first: FloatArray
    second: FloatArray


def meeting(
    shapes: Geometries, scene: IntArray, fresh: BoolArray, *, turn: float | None
) -> Iterator[tuple[IntArray, IntArray, FloatArray]]:
    """Pairs of boxes of different scenes whose bounds meet, those of one scene and all after it at a time.

    A polygon that is split at the antimeridian is looked at part by part. Both of two such polygons are split at one
    line, so the areas that their parts share add up to that of the whole.

    Args:
        shapes: (N,) Polygons and MultiPolygons.
        scene: (N,) int64.
        fresh: (N,) bool; pairs without a fresh one are left out.
        turn: units of a full turn where the CRS is geographic, else None.

    Yields:
        (M,) int64 twice, the box of the lower scene first, and (M,) float64, an area that they share at most;
        infinite near a pole, where bounds tell nothing of areas.
    """
    parts, owner = _parts(shapes)
    bounds = shapely.bounds(parts).reshape(-1, 4)
    for one in np.unique(scene)[:-1]:
        first, second = _scene_pairs(parts, bounds, scene[owner], int(one))
        wanted = fresh[owner[first]] | fresh[owner[second]]
        first, second = first[wanted], second[wanted]
        low = np.maximum(bounds[first, :2], bounds[second, :2])
        high = np.minimum(bounds[first, 2:], bounds[second, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        keys, inverse = np.unique(owner[first] * len(shapes) + owner[second], return_inverse=True)
        most: FloatArray = np.bincount(inverse, weights=shared, minlength=len(keys)).astype(np.float64)
        a, b = keys // len(shapes), keys % len(shapes)
        most[_near_pole(shapes, a, b, turn)] = np.inf
        yield a.astype(np.int64), b.astype(np.int64), most


def _parts(shapes: Geometries) -> tuple[Geometries, IntArray]:
    """Polygons, and which of the shapes each is a part of. Most shapes are polygons, and are not copied."""
    several = shapely.get_type_id(shapes) != shapely.GeometryType.POLYGON
    single, split = np.flatnonzero(~several), np.flatnonzero(several)
    parts, index = shapely.get_parts(shapes[split], return_index=True)
    return np.concatenate([shapes[single], parts]), np.concatenate([single, split[index]])


def _scene_pairs(
    parts: Geometries, bounds: FloatArray, scene: IntArray, one: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Parts of one scene, and of those after it, whose bounds meet."""
    own, after = np.flatnonzero(scene == one), np.flatnonzero(scene > one)
    x0, y0 = bounds[own, :2].min(axis=0)
    x1, y1 = bounds[own, 2:].max(axis=0)
    near = bounds[after]
    after = after[(near[:, 0] <= x1) & (near[:, 2] >= x0) & (near[:, 1] <= y1) & (near[:, 3] >= y0)]
    if len(after) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    query, hit = shapely.STRtree(parts[own]).query(parts[after])
    return own[hit], after[query]


def _near_pole(shapes: Geometries, a: IntArray, b: IntArray, turn: float | None) -> BoolArray:
    if turn is None or len(a) == 0:
        return np.zeros(len(a), np.bool_)
    bounds = shapely.bounds(shapes).reshape(-1, 4)
    high = np.maximum(np.abs(bounds[:, 1]), np.abs(bounds[:, 3])) >= _POLAR * turn / 4
    return np.asarray(high[a] | high[b], np.bool_)


def intersection_areas(
    shapes: Geometries,
    a: IntArray,
    b: IntArray,
    most: FloatArray,
    *,
    turn: float | None,
    enough: Callable[[IntArray, IntArray, FloatArray, FloatArray, FloatArray], BoolArray],
) -> Overlap:
    """The areas of pairs.

    Args:
        shapes: (N,) Polygons and MultiPolygons; those that are not valid are mended.
        a, b: (M,) int64, from `meeting`.
        most: (M,) float64, from `meeting`.
        turn: units of a full turn where the CRS is geographic, else None.
        enough: given a, b, an upper bound of the shared area and both areas, (K,) each, tells which pairs are worth
            measuring; others come out with nothing shared.
    """
    areas = shapely.area(shapes)
    out = Overlap(np.zeros(len(a)), areas[a], areas[b])
    worth = enough(a, b, most, out.first, out.second)
    polar = _near_pole(shapes, a, b, turn)
    _measure_into(out, shapes, a, b, np.flatnonzero(worth & ~polar))
    if polar.any() and turn is not None:
        chosen = np.flatnonzero(polar)
        for north in (False, True):
            south_north = _is_north(shapes, a[chosen]) == north
            some = chosen[south_north]
            used, index = np.unique(np.concatenate([a[some], b[some]]), return_inverse=True)
            maps = _polar_maps(shapes[used], turn, 1 if north else -1)
            part = Overlap(np.zeros(len(some)), np.zeros(len(some)), np.zeros(len(some)))
            _measure_into(part, maps, index[: len(some)], index[len(some) :], np.arange(len(some)))
            for column, values in zip(out, part, strict=True):
                column[some] = values
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


def _measure_into(out: Overlap, shapes: Geometries, a: IntArray, b: IntArray, chosen: IntArray) -> None:
    """Fill in the areas of some pairs."""
    for begin in range(0, len(chosen), _CHUNK):
        some = chosen[begin : begin + _CHUNK]
        used, index = np.unique(np.concatenate([a[some], b[some]]), return_inverse=True)
        valid = _valid(shapes[used])
        first, second = valid[index[: len(some)]], valid[index[len(some) :]]
        out.shared[some] = shapely.area(shapely.intersection(first, second))
        out.first[some], out.second[some] = shapely.area(first), shapely.area(second)


def _valid(shapes: Geometries) -> Geometries:
    broken = ~shapely.is_valid(shapes)
    mended = np.array(shapes, object)
    # Rings that run to the pole and back, and parts that touch along the antimeridian, are not valid about the pole.
    mended[broken] = shapely.make_valid(mended[broken], method="structure", keep_collapsed=False)
    return mended
