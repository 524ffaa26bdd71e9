"""Ground control points and rational polynomials: reading them, and the two ways between pixel and ground.

Both are left to GDAL, through rasterio. Two of its habits matter here. For thin-plate splines rasterio asks GDAL
for the spline from ground to pixel and inverts it step by step; gdalwarp takes the one from pixel to ground, which is
the usual meaning, so the points are handed over with pixel and ground exchanged. And points that cannot be transformed
come back as infinities, or as the answer of an iteration that stopped too early, with a warning at most: every answer
of an iteration is put to the test by going back, and is NaN where that fails.
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

from geosod.arrays import BoolArray, FloatArray
from geosod.errors import ConfigError, SceneError
from geosod.georeference.crs import parse_crs
from geosod.georeference.gcps import check_reach, linear_part, usable_points
from geosod.scene import GroundControl, RationalPolynomials
from geosod.storage.vrt_sandbox import check_sources

Locator = GroundControl | RationalPolynomials

#: Pixels by which the way there and back may miss its start.
AGREEMENT = 0.01
#: Pixels by which a spline may miss the points it goes through, and those that were left out.
_AT_POINTS, _BESIDE_POINTS = 0.001, 0.5
#: GDAL stops iterating when the pixel is met to within this; its own default is 0.1.
_RPC_ERROR, _RPC_ITERATIONS = 1e-4, 50
#: No pixel and no coordinate is as large as this.
_COMMON = 1e9
#: Points along each side at which a spline is tried for folds.
_FOLD_GRID = 33
_POLYNOMIALS = ("LINE_NUM_COEFF", "LINE_DEN_COEFF", "SAMP_NUM_COEFF", "SAMP_DEN_COEFF")


def read_georeference(
    dataset: Any, *, rpc_height: float | None = None, dem: str | Path | None = None
) -> tuple[str | None, Affine | None, Locator | None]:
    """What a file says about its place.

    An affine transform with a CRS comes first, as with GDAL, then ground control points, then rational
    polynomials. Where a height or a DEM is asked for and there are polynomials, they go before control points,
    which are then often the four corners alone. The identity is GDAL's way to say that there is no transform.

    Args:
        dataset: an open rasterio dataset.
        rpc_height: metres above the ellipsoid for rational polynomials; None takes the file's mean height,
            or 0 where a DEM is given, to whose heights it is added.
        dem: raster of heights in metres above the ellipsoid for rational polynomials.

    Returns:
        CRS as WKT2, affine transform, locator. Without a CRS nothing tells the place; with one, either the transform
        or the locator is None. Control points near a pole come in another CRS than the file's.

    Raises:
        SceneError: the control points or the polynomials cannot be used; the message goes on from the file's name.
        ConfigError: the DEM cannot be opened, or has no CRS.
    """
    control, control_crs = dataset.gcps
    control_crs = control_crs or dataset.crs
    polynomials = dataset.tags(ns="RPC")
    if dataset.crs and not _says_nothing(dataset.transform, elsewhere=bool(control or polynomials)):
        return _wkt(dataset.crs), dataset.transform, None
    asked = polynomials and not (rpc_height is None and dem is None)
    if control and control_crs and not asked:
        try:
            return _control(control, _wkt(control_crs), (dataset.width, dataset.height))
        except SceneError:
            if not polynomials:
                raise
    if polynomials:
        return parse_crs("EPSG:4326").to_wkt(), None, _polynomials(polynomials, rpc_height, dem)
    return None, None, None


def to_crs(locator: Locator, xy: npt.ArrayLike) -> FloatArray:
    """Pixels → coordinates of the scene's CRS.

    Args:
        locator: what tells the place.
        xy: (N, 2) float64 pixels of the file, (0, 0) its top-left corner.

    Returns:
        (N, 2) float64, easting or longitude first; NaN where a pixel has no place.

    Raises:
        SceneError: GDAL cannot make anything of the locator.
    """
    xy = np.asarray(xy, np.float64).reshape(-1, 2)
    if isinstance(locator, GroundControl):
        return _through_spline(locator, xy)
    out = _ask(_camera(locator, _stamp(locator.dem)).xy, xy)
    return _kept_where(_near(_through_camera(locator, out), xy, AGREEMENT), out)


def to_pixels(locator: Locator, xy: npt.ArrayLike) -> FloatArray:
    """Coordinates of the scene's CRS → pixels of the file; the inverse of `to_crs`, NaN where it finds none.

    A longitude must be given in the turn of the locator's own.

    Args:
        locator: what tells the place.
        xy: (N, 2) float64, easting or longitude first.

    Returns:
        (N, 2) float64.

    Raises:
        SceneError: as `to_crs`.
    """
    xy = np.asarray(xy, np.float64).reshape(-1, 2)
    if isinstance(locator, RationalPolynomials):
        out = _through_camera(locator, xy)
        return _kept_where(_near(to_crs(locator, out), xy, AGREEMENT * pixel_size(locator)), out)
    out = _ask(_spline(locator).xy, xy)
    return _kept_where(_near(_through_spline(locator, out), xy, AGREEMENT * pixel_size(locator)), out)


@lru_cache(maxsize=64)
def pixel_size(locator: Locator) -> float:
    """About how long a pixel is, in units of the CRS."""
    if isinstance(locator, RationalPolynomials):
        values = dict(locator.coefficients)
        line, samp = (float(values[f"{a}_SCALE"]) / float(values[f"{b}_SCALE"]) for a, b in _AXES)
        return float(np.sqrt(abs(line * samp)))
    points = np.array(locator.points)
    return float(np.sqrt(abs(np.linalg.det(linear_part(points)))))


_AXES = (("LAT", "LINE"), ("LONG", "SAMP"))


def _says_nothing(transform: Affine, *, elsewhere: bool) -> bool:
    """GDAL also takes the identity turned upside down for none, which is believed where something else tells."""
    upside_down = tuple(transform)[:6] == (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    return bool(transform.is_identity or (elsewhere and upside_down))


def _wkt(crs: Any) -> str:
    try:
        return str(crs.to_wkt(version="WKT2_2019"))
    except RasterioError:
        return str(crs.to_wkt())


def _control(points: Any, crs: str, size: tuple[int, int]) -> tuple[str, None, GroundControl]:
    rows = np.array([(p.col, p.row, p.x, p.y) for p in points], np.float64)
    wkt, used, others = usable_points(rows, crs)
    locator = GroundControl(tuple((float(x), float(y), float(a), float(b)) for x, y, a, b in used))
    check_reach(used, size)
    linear = np.linalg.inv(linear_part(used))
    for some, most, which in ((used, _AT_POINTS, "itself"), (others, _BESIDE_POINTS, "the others")):
        misses = np.hypot(*(linear @ (to_crs(locator, some[:, :2]) - some[:, 2:]).T))
        if len(some) and not misses.max() <= most:
            raise SceneError(
                f"a spline through {len(used)} of its {len(rows)} ground control points misses {which} by up to "
                f"{misses.max():.3g} pixels; remove doubtful ones, or warp it to a grid first (gdalwarp)"
            )
    _check_folds(locator, size)
    return wkt, None, locator


def _check_folds(locator: GroundControl, size: tuple[int, int]) -> None:
    """Two pixels with one place: control points were exchanged or mistyped."""
    axes = (np.linspace(0, side, _FOLD_GRID) for side in size)
    grid = to_crs(locator, np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)).reshape(_FOLD_GRID, _FOLD_GRID, 2)
    right, down = np.diff(grid, axis=1)[:-1], np.diff(grid, axis=0)[:, :-1]
    turn = np.sign(right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0])
    if not (turn == turn[0, 0]).all():
        raise SceneError(
            "its ground control points contradict each other: the ground between them folds over, so pixels have no "
            "place of their own; remove those that were exchanged or mistyped"
        )


def _polynomials(tags: dict[str, str], height: float | None, dem: str | Path | None) -> RationalPolynomials:
    try:
        rpc = RPC.from_gdal(tags)
    except (KeyError, ValueError, IndexError) as error:
        raise SceneError(f"its RPCs cannot be read ({type(error).__name__}: {error}); remove or mend them") from error
    values = rpc.to_gdal()
    lists = {name: np.array(values[name].split(), np.float64) for name in _POLYNOMIALS}
    scales = np.array([float(v) for name, v in values.items() if name.endswith("_SCALE")])
    offsets = np.array([float(v) for name, v in values.items() if name.endswith("_OFF")])
    wrong = [name for name, numbers in lists.items() if numbers.shape != (20,) or not np.isfinite(numbers).all()]
    if wrong or not (np.isfinite(scales).all() and (scales > 0).all() and np.isfinite(offsets).all()):
        raise SceneError(f"its RPCs are damaged ({', '.join(wrong) or 'offsets or scales'}); remove or mend them")
    if dem is not None:
        _check_dem(str(dem))
    default = 0.0 if dem is not None else float(values["HEIGHT_OFF"])
    coefficients = tuple(sorted((name, str(value)) for name, value in values.items()))
    return RationalPolynomials(coefficients, default if height is None else float(height), str(dem) if dem else None)


def _check_dem(path: str) -> None:
    try:
        check_sources(path)
        with _gdal(), rasterio.open(path) as dataset:
            crs = dataset.crs
    except (RasterioError, SceneError) as error:
        raise ConfigError(f"DEM {path}: cannot be opened as a raster: {' '.join(str(error).split())}") from error
    if not crs:
        raise ConfigError(f"DEM {path}: has no CRS, so its heights have no place; assign one (gdal_edit -a_srs)")


@contextmanager
def _gdal() -> Iterator[None]:
    with rasterio.Env(GDAL_VRT_ENABLE_PYTHON="NO"), warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", TransformWarning)
        yield


def _through_spline(locator: GroundControl, xy: FloatArray) -> FloatArray:
    return _ask_back(_spline(locator), xy)


def _through_camera(locator: RationalPolynomials, xy: FloatArray) -> FloatArray:
    return _ask_back(_camera(locator, _stamp(locator.dem)), xy)


@lru_cache(maxsize=8)
def _spline(locator: GroundControl) -> Any:
    """GDAL's transformer, freed with the cache's last reference to it; pixel and ground are exchanged."""
    points = [GroundControlPoint(row=Y, col=X, x=x, y=y, id="") for x, y, X, Y in locator.points]
    try:
        with _gdal():
            return GCPTransformer(points, tps=True)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise SceneError(
            f"no spline goes through its ground control points ({reason}); remove doubtful ones"
        ) from error


@lru_cache(maxsize=8)
def _camera(locator: RationalPolynomials, stamp: tuple[int, int] | None) -> Any:  # noqa: ARG001
    """GDAL's transformer; another `stamp` makes a new one, when the DEM's file has changed."""
    options: dict[str, Any] = {"RPC_HEIGHT": locator.height, "RPC_PIXEL_ERROR_THRESHOLD": _RPC_ERROR}
    options |= {"RPC_MAX_ITERATIONS": _RPC_ITERATIONS}
    if locator.dem is not None:
        options |= {"RPC_DEM": locator.dem, "RPC_DEMINTERPOLATION": "bilinear"}
    try:
        with _gdal():
            return RPCTransformer(dict(locator.coefficients), **options)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise SceneError(f"its RPCs cannot be used with DEM {locator.dem} ({reason}); mend either") from error


def _stamp(dem: str | None) -> tuple[int, int] | None:
    try:
        state = Path(dem).stat() if dem is not None else None
    except OSError:
        state = None
    return None if state is None else (state.st_mtime_ns, state.st_size)


def _ask(way: Any, xy: FloatArray) -> FloatArray:
    """`TransformerBase.xy` without its shift to the pixel's centre; its rows are our y."""
    return _safely(lambda x, y: way(y, x, offset="ul"), xy)


def _ask_back(transformer: Any, xy: FloatArray) -> FloatArray:
    """`TransformerBase.rowcol` without its rounding; it gives y first."""
    return _safely(lambda x, y: transformer.rowcol(x, y, op=np.positive)[::-1], xy)


def _safely(ask: Callable[[FloatArray, FloatArray], Any], xy: FloatArray) -> FloatArray:
    """Ask of numbers of common size only: others can end the process, where GDAL looks into a DEM."""
    out = np.full(xy.shape, np.nan)
    fine = (np.abs(xy) < _COMMON).all(axis=1)
    if fine.any():
        with _gdal():
            out[fine] = np.stack(ask(xy[fine, 0], xy[fine, 1]), axis=1)
    return out


def _near(found: FloatArray, wanted: FloatArray, tolerance: float) -> BoolArray:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(found - wanted).max(axis=1, initial=0.0) <= tolerance, np.bool_)


def _kept_where(good: BoolArray, xy: FloatArray) -> FloatArray:
    return np.where(good[:, None] & np.isfinite(xy).all(axis=1, keepdims=True), xy, np.nan)
