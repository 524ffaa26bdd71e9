"""Ground control points as they are found in files → points that a thin-plate spline can go through."""

from __future__ import annotations

import numpy as np
from pyproj import CRS
from pyproj.crs import ProjectedCRS
from pyproj.crs.coordinate_operation import LambertAzimuthalEqualAreaConversion

from geosod.arrays import BoolArray, FloatArray
from geosod.errors import SceneError
from geosod.georeference.crs import full_turn, horizontal_crs, transformer

#: Solving for a spline takes time with the cube of its points, each pixel with their number: of more than
#: these, an even choice is taken, and the others are held against it.
MOST_POINTS = 1000
#: More than these are not even chosen from.
MOST_READ = 100_000
#: Beyond this latitude, in degrees, longitudes run together too fast for a spline.
_POLAR = 80.0
#: Points spread less than this share of their extent across it lie on a line.
_LINE = 1e-6
#: GDAL takes points for a line, and leaves what is beside it out of account, from this squared correlation of their
#: columns and rows on, or this ratio of the extents.
_CORRELATED, _NARROW = 0.99, 0.001


def usable_points(points: FloatArray, crs: str) -> tuple[str, FloatArray, FloatArray]:
    """Bring control points into a form that a spline from pixel to ground can be fitted to.

    Copies of a point count once. Longitudes are made continuous across the antimeridian; where the points reach
    beyond 80° or go more than half round the globe, they are projected (Lambert's azimuthal equal-area projection
    about their middle, same datum), since near a pole longitude and latitude are no smooth function of the pixel.

    Args:
        points: (N, 4) float64 ``x, y, X, Y``: pixels from the file's top-left corner, and coordinates in `crs`.
        crs: WKT of their CRS.

    Returns:
        CRS of the points as WKT2, the (M, 4) points to use, M at most `MOST_POINTS`, and the (K, 4) others.

    Raises:
        SceneError: they are fewer than three, lie on a line, are not finite, or contradict each other.
    """
    points = np.unique(np.asarray(points, np.float64), axis=0) + 0.0
    _check(points)
    wkt, points = _smooth(points, crs)
    if len(points) <= MOST_POINTS:
        return wkt, points, points[:0]
    chosen = _spread(points[:, :2], MOST_POINTS)
    return wkt, points[chosen], points[~chosen]


def linear_part(points: FloatArray) -> FloatArray:
    """(2, 2), change of place by pixel, of the affine transform nearest to control points."""
    design = np.column_stack([points[:, :2] - points[:, :2].mean(axis=0), np.ones(len(points))])
    solution = np.linalg.lstsq(design, points[:, 2:] - points[:, 2:].mean(axis=0), rcond=None)[0]
    out: FloatArray = solution[:2].T
    return out


def check_reach(points: FloatArray, size: tuple[int, int]) -> None:
    """Refuse points that cover a small corner of the scene: a spline says little far from them.

    Args:
        points: (N, 4) float64, as `usable_points`.
        size: width and height of the scene in pixels.

    Raises:
        SceneError: part of the scene is farther from the points than these reach themselves.
    """
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    beyond = np.maximum(low, np.array(size) - high).clip(0)
    if (beyond > np.hypot(*(high - low))).any():
        raise SceneError(
            f"its ground control points lie within columns {low[0]:.0f} to {high[0]:.0f} and rows {low[1]:.0f} to "
            f"{high[1]:.0f}, too small a part of {size[0]} x {size[1]} pixels to tell the place of the rest; add some"
        )


