"""True sizes of boxes: lengths along the ellipsoid, areas in an equal-area projection."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from pyproj import Geod, Transformer

from geosod.arrays import FloatArray, paired
from geosod.errors import SceneError
from geosod.georeference.crs import ellipsoid
from geosod.georeference.outlines import lattice
from geosod.georeference.points import (
    SCENES,
    georeferenced,
    pixel_to_lonlat,
    placed_everywhere,
    scene_lattice,
    unplaced_share,
)
from geosod.georeference.polygons import footprint
from geosod.scene import Scene

#: Points along each side of a scene that are sampled to find its centre on the ground.
_SAMPLES = 33
#: Points that are checked one by one.
_FEW = 64
#: Edges of boxes longer than this, in metres, are split into segments, since they are curves on the ground.
_STRAIGHT, _SEGMENTS = 10_000.0, 4


def check_ground(scene: Scene, crs: str) -> str | None:
    """Check before any work is done that a georeferenced scene can be projected to `crs` and measured.

    Returns:
        A warning for the user where part of the scene has no position on the ground, else None.

    Raises:
        SceneError: it cannot.
    """
    footprint(scene, crs)
    _equal_area_projection(scene)
    share = unplaced_share(scene)
    if share == 0:
        return None
    return (
        f"{scene.id}: {100 * share:.3g} % of its pixels have no place on the ground (they look past it, or no height "
        "is known there); they are left out, boxes and coverage"
    )


def pixel_on_ground(scene: Scene) -> tuple[float, float] | None:
    """Width and height in metres of the pixel at the centre of a scene, or of the nearest one with a position.

    None where the scene has no georeference or no ellipsoid, or none of the pixels tried has a position.
    """
    if not georeferenced(scene):
        return None
    middle = np.array([scene.width // 2, scene.height // 2], np.float64)
    if (size := _first_pixel(scene, middle[None])) is not None:
        return size
    columns, rows = (np.linspace(0, side - 1, min(_SAMPLES, side)).round() for side in (scene.width, scene.height))
    corners = lattice(columns, rows)
    return _first_pixel(scene, corners[np.argsort(((corners - middle) ** 2).sum(axis=1), kind="stable")])


def _first_pixel(scene: Scene, corners: FloatArray) -> tuple[float, float] | None:
    """Width and height in metres of the first of some pixels that has a position and a size."""
    boxes = np.concatenate([corners, corners + 1], axis=1)
    x0, y0, x1, y1 = boxes.T
    around = np.stack([paired(*p) for p in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))])
    try:
        placed = np.isfinite(pixel_to_lonlat(scene, around.reshape(-1, 2))).all(axis=1).reshape(4, -1).all(axis=0)
        width, height = _lengths(scene, boxes[placed])
    except SceneError:
        return None
    # At a pole, which grids may go beyond by half a pixel, pixels have no width.
    real = np.flatnonzero((width > 0) & (height > 0))
    return (float(width[real[0]]), float(height[real[0]])) if len(real) else None


def ground_size(scene: Scene, boxes: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """True size of boxes on the ellipsoid of the scene's CRS.

    Width and height are geodesic distances (Karney 2013, through pyproj) along the box's x and y axes through its
    centre. The area is computed in an equal-area projection about the scene's centre; it is within 0.1 % of the
    geodesic polygon's for boxes up to some hundred kilometres. Edges of boxes over 10 km are treated as curves.

    Args:
        scene: a georeferenced scene.
        boxes: (N, 4) float64 ``x0, y0, x1, y1``, scene frame; all `placed`.

    Returns:
        Width in m, height in m, area in m², each (N,) float64.

    Raises:
        SceneError: a box has no position, or the CRS has no ellipsoid.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    width, height = _lengths(scene, boxes)
    area = _areas(scene, boxes, 1)
    long = np.maximum(width, height) > _STRAIGHT
    if long.any():
        area[long] = _areas(scene, boxes[long], _SEGMENTS)
    return width, height, area


