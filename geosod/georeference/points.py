"""Where pixels lie on the ground: points.

A scene is placed by an affine transform or a locator, and a CRS. One without is a *pixel scene*: it has no place
on the ground, and every function here but `georeferenced` refuses it.

Parts of a placed scene may have no place either: the corners of a geostationary full disk look past the Earth, those of
a sinusoidal map are not on it, and a DEM may end before the scene. Such a pixel is not known by what comes
back for it, which may be any coordinates; the way back from them must lead to the pixel again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine
from pyproj import Transformer

from geosod.arrays import BoolArray, FloatArray
from geosod.errors import SceneError
from geosod.georeference.crs import (
    crs_name,
    full_turn,
    geodetic_text,
    horizontal_crs,
    is_earth,
    parse_crs,
    period,
    transformer,
)
from geosod.georeference.transforms import to_crs, to_pixels
from geosod.georeference.valid_region import region_where
from geosod.scene import Scene

#: How far, in pixels, the way to the ground and back may miss its start; but never less than a centimetre.
_AGREEMENT, _LEAST_METRES = 0.01, 0.01


def georeferenced(scene: Scene) -> bool:
    """True where the scene has a CRS and what tells the place of a pixel in it."""
    return scene.crs is not None and (scene.transform is not None or scene.locator is not None)


def on_earth(scene: Scene) -> bool:
    """True for a georeferenced scene of the Earth; SceneError where its CRS has no ellipsoid."""
    return scene.crs is not None and georeferenced(scene) and is_earth(scene.crs)


def to_ground(transform: Affine, xy: npt.ArrayLike) -> FloatArray:
    """Scene frame → coordinates of the scene's CRS, for an affine scene.

    Args:
        transform: affine from the scene frame; it may rotate, shear and mirror.
        xy: (N, 2) float64, x and y in pixels.

    Returns:
        (N, 2) float64 in the units of the CRS.
    """
    points = np.asarray(xy, np.float64).reshape(-1, 2)
    x, y = points.T
    t = transform
    return np.stack([t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f], axis=1)


def native(scene: Scene, xy: npt.ArrayLike) -> tuple[FloatArray, str]:
    """Scene frame → coordinates of the scene's CRS.

    Latitudes that pass a pole by less than a pixel, as those of grids whose rows are centred on it do, are the pole.

    Args:
        scene: a georeferenced scene.
        xy: (N, 2) float64 pixels.

    Returns:
        (N, 2) float64, easting or longitude first, NaN where the scene does not tell; and the CRS.

    Raises:
        SceneError: the scene has no georeference.
    """
    points = np.asarray(xy, np.float64).reshape(-1, 2)
    if scene.crs is None or (scene.transform is None and scene.locator is None):
        raise SceneError(
            f"scene {scene.id!r} has no georeference (CRS or transform missing): it has no place on the ground"
        )
    if scene.transform is None:
        assert scene.locator is not None  # else refused above
        out = to_crs(scene.locator, points / np.array(scene.scale))
    else:
        out = to_ground(scene.transform, points)
    crs = horizontal_crs(scene.crs)
    if crs.is_geographic:
        pole = full_turn(crs) / 4
        pixel = 0.0 if scene.transform is None else max(abs(scene.transform.d), abs(scene.transform.e))
        out[np.abs(out[:, 1]) > pole + pixel * (1 + 1e-9)] = np.nan
        out[:, 1] = np.clip(out[:, 1], -pole, pole)
    return out, scene.crs


def from_native(scene: Scene, xy: FloatArray) -> FloatArray:
    """Coordinates of the scene's CRS → scene frame; the inverse of `native`.

    Args:
        scene: a georeferenced scene.
        xy: (N, 2) float64, easting or longitude first.

    Returns:
        (N, 2) float64 pixels, which may lie outside the scene; NaN where a locator finds none.
    """
    if scene.transform is not None:
        out = to_ground(~scene.transform, xy)
        out[~np.isfinite(out).all(axis=1)] = np.nan
        return out
    assert scene.locator is not None  # a georeferenced scene has one or the other
    return np.asarray(to_pixels(scene.locator, xy) * np.array(scene.scale))


def located(scene: Scene, xy: npt.ArrayLike, *, trusted: bool = False) -> FloatArray:
    """Scene frame → longitude and latitude in degrees, on the datum of the scene's own CRS.

    Args:
        scene: a georeferenced scene.
        xy: (N, 2) float64 pixels.
        trusted: they are known to have a place, so the way back need not be tried.

    Returns:
        (N, 2) float64; NaN where a pixel has no place.

    Raises:
        SceneError: the scene has no georeference, or its CRS no ellipsoid.
    """
    there, text = native(scene, xy)
    crs, geodetic = horizontal_crs(text), geodetic_text(text)
    degrees = 360 / full_turn(parse_crs(geodetic))
    if crs.is_geographic:
        return there * degrees
    way = transformer(text, geodetic)
    out = np.stack(way.transform(*there.T), axis=1)
    if trusted:
        return out * degrees
    back = np.stack(way.transform(out[:, 0], out[:, 1], direction="INVERSE"), axis=1)
    with np.errstate(invalid="ignore"):
        miss = back - there
        turn = period(text)
        miss[:, 0] -= 0 if turn is None else turn * np.rint(miss[:, 0] / turn)
        lost = ~(np.abs(miss).max(axis=1) <= _tolerance(scene, crs.axis_info[0].unit_conversion_factor))
    out[lost] = np.nan
    return out * degrees


def _tolerance(scene: Scene, metres: float) -> float:
    """In units of the CRS, of which one is `metres` long."""
    pixel = 0.0 if scene.transform is None else float(np.sqrt(abs(scene.transform.determinant)))
    return max(_AGREEMENT * pixel, _LEAST_METRES / metres)


@lru_cache(maxsize=64)
def ground_region(scene: Scene) -> Any | None:
    """The part of a scene that has a place on the ground.

    Looked for on a lattice, see `region_where`.

    Args:
        scene: a georeferenced scene.

    Returns:
        A Polygon or MultiPolygon in the scene frame; None where it is the whole scene.

    Raises:
        SceneError: no part of it has; or as `located`.
    """

    def has_place(xy: FloatArray) -> BoolArray:
        return np.asarray(np.isfinite(located(scene, xy)).all(axis=1), np.bool_)

    whole = shapely.box(0, 0, scene.width, scene.height)
    region = region_where(has_place, 0.0, 0.0, scene.width, scene.height)
    if region.is_empty:
        there, text = native(scene, np.array([[scene.width / 2, scene.height / 2]]))
        raise SceneError(
            f"scene {scene.id!r}: no pixel of it has a place on the ground; its middle has the coordinates "
            f"{there[0, 0]:.6g}, {there[0, 1]:.6g} in {crs_name(text)[:60]}; check its georeference"
        )
    return None if region.equals(whole) else region


@lru_cache(maxsize=64)
def middle(scene: Scene) -> tuple[float, float]:
    """Longitude in −180…180 and latitude of about the middle of a scene's ground, on the datum of its CRS.

    Raises:
        SceneError: as `ground_region`.
    """
    lon, lat = located(scene, [[scene.width / 2, scene.height / 2]])[0]
    if not np.isfinite(lon + lat):
        region = ground_region(scene)
        point = shapely.point_on_surface(shapely.box(0, 0, scene.width, scene.height) if region is None else region)
        lon, lat = np.nan_to_num(located(scene, shapely.get_coordinates(point))[0])
    return round(float((lon + 180) % 360 - 180), 2), round(float(lat), 2)


def way_to(scene: Scene, crs: str) -> Transformer:
    """The way from the scene's CRS to another one, the same for all of the scene; errors as `transformer`."""
    return transformer(scene.crs or "", crs, middle(scene))


