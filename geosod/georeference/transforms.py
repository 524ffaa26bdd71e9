"""How a file is georeferenced, and transforms through ground control points and rational polynomials (RPCs).

GDAL computes both, through rasterio, with two corrections. rasterio asks GDAL for the thin-plate spline from ground to
pixel and inverts it iteratively; gdalwarp uses the spline from pixel to ground, so points are passed with pixel and
ground exchanged. And GDAL returns infinities, or the result of an iteration that stopped early, for points that
cannot be transformed; so the result of every iteration is transformed back, and is NaN where that fails.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.errors import RasterioError, TransformWarning
from rasterio.rpc import RPC
from rasterio.transform import GCPTransformer, RPCTransformer

from geosod.arrays import FloatArray
from geosod.errors import ConfigError, SceneError, one_line
from geosod.georeference.crs import parse_crs
from geosod.georeference.gcps import check_extent, linear_part, usable_points
from geosod.georeference.outlines import lattice
from geosod.scene import GroundControl, RationalPolynomials
from geosod.storage.files import file_stamp
from geosod.storage.sandbox import gdal_source

Locator = GroundControl | RationalPolynomials

#: Tolerance of a round trip, in pixels.
TOLERANCE = 0.01
#: Maximum error of a spline in pixels, at the points it was fitted to and at the others.
_MAX_ERROR, _MAX_ERROR_OTHERS = 0.001, 0.5
#: GDAL iterates until the error in pixels is below this (its default is 0.1), at most so many times.
_RPC_OPTIONS: dict[str, Any] = {"RPC_PIXEL_ERROR_THRESHOLD": 1e-4, "RPC_MAX_ITERATIONS": 50}
#: Larger pixels and coordinates are not passed to GDAL; some of them abort the process while it reads a DEM.
_MAX_COORDINATE = 1e9
#: Points along each side of the scene at which a spline is checked for folds.
_FOLD_SAMPLES = 33
#: GDAL uses the identity for no transform, and beside control points or RPCs also that with y mirrored.
_MIRRORED = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
_POLYNOMIALS = ("LINE_NUM_COEFF", "LINE_DEN_COEFF", "SAMP_NUM_COEFF", "SAMP_DEN_COEFF")
_SCALES = (("LAT_SCALE", "LINE_SCALE"), ("LONG_SCALE", "SAMP_SCALE"))


def read_georeference(
    dataset: Any, *, rpc_height: float | None = None, dem: str | Path | None = None
) -> tuple[str | None, Affine | None, Locator | None]:
    """The georeference of a file.

    As in GDAL, an affine transform with a CRS comes first, then ground control points, then RPCs. Where a height or
    a DEM is given, RPCs come before control points, which are then often only the four corners. An identity
    transform is GDAL's way to report that there is none.

    Args:
        dataset: an open rasterio dataset.
        rpc_height: metres above the ellipsoid for RPCs; None takes the mean height in the file, or 0 with a DEM, to
            whose heights it is added.
        dem: raster of heights in metres above the ellipsoid for RPCs.

    Returns:
        CRS as WKT2, affine transform, locator; all None without a georeference, else one of the last two is None.
        The CRS of control points near a pole differs from the file's.

    Raises:
        SceneError: the control points or RPCs cannot be used; the message needs the file's name in front.
        ConfigError: the DEM cannot be opened, or has no CRS.
    """
    crs, transform = dataset.crs, dataset.transform
    placed = crs and not transform.is_identity
    # GDAL looks for RPCs in many places, so it is asked for them only where they may matter.
    if placed and tuple(transform)[:6] != _MIRRORED:
        return _wkt(crs), transform, None
    points, points_crs = dataset.gcps
    points_crs = points_crs or crs
    rpcs = dataset.tags(ns="RPC")
    if placed and not (points or rpcs):
        return _wkt(crs), transform, None
    rpcs_requested = rpcs and not (rpc_height is None and dem is None)
    if points and points_crs and not rpcs_requested:
        try:
            return _read_gcps(points, _wkt(points_crs), (dataset.width, dataset.height))
        except SceneError:
            if not rpcs:
                raise
    if rpcs:
        return parse_crs("EPSG:4326").to_wkt(), None, _read_rpcs(rpcs, rpc_height, dem)
    return None, None, None


def to_crs(locator: Locator, xy: npt.ArrayLike) -> FloatArray:
    """Pixels → coordinates of the scene's CRS.

    Args:
        locator: control points or RPCs.
        xy: (N, 2) float64 pixels of the file, (0, 0) its top-left corner.

    Returns:
        (N, 2) float64, easting or longitude first; NaN where a pixel has no position.

    Raises:
        SceneError: GDAL cannot use the locator.
    """
    xy = np.asarray(xy, np.float64).reshape(-1, 2)
    if isinstance(locator, GroundControl):
        return _direct(locator, xy)
    out = _iterative(locator, xy)
    return _confirmed(out, _direct(locator, out), xy, TOLERANCE)


def to_pixels(locator: Locator, xy: npt.ArrayLike) -> FloatArray:
    """Coordinates of the scene's CRS → pixels of the file; the inverse of `to_crs`, NaN where it finds none.

    Both are (N, 2) float64. Longitudes must be in the same full circle as those of the locator; raises as `to_crs`.
    """
    xy = np.asarray(xy, np.float64).reshape(-1, 2)
    if isinstance(locator, RationalPolynomials):
        out = _direct(locator, xy)
        back = to_crs(locator, out)
    else:
        out = _iterative(locator, xy)
        back = _direct(locator, out)
    return _confirmed(out, back, xy, TOLERANCE * pixel_size(locator))


@lru_cache(maxsize=64)
def pixel_size(locator: Locator) -> float:
    """The approximate side of a pixel in units of the CRS."""
    if isinstance(locator, RationalPolynomials):
        values = dict(locator.coefficients)
        line, sample = (float(values[ground]) / float(values[pixel]) for ground, pixel in _SCALES)
        return float(np.sqrt(abs(line * sample)))
    return float(np.sqrt(abs(np.linalg.det(linear_part(np.array(locator.points))))))


def _wkt(crs: Any) -> str:
    try:
        return str(crs.to_wkt(version="WKT2_2019"))
    except RasterioError:
        return str(crs.to_wkt())


def _read_gcps(points: Any, crs: str, size: tuple[int, int]) -> tuple[str, None, GroundControl]:
    rows = np.array([(p.col, p.row, p.x, p.y) for p in points], np.float64)
    wkt, used, others = usable_points(rows, crs)
    locator = GroundControl(tuple((float(x), float(y), float(a), float(b)) for x, y, a, b in used))
    check_extent(used, size)
    to_pixel = np.linalg.inv(linear_part(used))
    for some, limit, which in ((used, _MAX_ERROR, "itself"), (others, _MAX_ERROR_OTHERS, "the others")):
        errors = np.hypot(*(to_pixel @ (to_crs(locator, some[:, :2]) - some[:, 2:]).T))
        if len(some) and not errors.max() <= limit:
            raise SceneError(
                f"a spline through {len(used)} of its {len(rows)} ground control points misses {which} by up to "
                f"{errors.max():.3g} pixels; remove doubtful points, or warp it to a grid first (gdalwarp)"
            )
    _check_folds(locator, size)
    return wkt, None, locator


def _check_folds(locator: GroundControl, size: tuple[int, int]) -> None:
    """Refuse splines that give two pixels one position, since control points were exchanged or mistyped."""
    n = _FOLD_SAMPLES
    grid = to_crs(locator, lattice(np.linspace(0, size[0], n), np.linspace(0, size[1], n))).reshape(n, n, 2)
    right, down = np.diff(grid, axis=1)[:-1], np.diff(grid, axis=0)[:, :-1]
    orientation = np.sign(right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0])
    if not (orientation == orientation[0, 0]).all():
        raise SceneError(
            "its ground control points contradict each other: the ground between them folds over; remove those that "
            "were exchanged or mistyped"
        )


def _read_rpcs(tags: dict[str, str], height: float | None, dem: str | Path | None) -> RationalPolynomials:
    try:
        rpc = RPC.from_gdal(tags)
    except (KeyError, ValueError, IndexError) as error:
        raise SceneError(f"its RPCs cannot be read ({type(error).__name__}: {error}); remove or fix them") from error
    values = rpc.to_gdal()
    lists = {name: np.array(values[name].split(), np.float64) for name in _POLYNOMIALS}
    scales = np.array([float(v) for name, v in values.items() if name.endswith("_SCALE")])
    offsets = np.array([float(v) for name, v in values.items() if name.endswith("_OFF")])
    wrong = [name for name, numbers in lists.items() if numbers.shape != (20,) or not np.isfinite(numbers).all()]
    if wrong or not (np.isfinite(scales).all() and (scales > 0).all() and np.isfinite(offsets).all()):
        raise SceneError(f"its RPCs are damaged ({', '.join(wrong) or 'offsets or scales'}); remove or fix them")
    if dem is not None:
        _check_dem(str(dem))
    default = 0.0 if dem is not None else float(values["HEIGHT_OFF"])
    coefficients = tuple(sorted((name, str(value)) for name, value in values.items()))
    return RationalPolynomials(coefficients, default if height is None else float(height), str(dem) if dem else None)


def _check_dem(path: str) -> None:
    try:
        gdal_source(path)
        with _gdal(), rasterio.open(path) as dataset:
            crs = dataset.crs
    except (RasterioError, SceneError) as error:
        raise ConfigError(f"DEM {path}: cannot be opened as a raster: {one_line(error)}") from error
    if not crs:
        raise ConfigError(f"DEM {path}: has no CRS; assign one (gdal_edit -a_srs)")


@contextmanager
def _gdal() -> Iterator[None]:
    with rasterio.Env(GDAL_VRT_ENABLE_PYTHON="NO"), warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", TransformWarning)
        yield


def _transformer(locator: Locator) -> Any:
    """rasterio's transformer; its `rowcol` is the direct transform, its `xy` the iterative one."""
    return (
        _spline(locator)
        if isinstance(locator, GroundControl)
        else _camera(locator, locator.dem and file_stamp(locator.dem))
    )


