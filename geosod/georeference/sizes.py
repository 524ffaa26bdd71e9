"""Sizes on the ground: lengths along the ellipsoid, areas in an equal-area projection."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from pyproj import Geod, Proj

from geosod.arrays import FloatArray
from geosod.errors import SceneError
from geosod.georeference.crs import horizontal_crs
from geosod.georeference.points import located, placed_everywhere, unplaced_share
from geosod.georeference.polygons import footprint
from geosod.scene import Scene

#: Points along each side of a scene among which its middle on the ground is looked for.
_SAMPLES = 33
#: Metres up to which the edges of a box are taken for straight, and the pieces they are cut into beyond.
_STRAIGHT, _PIECES = 10_000.0, 4


def check_ground(scene: Scene, crs: str) -> str | None:
    """See before any work is done whether a georeferenced scene can be put in `crs` and measured.

    Args:
        scene: a georeferenced scene.
        crs: CRS of the output.

    Returns:
        A line for the user where part of the scene has no place on the ground, else None.

    Raises:
        SceneError: it cannot.
    """
    footprint(scene, crs)
    equal_area(scene, np.empty((0, 2)))
    share = unplaced_share(scene)
    if share == 0:
        return None
    return (
        f"{scene.id}: {100 * share:.3g} % of its pixels have no place on the ground (they look past it, or no height "
        "is known there); they are left out, boxes and coverage"
    )


def ground_size(scene: Scene, boxes: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """True size of boxes on the ellipsoid of the scene's CRS.

    Width and height are geodesic distances (Karney 2013, through pyproj) along the box's x and y axes through its
    centre. The area is that within the box's edges, which are curves on the ground, in an equal-area projection about
    the scene's middle; it is within 0.1 % of the geodesic polygon's for boxes up to some hundred kilometres. Of boxes
    under 10 km the edges are taken for straight.

    Args:
        scene: a georeferenced scene.
        boxes: (N, 4) float64 ``x0, y0, x1, y1``, scene frame; all `placed`.

    Returns:
        Width in m, height in m, area in m², each (N,) float64.

    Raises:
        SceneError: a box has no place, or the CRS has no ellipsoid.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    x0, y0, x1, y1 = boxes.T
    xc, yc = (x0 + x1) / 2, (y0 + y1) / 2
    ends = np.concatenate([np.stack(p, axis=1) for p in ((x0, yc), (x1, yc), (xc, y0), (xc, y1))])
    (lon, lat), geod = _placed(scene, ends).T, _geod(scene)
    west, east, north, south = np.split(np.arange(len(ends)), 4)
    width = geod.inv(lon[west], lat[west], lon[east], lat[east])[2]
    height = geod.inv(lon[north], lat[north], lon[south], lat[south])[2]
    area = _areas(scene, boxes, 1)
    long = np.maximum(width, height) > _STRAIGHT
    if long.any():
        area[long] = _areas(scene, boxes[long], _PIECES)
    return np.asarray(width, np.float64), np.asarray(height, np.float64), area


def _areas(scene: Scene, boxes: FloatArray, pieces: int) -> FloatArray:
    """(N,) m² within the boxes' edges, each cut into pieces."""
    along = np.arange(pieces) / pieces
    zero, one = np.zeros(pieces), np.ones(pieces)
    sides = ((along, zero), (one, along), (1 - along, one), (zero, 1 - along))
    unit = np.concatenate([np.stack(side, axis=1) for side in sides])
    x0, y0, x1, y1 = boxes.T[..., None]
    ring = np.stack([x0 + (x1 - x0) * unit[:, 0], y0 + (y1 - y0) * unit[:, 1]], axis=-1)
    flat = equal_area(scene, ring.reshape(-1, 2)).reshape(ring.shape)
    x, y = np.moveaxis(flat - flat[:, :1], -1, 0)
    out: FloatArray = np.abs((x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1)) / 2
    return out


def equal_area(scene: Scene, xy: FloatArray) -> FloatArray:
    """Scene frame → metres in an equal-area projection of the scene's ellipsoid.

    Lambert's azimuthal projection about the scene's middle (so neither the antimeridian nor a pole is an edge); his
    cylindrical one where the scene reaches farther than a quarter of the way round the body from it.

    Args:
        scene: a georeferenced scene.
        xy: (N, 2) float64 pixels, all with a place.

    Returns:
        (N, 2) float64 metres.

    Raises:
        SceneError: as `ground_size`.
    """
    projection = _equal_area_projection(scene)
    lon, lat = _placed(scene, np.asarray(xy, np.float64).reshape(-1, 2)).T
    out = np.stack(projection(lon, lat), axis=1)
    if not np.isfinite(out).all():
        raise SceneError(f"scene {scene.id!r}: areas cannot be computed for all of it; check its georeference")
    return out


def _placed(scene: Scene, xy: FloatArray) -> FloatArray:
    out = located(scene, xy, trusted=placed_everywhere(scene))
    bad = ~np.isfinite(out).all(axis=1)
    if bad.any():
        x, y = xy[int(np.flatnonzero(bad)[0])]
        raise SceneError(f"scene {scene.id!r}: pixel ({x:.1f}, {y:.1f}) has no place on the ground to be measured")
    return out


def _geod(scene: Scene) -> Geod:
    """The ellipsoid of a scene that has been placed."""
    geod = horizontal_crs(scene.crs or "").get_geod()
    assert geod is not None  # `located` has seen to it
    return geod


@lru_cache(maxsize=64)
def _equal_area_projection(scene: Scene) -> Proj:
    xs, ys = np.linspace(0, scene.width, _SAMPLES), np.linspace(0, scene.height, _SAMPLES)
    grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    places = located(scene, grid)
    fine = np.isfinite(places).all(axis=1)
    if not fine.any():
        raise SceneError(f"scene {scene.id!r}: no part of it has a place on the ground; check its georeference")
    grid, (lon, lat), geod = grid[fine], places[fine].T, _geod(scene)
    middle = int(np.argmin(((grid - (grid.min(axis=0) + grid.max(axis=0)) / 2) ** 2).sum(axis=1)))
    reach = geod.inv(np.full(len(lon), lon[middle]), np.full(len(lon), lat[middle]), lon, lat)[2]
    if np.max(reach) < np.pi / 2 * geod.a:
        return Proj(proj="laea", lat_0=lat[middle], lon_0=lon[middle], a=geod.a, b=geod.b)
    return Proj(proj="cea", lon_0=lon[middle], a=geod.a, b=geod.b, over=True)
