"""Which ground control points of a file a thin-plate spline can be fitted to."""

from __future__ import annotations

import numpy as np
from pyproj import CRS
from pyproj.crs import ProjectedCRS
from pyproj.crs.coordinate_operation import LambertAzimuthalEqualAreaConversion

from geosod.arrays import BoolArray, FloatArray
from geosod.errors import SceneError
from geosod.georeference.crs import full_circle, horizontal_crs, transformer

#: Solving for a spline takes cubic time. Of more points than this an evenly spread subset is used, and the others
#: are checked against the spline.
MAX_POINTS = 1000
#: Files with more points than this are refused.
MAX_READ = 100_000
#: Beyond this latitude, in degrees, longitudes converge too fast for a spline.
_POLAR = 80.0
#: Points are collinear when they spread across a line by less than this ratio of their length along it.
_LINE = 1e-6
#: GDAL treats points as collinear, and ignores the other dimension, from this squared correlation of columns and
#: rows on, or below this ratio of their extents.
_CORRELATED, _NARROW = 0.99, 0.001


def usable_points(points: FloatArray, crs: str) -> tuple[str, FloatArray, FloatArray]:
    """Prepare control points for a spline from pixel to ground.

    Duplicates are removed, and longitudes made continuous across the antimeridian. Points that reach beyond 80° of
    latitude or around half the globe are projected (Lambert azimuthal equal-area about their centre, same datum),
    since longitude and latitude are not smooth functions of the pixel near a pole.

    Args:
        points: (N, 4) float64 ``x, y, X, Y``: pixels from the file's top-left corner, and coordinates in `crs`.
        crs: WKT of their CRS.

    Returns:
        CRS of the points as WKT2, the (M, 4) points to use, M at most `MAX_POINTS`, and the (K, 4) other points.

    Raises:
        SceneError: there are fewer than three, or they are collinear, not finite or contradictory.
    """
    points = np.unique(np.asarray(points, np.float64), axis=0) + 0.0
    _check(points)
    wkt, points = _smooth(points, crs)
    if len(points) <= MAX_POINTS:
        return wkt, points, points[:0]
    chosen = _spread(points[:, :2], MAX_POINTS)
    return wkt, points[chosen], points[~chosen]


def linear_part(points: FloatArray) -> FloatArray:
    """(2, 2) matrix of the affine transform fitted to control points: units of the CRS for each pixel."""
    design = np.column_stack([points[:, :2] - points[:, :2].mean(axis=0), np.ones(len(points))])
    solution = np.linalg.lstsq(design, points[:, 2:] - points[:, 2:].mean(axis=0), rcond=None)[0]
    return np.asarray(solution[:2].T)


def check_extent(points: FloatArray, size: tuple[int, int]) -> None:
    """Refuse points that cover only a corner of the scene, since splines do not extrapolate well.

    `points` are (N, 4) as in `usable_points`, `size` is width and height of the scene in pixels. SceneError where
    part of the scene is farther from the points than their own extent.
    """
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    beyond = np.maximum(low, np.array(size) - high).clip(0)
    if (beyond > np.hypot(*(high - low))).any():
        raise SceneError(
            f"its ground control points lie within columns {low[0]:.0f} to {high[0]:.0f} and rows {low[1]:.0f} to "
            f"{high[1]:.0f}, too small a part of {size[0]} x {size[1]} pixels to locate the rest; add more"
        )