def _check(points: FloatArray) -> None:
    if not np.isfinite(points).all():
        bad = int((~np.isfinite(points).all(axis=1)).sum())
        raise SceneError(f"{bad} of its ground control points are not finite numbers; remove them")
    if len(points) > MOST_READ:
        raise SceneError(f"has {len(points)} ground control points, over {MOST_READ}; thin them out, or warp it first")
    for columns, what, other in ((slice(0, 2), "pixel", "place"), (slice(2, 4), "place", "pixel")):
        part = points[:, columns]
        values, first, counts = np.unique(part, axis=0, return_index=True, return_counts=True)
        if (counts > 1).any():
            at = ", ".join(f"{v:.10g}" for v in values[counts > 1][0])
            raise SceneError(
                f"two of its ground control points give the {what} ({at}) different {other}s; remove one of them"
            )
        if _on_a_line(part) or (what == "pixel" and _too_narrow(part)):
            raise SceneError(
                f"has {len(points)} ground control point{'s' if len(points) != 1 else ''}"
                f"{' on one line, or nearly' if len(points) > 2 else ''}, but three are needed that do not lie on "
                "one line; add some (gdal_translate -gcp), or assign a geotransform"
            )


def _on_a_line(xy: FloatArray) -> bool:
    if len(xy) < 3:
        return True
    spread = np.linalg.svd(xy - xy.mean(axis=0), compute_uv=False)
    return bool(spread[1] <= _LINE * spread[0])


def _too_narrow(xy: FloatArray) -> bool:
    width, height = np.ptp(xy, axis=0)
    middle = xy - xy.mean(axis=0)
    xx, yy, together = (middle[:, 0] ** 2).sum(), (middle[:, 1] ** 2).sum(), middle.prod(axis=1).sum()
    return bool(min(width, height) < _NARROW * max(width, height) or together**2 > _CORRELATED * xx * yy)


def _smooth(points: FloatArray, wkt: str) -> tuple[str, FloatArray]:
    """The points in a CRS whose coordinates are smooth functions of the pixel."""
    crs = horizontal_crs(wkt)
    if not crs.is_geographic:
        return crs.to_wkt(), points
    turn = full_turn(crs)
    points = points.copy()
    points[:, 2] = _continuous(points[:, 2], turn)
    if np.ptp(points[:, 2]) < turn / 2 and np.abs(points[:, 3]).max() <= _POLAR * turn / 360:
        return crs.to_wkt(), points
    lon, lat = points[:, 2:].T * 2 * np.pi / turn
    middle = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]).mean(axis=1)
    local = _about(crs, np.arctan2(middle[1], middle[0]), np.arctan2(middle[2], np.hypot(middle[0], middle[1])))
    points[:, 2:] = np.stack(transformer(wkt, local).transform(*points[:, 2:].T), axis=1)
    if not np.isfinite(points).all():
        raise SceneError("its ground control points go round the whole globe; warp it to a grid first (gdalwarp)")
    return local, points


def _about(crs: CRS, lon: float, lat: float) -> str:
    """An equal-area map about a point given in radians, on the datum of `crs`."""
    conversion = LambertAzimuthalEqualAreaConversion(round(np.degrees(lat), 3), round(np.degrees(lon), 3))
    return str(ProjectedCRS(conversion, name="about the control points", geodetic_crs=crs).to_wkt())


def _continuous(lon: FloatArray, turn: float) -> FloatArray:
    """The same longitudes, cut where the widest gap between any two neighbours is; as they are without need."""
    if np.ptp(lon) < turn / 2:
        return lon
    ring = np.sort(lon % turn)
    gaps = np.diff(ring, append=ring[0] + turn)
    start = ring[(int(np.argmax(gaps)) + 1) % len(ring)]
    out = (lon - start) % turn + start
    shift = turn * np.floor((out.mean() + turn / 2) / turn)
    result: FloatArray = out - shift
    return result


def _spread(xy: FloatArray, count: int) -> BoolArray:
    """(N,) True for `count` of N points that lie evenly: each is the farthest from those before (Gonzalez 1985)."""
    chosen = np.zeros(len(xy), np.bool_)
    distance = np.full(len(xy), np.inf)
    farthest = int(np.argmin(xy.sum(axis=1)))
    for _ in range(count):
        chosen[farthest] = True
        np.minimum(distance, ((xy - xy[farthest]) ** 2).sum(axis=1), out=distance)
        farthest = int(np.argmax(distance))
    return chosen