@lru_cache(maxsize=8)
def _spline(locator: GroundControl) -> Any:
    """With pixel and ground exchanged; freed when the cache drops it."""
    points = [GroundControlPoint(row=Y, col=X, x=x, y=y, id="") for x, y, X, Y in locator.points]
    try:
        with _gdal():
            return GCPTransformer(points, tps=True)
    except Exception as error:
        reason = one_line(error)
        raise SceneError(f"no spline fits its ground control points ({reason}); remove doubtful points") from error


@lru_cache(maxsize=8)
def _camera(locator: RationalPolynomials, stamp: tuple[int, int] | str | None) -> Any:  # noqa: ARG001
    """Created anew when the stamp of the DEM changes."""
    options = _RPC_OPTIONS | {"RPC_HEIGHT": locator.height}
    if locator.dem is not None:
        options |= {"RPC_DEM": locator.dem, "RPC_DEMINTERPOLATION": "bilinear"}
    try:
        with _gdal():
            return RPCTransformer(dict(locator.coefficients), **options)
    except Exception as error:
        reason = one_line(error)
        raise SceneError(f"its RPCs cannot be used with DEM {locator.dem} ({reason}); fix either") from error


def _iterative(locator: Locator, xy: FloatArray) -> FloatArray:
    """`TransformerBase.xy` without its shift to the pixel's centre; its rows are our y."""
    transformer = _transformer(locator)
    return _transformed(lambda x, y: transformer.xy(y, x, offset="ul"), xy)


def _direct(locator: Locator, xy: FloatArray) -> FloatArray:
    """`TransformerBase.rowcol` without its rounding; it returns y first."""
    transformer = _transformer(locator)
    return _transformed(lambda x, y: transformer.rowcol(x, y, op=np.positive)[::-1], xy)


def _transformed(transform: Callable[[FloatArray, FloatArray], Any], xy: FloatArray) -> FloatArray:
    out = np.full(xy.shape, np.nan)
    fine = (np.abs(xy) < _MAX_COORDINATE).all(axis=1)
    if fine.any():
        with _gdal():
            out[fine] = np.stack(transform(xy[fine, 0], xy[fine, 1]), axis=1)
    return out


def _confirmed(out: FloatArray, back: FloatArray, xy: FloatArray, tolerance: float) -> FloatArray:
    """`out` where the round trip from `xy` agrees, else NaN."""
    with np.errstate(invalid="ignore"):
        good = np.abs(back - xy).max(axis=1, initial=0.0) <= tolerance
    return np.where(good[:, None] & np.isfinite(out).all(axis=1, keepdims=True), out, np.nan)