def _lengths(scene: Scene, boxes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Width and height of `ground_size`."""
    x0, y0, x1, y1 = boxes.T
    xc, yc = (x0 + x1) / 2, (y0 + y1) / 2
    ends = np.concatenate([paired(*p) for p in ((x0, yc), (x1, yc), (xc, y0), (xc, y1))])
    lonlat, geod = _finite_lonlat(scene, ends).T, ellipsoid(scene.crs or "")
    west, east, north, south = np.ascontiguousarray(lonlat).reshape(2, 4, -1).transpose(1, 0, 2)
    width = geod.inv(*west, *east)[2]
    height = geod.inv(*north, *south)[2]
    return np.asarray(width, np.float64), np.asarray(height, np.float64)


def _areas(scene: Scene, boxes: FloatArray, segments: int) -> FloatArray:
    """(N,) areas of boxes in m², with each edge split into segments."""
    along = np.arange(segments) / segments
    zero, one = np.zeros(segments), np.ones(segments)
    sides = ((along, zero), (one, along), (1 - along, one), (zero, 1 - along))
    unit = np.concatenate([paired(*side) for side in sides])
    x0, y0, x1, y1 = boxes.T[..., None]
    ring = np.stack([x0 + (x1 - x0) * unit[:, 0], y0 + (y1 - y0) * unit[:, 1]], axis=-1)
    flat = equal_area(scene, ring.reshape(-1, 2)).reshape(ring.shape)
    x, y = np.moveaxis(flat - flat[:, :1], -1, 0)
    out: FloatArray = np.abs((x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1)) / 2
    return out


def equal_area(scene: Scene, xy: FloatArray) -> FloatArray:
    """Scene frame → metres in an equal-area projection of the scene's ellipsoid.

    Lambert's azimuthal projection about the scene's centre, so that neither the antimeridian nor a pole is an edge;
    his cylindrical one where the scene extends over more than a quarter of the body from its centre.

    Both are (N, 2) float64, and all pixels must have a position on the ground; SceneError as `ground_size`.
    """
    projection = _transformer(_equal_area_projection(scene))
    lon, lat = _finite_lonlat(scene, np.asarray(xy, np.float64).reshape(-1, 2)).T
    out = paired(*projection.transform(lon, lat))
    if not np.isfinite(out).all():
        raise SceneError(f"scene {scene.id!r}: areas cannot be computed for all of it; check its georeference")
    return out


def _finite_lonlat(scene: Scene, xy: FloatArray) -> FloatArray:
    # For a few points the round trip costs less than to find out that every pixel has a position.
    out = pixel_to_lonlat(scene, xy, trusted=len(xy) > _FEW and placed_everywhere(scene))
    if not np.isfinite(out).all():
        x, y = xy[int(np.flatnonzero(~np.isfinite(out).all(axis=1))[0])]
        raise SceneError(
            f"scene {scene.id!r}: pixel ({x:.1f}, {y:.1f}) has no position on the ground; check its georeference"
        )
    return out


@lru_cache(maxsize=SCENES)
def _equal_area_projection(scene: Scene) -> str:
    """PROJ's pipeline from degrees to metres; SceneError as `ground_size`."""
    everywhere = placed_everywhere(scene)
    if everywhere:  # the middle is the centre, and the corners are among the points that are farthest from it
        grid = scene_lattice(scene, _SAMPLES)
    else:
        grid = lattice(np.linspace(0, scene.width, _SAMPLES), np.linspace(0, scene.height, _SAMPLES))
    lonlat = pixel_to_lonlat(scene, grid, trusted=everywhere)
    finite = np.isfinite(lonlat).all(axis=1)
    if not finite.any():
        raise SceneError(f"scene {scene.id!r}: no part has a position on the ground; check its georeference")
    grid, (lon, lat), geod = grid[finite], lonlat[finite].T, ellipsoid(scene.crs or "")
    centre = int(np.argmin(((grid - (grid.min(axis=0) + grid.max(axis=0)) / 2) ** 2).sum(axis=1)))
    reach = geod.inv(np.full(len(lon), lon[centre]), np.full(len(lon), lat[centre]), lon, lat)[2]
    if np.max(reach) < np.pi / 2 * geod.a:
        return _projection(f"+proj=laea +lat_0={float(lat[centre])!r}", float(lon[centre]), geod)
    return _projection("+proj=cea +over", float(lon[centre]), geod)


def _projection(projection: str, lon: float, geod: Geod) -> str:
    """Degrees → metres about a meridian."""
    steps = f"+step +proj=unitconvert +xy_in=deg +xy_out=rad +step {projection}"
    return f"+proj=pipeline {steps} +lon_0={lon!r} +a={float(geod.a)!r} +b={float(geod.b)!r}"


@lru_cache(maxsize=64)
def _transformer(pipeline: str) -> Transformer:
    """Threads may share a Transformer, but not a Proj. One is made where it is used, since each thread gets its own."""
    return Transformer.from_pipeline(pipeline)