def unplaced_share(scene: Scene) -> float:
    """The share of a georeferenced scene's pixels that have no place on the ground; SceneError as `ground_region`."""
    region = ground_region(scene)
    return 0.0 if region is None else 1.0 - float(region.area) / (scene.width * scene.height)


def placed_everywhere(scene: Scene) -> bool:
    """True where every pixel has a place; a DEM may have holes that no lattice finds."""
    return getattr(scene.locator, "dem", None) is None and ground_region(scene) is None


def placed(scene: Scene, boxes: FloatArray) -> BoolArray:
    """Which boxes have a place on the ground; the others must be left out before anything else here sees them.

    Args:
        scene: a georeferenced scene.
        boxes: (N, 4) float64 ``x0, y0, x1, y1``, scene frame.

    Returns:
        (N,) bool, True where the corners, the middles of the sides and the centre have one.

    Raises:
        SceneError: as `ground_region`.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    if placed_everywhere(scene):
        return np.ones(len(boxes), np.bool_)
    x0, y0, x1, y1 = boxes.T
    xs, ys = (x0, (x0 + x1) / 2, x1), (y0, (y0 + y1) / 2, y1)
    points = np.stack([np.stack([x, y], axis=1) for x in xs for y in ys], axis=1)
    finite = np.isfinite(located(scene, points.reshape(-1, 2))).all(axis=1)
    return np.asarray(finite.reshape(-1, 9).all(axis=1), np.bool_)


def project(scene: Scene, xy: npt.ArrayLike, crs: str) -> FloatArray:
    """Scene frame → coordinates in `crs`, easting or longitude first.

    Longitudes may lie outside −180…180 where those of the scene do.

    Args:
        scene: a georeferenced scene.
        xy: (N, 2) float64 pixels.
        crs: target CRS.

    Returns:
        (N, 2) float64.

    Raises:
        SceneError: the scene has no georeference, lies on another body than `crs`, or a point has no place in it.
    """
    points = np.asarray(xy, np.float64).reshape(-1, 2)
    there, text = native(scene, points)
    out = np.stack(way_to(scene, crs).transform(*there.T), axis=1)
    bad = ~np.isfinite(out).all(axis=1)
    if not placed_everywhere(scene):
        bad |= ~np.isfinite(located(scene, points)).all(axis=1)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise SceneError(
            f"scene {scene.id!r}: pixel ({points[i, 0]:.1f}, {points[i, 1]:.1f}) at {there[i, 0]:.6g}, "
            f"{there[i, 1]:.6g} in {crs_name(text)[:60]} has no coordinates in {crs_name(crs)[:60]}; check the scene's "
            "georeference, or choose another CRS for the output"
        )
    return out
