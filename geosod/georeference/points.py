"""Where points of a scene lie on the ground.

A scene is georeferenced by a CRS and an affine transform or a locator. A scene without these is a *pixel scene*; every
function here except `georeferenced` and `on_earth` refuses it.

Parts of a georeferenced scene may have no position on the ground: the corners of a geostationary full disk look past
the Earth, those of a sinusoidal map lie outside it, and a DEM may end before the scene. PROJ and GDAL may return
any coordinates for such a pixel, so each result is transformed back and must give the same pixel again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine
from pyproj import Transformer

from geosod.arrays import BoolArray, FloatArray, paired
from geosod.errors import SceneError
from geosod.georeference.crs import crs_name, geodetic, is_earth, period, transformer
from geosod.georeference.outlines import COARSE, lattice, region_where, samples
from geosod.georeference.transforms import to_crs, to_pixels
from geosod.scene import Scene

#: Scenes of which what was computed is kept: more than are in progress at a time, see `running.local_engine`.
SCENES = 1024
#: Tolerance of a round trip to the ground and back: pixels, but at least so many metres.
_TOLERANCE, _MIN_METRES = 0.01, 0.01


def georeferenced(scene: Scene) -> bool:
    """True where the scene has a CRS, and a transform or locator to it."""
    return scene.crs is not None and (scene.transform is not None or scene.locator is not None)


def on_earth(scene: Scene) -> bool:
    """True for a georeferenced scene of the Earth; SceneError where its CRS has no ellipsoid."""
    return scene.crs is not None and georeferenced(scene) and is_earth(scene.crs)


def apply_affine(transform: Affine, xy: npt.ArrayLike) -> FloatArray:
    """(N, 2) float64 points through an affine transform, which may rotate, shear and mirror."""
    x, y = np.asarray(xy, np.float64).reshape(-1, 2).T
    t = transform
    return paired(t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f)


def pixel_to_crs(scene: Scene, xy: npt.ArrayLike) -> tuple[FloatArray, str]:
    """Scene frame → coordinates of the scene's CRS.

    Latitudes beyond a pole by at most a pixel, as in grids whose rows are centred on the pole, are set to the pole.

    Args:
        scene: a georeferenced scene.
        xy: (N, 2) float64 pixels.

    Returns:
        (N, 2) float64, easting or longitude first, NaN where there are none; and the CRS.

    Raises:
        SceneError: the scene has no georeference.
    """
    pixels = np.asarray(xy, np.float64).reshape(-1, 2)
    if scene.crs is None or not georeferenced(scene):
        raise SceneError(f"scene {scene.id!r} has no georeference (CRS or transform missing); assign one to the file")
    if scene.transform is not None:
        out = apply_affine(scene.transform, pixels)
    else:
        assert scene.locator is not None  # checked above
        out = to_crs(scene.locator, pixels / np.array(scene.scale))
    if (pole := geodetic(scene.crs).pole) is not None:
        pixel = 0.0 if scene.transform is None else max(abs(scene.transform.d), abs(scene.transform.e))
        out[np.abs(out[:, 1]) > pole + pixel * (1 + 1e-9)] = np.nan
        out[:, 1] = np.clip(out[:, 1], -pole, pole)
    return out, scene.crs


def crs_to_pixel(scene: Scene, xy: FloatArray) -> FloatArray:
    """Coordinates of the scene's CRS → scene frame, both (N, 2) float64; the inverse of `pixel_to_crs`.

    The pixels may lie outside the scene; NaN where a locator finds none.
    """
    if scene.transform is not None:
        out = apply_affine(~scene.transform, xy)
        out[~np.isfinite(out).all(axis=1)] = np.nan
        return out
    assert scene.locator is not None  # a georeferenced scene has one or the other
    return np.asarray(to_pixels(scene.locator, xy) * np.array(scene.scale))


def pixel_to_lonlat(scene: Scene, xy: npt.ArrayLike, *, trusted: bool = False) -> FloatArray:
    """Scene frame → longitude and latitude in degrees, on the datum of the scene's own CRS.

    Args:
        scene: a georeferenced scene.
        xy: (N, 2) float64 pixels.
        trusted: skip the round trip, since all pixels are known to have a position.

    Returns:
        (N, 2) float64; NaN where a pixel has no position.

    Raises:
        SceneError: the scene has no georeference, or its CRS no ellipsoid.
    """
    native, text = pixel_to_crs(scene, xy)
    degrees, metres, _, to_geodetic = geodetic(text)
    if to_geodetic is None:
        return native * degrees
    out = paired(*to_geodetic.transform(*native.T))
    if trusted:
        return out * degrees
    back = paired(*to_geodetic.transform(out[:, 0], out[:, 1], direction="INVERSE"))
    with np.errstate(invalid="ignore"):
        miss = back - native
        step = period(text)
        miss[:, 0] -= 0 if step is None else step * np.rint(miss[:, 0] / step)
        lost = ~(np.abs(miss).max(axis=1) <= _tolerance(scene, metres))
    out[lost] = np.nan
    return out * degrees


def _tolerance(scene: Scene, unit: float) -> float:
    """The tolerance of a round trip in units of the CRS, which are `unit` metres long."""
    pixel = 0.0 if scene.transform is None else float(np.sqrt(abs(scene.transform.determinant)))
    return max(_TOLERANCE * pixel, _MIN_METRES / unit)


def scene_lattice(scene: Scene, most: int) -> FloatArray:
    """(N, 2) float64 points of the scene frame on a lattice, border and centre included; see `samples`."""
    n = samples(scene.width, scene.height, most)
    return lattice(np.linspace(0, scene.width, n), np.linspace(0, scene.height, n))


@lru_cache(maxsize=SCENES)
def ground_region(scene: Scene) -> Any | None:
    """The part of a georeferenced scene with a position on the ground, in the scene frame; see `region_where`.

    None where it is the whole scene; SceneError where it is empty, or as `pixel_to_lonlat`.
    """

    def has_position(xy: FloatArray) -> BoolArray:
        return np.asarray(np.isfinite(pixel_to_lonlat(scene, xy)).all(axis=1), np.bool_)

    # Nearly all map projections hold a convex part of the plane, of which corners outside are found by few points; not
    # so the holes of a DEM.
    if scene.transform is not None and has_position(scene_lattice(scene, COARSE)).all():
        return None
    region = region_where(has_position, 0.0, 0.0, scene.width, scene.height)
    if region.is_empty:
        ((x, y),), text = pixel_to_crs(scene, [[scene.width / 2, scene.height / 2]])
        raise SceneError(
            f"scene {scene.id!r}: no pixel has a position on the ground; the coordinates of its centre are "
            f"{x:.6g}, {y:.6g} in {crs_name(text)[:60]}; check its georeference"
        )
    return None if region.equals(shapely.box(0, 0, scene.width, scene.height)) else region


@lru_cache(maxsize=SCENES)
def centre(scene: Scene) -> tuple[float, float]:
    """Longitude in −180…180 and latitude near a scene's centre, on its own datum; SceneError as `ground_region`."""
    lon, lat = pixel_to_lonlat(scene, [[scene.width / 2, scene.height / 2]])[0]
    if not np.isfinite(lon + lat):
        region = ground_region(scene)
        point = shapely.point_on_surface(shapely.box(0, 0, scene.width, scene.height) if region is None else region)
        lon, lat = np.nan_to_num(pixel_to_lonlat(scene, shapely.get_coordinates(point))[0])
    return round(float((lon + 180) % 360 - 180), 2), round(float(lat), 2)