def _check(points: FloatArray) -> None:
    if not np.isfinite(points).all():
        invalid = int((~np.isfinite(points).all(axis=1)).sum())
        raise SceneError(f"{invalid} of its ground control points are not finite numbers; remove them")
    if len(points) > MAX_READ:
        raise SceneError(f"has {len(points)} ground control points, over {MAX_READ}; thin them out, or warp it first")
    for columns, what, other in ((slice(0, 2), "pixel", "position"), (slice(2, 4), "position", "pixel")):
        part = points[:, columns]
        values, first, counts = np.unique(part, axis=0, return_index=True, return_counts=True)
        if (counts > 1).any():
            at = ", ".join(f"{v:.10g}" for v in values[counts > 1][0])
            raise SceneError(
                f"two of its ground control points give the {what} ({at}) different {other}s; remove one of them"
            )
        if _collinear(part) or (what == "pixel" and _collinear_for_gdal(part)):
            noun = "point" if len(points) == 1 else "points"
            line = " on one line, or nearly" if len(points) > 2 else ""
            raise SceneError(
                f"has {len(points)} ground control {noun}{line}, but three are needed that are not on one line; "
                "add some (gdal_translate -gcp), or assign a geotransform"
            )


def _collinear(xy: FloatArray) -> bool:
    if len(xy) < 3:
        return True
    spread = np.linalg.svd(xy - xy.mean(axis=0), compute_uv=False)
    return bool(spread[1] <= _LINE * spread[0])


def _collinear_for_gdal(xy: FloatArray) -> bool:
    width, height = np.ptp(xy, axis=0)
    centred = xy - xy.mean(axis=0)
    xx, yy, products = (centred[:, 0] ** 2).sum(), (centred[:, 1] ** 2).sum(), centred.prod(axis=1).sum()
    return bool(min(width, height) < _NARROW * max(width, height) or products**2 > _CORRELATED * xx * yy)


def _smooth(points: FloatArray, wkt: str) -> tuple[str, FloatArray]:
    """A CRS whose coordinates are smooth functions of the pixel, and the points in it."""
    crs = horizontal_crs(wkt)
    if not crs.is_geographic:
        return crs.to_wkt(), points
    circle = full_circle(crs)
    points = points.copy()
    points[:, 2] = _continuous(points[:, 2], circle)
    if np.ptp(points[:, 2]) < circle / 2 and np.abs(points[:, 3]).max() <= _POLAR * circle / 360:
        return crs.to_wkt(), points
    lon, lat = points[:, 2:].T * 2 * np.pi / circle
    x, y, z = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]).mean(axis=1)
    local = _equal_area_crs(crs, np.arctan2(y, x), np.arctan2(z, np.hypot(x, y)))
    points[:, 2:] = np.stack(transformer(wkt, local).transform(*points[:, 2:].T), axis=1)
    if not np.isfinite(points).all():
        raise SceneError("its ground control points go around the whole globe; warp it to a grid first (gdalwarp)")
    return local, points


def _equal_area_crs(crs: CRS, lon: float, lat: float) -> str:
    """WKT of an equal-area projection centred on a point in radians, with the datum of `crs`."""
    conversion = LambertAzimuthalEqualAreaConversion(round(np.degrees(lat), 3), round(np.degrees(lon), 3))
    return str(ProjectedCRS(conversion, name="about the control points", geodetic_crs=crs).to_wkt())


def _continuous(lon: FloatArray, circle: float) -> FloatArray:
    """The same longitudes without a jump, unwrapped at the widest gap between neighbours."""
    if np.ptp(lon) < circle / 2:
        return lon
    ring = np.sort(lon % circle)
    gaps = np.diff(ring, append=ring[0] + circle)
    start = ring[(int(np.argmax(gaps)) + 1) % len(ring)]
    out = (lon - start) % circle + start
    return np.asarray(out - circle * np.floor((out.mean() + circle / 2) / circle))


def _spread(xy: FloatArray, count: int) -> BoolArray:
    """(N,) bool, True for `count` evenly spread points: each is the farthest from those before (Gonzalez 1985)."""
    chosen = np.zeros(len(xy), np.bool_)
    distance = np.full(len(xy), np.inf)
    farthest = int(np.argmin(xy.sum(axis=1)))
    for _ in range(count):
        chosen[farthest] = True
        np.minimum(distance, ((xy - xy[farthest]) ** 2).sum(axis=1), out=distance)
        farthest = int(np.argmax(distance))
    return chosen