def transformer_to(scene: Scene, crs: str) -> Transformer:
    """The transformation from the scene's CRS to another one, the same for all pixels; raises as `transformer`."""
    return transformer(scene.crs or "", crs, centre(scene))


def unplaced_share(scene: Scene) -> float:
    """The share of a scene's pixels that have no position on the ground; SceneError as `ground_region`."""
    region = ground_region(scene)
    return 0.0 if region is None else 1.0 - float(region.area) / (scene.width * scene.height)


def placed_everywhere(scene: Scene) -> bool:
    """True where every pixel has a position; never with a DEM, whose holes may lie between the samples."""
    return getattr(scene.locator, "dem", None) is None and ground_region(scene) is None


def placed(scene: Scene, boxes: FloatArray) -> BoolArray:
    """Which boxes have a position on the ground; remove the others before calling any other function.

    Args:
        scene: a georeferenced scene.
        boxes: (N, 4) float64 ``x0, y0, x1, y1``, scene frame.

    Returns:
        (N,) bool, True where corners, midpoints of sides and centre have a position; SceneError as `ground_region`.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    if placed_everywhere(scene):
        return np.ones(len(boxes), np.bool_)
    x0, y0, x1, y1 = boxes.T
    xs, ys = (x0, (x0 + x1) / 2, x1), (y0, (y0 + y1) / 2, y1)
    nine = np.stack([paired(x, y) for x in xs for y in ys], axis=1)
    finite = np.isfinite(pixel_to_lonlat(scene, nine.reshape(-1, 2))).all(axis=1)
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
        SceneError: the scene has no georeference or lies on another body than `crs`, or a point has no position.
    """
    pixels = np.asarray(xy, np.float64).reshape(-1, 2)
    native, text = pixel_to_crs(scene, pixels)
    out = paired(*transformer_to(scene, crs).transform(*native.T))
    lonlat = out if placed_everywhere(scene) else pixel_to_lonlat(scene, pixels)
    if not (np.isfinite(out).all() and np.isfinite(lonlat).all()):
        i = int(np.flatnonzero(~np.isfinite(out + lonlat).all(axis=1))[0])
        raise SceneError(
            f"scene {scene.id!r}: pixel ({pixels[i, 0]:.1f}, {pixels[i, 1]:.1f}) at {native[i, 0]:.6g}, "
            f"{native[i, 1]:.6g} in {crs_name(text)[:60]} has no coordinates in {crs_name(crs)[:60]}; check the "
            "scene's georeference, or choose another CRS for the output"
        )
    return out
