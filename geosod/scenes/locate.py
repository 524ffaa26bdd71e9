"""Where pixels lie on the ground: pure functions on arrays, no file is opened.

A scene without CRS or transform is a *pixel scene*: it has no place on the ground, and every function
here but `georeferenced` and `pixel_polygons` refuses it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine
from pyproj import CRS, Geod, Proj, Transformer
from pyproj.exceptions import CRSError, ProjError

from geosod.errors import ConfigError, SceneError
from geosod.scenes.antimeridian import geographic_polygons, oriented
from geosod.types import FloatArray, Scene

Geometries = npt.NDArray[Any]

#: Longitude and latitude in degrees on WGS 84, in this order.
LONLAT = "OGC:CRS84"
#: Pieces that the edge of a scene is cut into before it is projected, so that it follows its curve.
EDGE_PIECES = 20
#: Beyond this distance from the scene's centre an azimuthal projection is too near its singular point.
_AZIMUTHAL_REACH = 1.0e7
#: An edge longer than this on the map, in metres, joins its two margins.
_WORLD_JUMP = 1.0e7


def georeferenced(scene: Scene) -> bool:
    """True where the scene has both a CRS and a transform."""
    return scene.crs is not None and scene.transform is not None


def crs_name(wkt: str) -> str:
    """Short name of a CRS: "AUTHORITY:CODE" where it has one, else its name, else its WKT.

    Args:
        wkt: WKT, PROJJSON, "AUTHORITY:CODE" or anything else that pyproj understands.
    """
    crs = parse_crs(wkt)
    authority = crs.to_authority(min_confidence=100)
    return ":".join(authority) if authority else (crs.name if crs.name not in ("", "unknown") else crs.to_wkt())


@lru_cache(maxsize=64)
def parse_crs(text: str) -> CRS:
    """The CRS that `text` stands for; ConfigError where pyproj does not know it."""
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise ConfigError(f"CRS {text[:80]!r} is not known to PROJ; give an EPSG code such as EPSG:32633") from error


@lru_cache(maxsize=64)
def _transformer(source: str, target: str) -> Transformer:
    try:
        return Transformer.from_crs(parse_crs(source), parse_crs(target), always_xy=True)
    except ProjError as error:
        reason = str(error).splitlines()[0][:200]
        raise SceneError(
            f"CRS {crs_name(source)[:80]!r} cannot be transformed to {crs_name(target)[:80]!r} ({reason}); "
            "scenes off the Earth or in a local frame have no place in this dataset: assign an Earth CRS, "
            "or none at all to get pixel coordinates"
        ) from error


def to_ground(transform: Affine, xy: npt.ArrayLike) -> FloatArray:
    """Scene frame → coordinates of the scene's CRS.

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
        SceneError: the scene has no georeference, or a point has no place in `crs`.
    """
    points = np.asarray(xy, np.float64).reshape(-1, 2)
    if scene.crs is None or scene.transform is None:
        raise SceneError(
            f"scene {scene.id!r} has no georeference (CRS or transform missing): it has no place on the ground"
        )
    x, y = to_ground(scene.transform, points).T
    out = np.stack(_transformer(scene.crs, crs).transform(x, y), axis=1)
    bad = ~np.isfinite(out).all(axis=1)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise SceneError(
            f"scene {scene.id!r}: pixel ({points[i, 0]:.1f}, {points[i, 1]:.1f}) at {x[i]:.6g}, {y[i]:.6g} in "
            f"{crs_name(scene.crs)[:60]} has no coordinates in {crs_name(crs)[:60]}; check the scene's georeference, "
            "or choose another CRS for the output"
        )
    return out


def pixel_polygons(boxes: FloatArray) -> Geometries:
    """Boxes as polygons in the scene frame.

    Args:
        boxes: (N, 4) float64 ``x0, y0, x1, y1``.

    Returns:
        (N,) object array of shapely polygons.
    """
    x0, y0, x1, y1 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    return np.asarray(shapely.box(x0, y0, x1, y1), object).reshape(-1)


def ground_polygons(scene: Scene, boxes: FloatArray, crs: str) -> Geometries:
    """Boxes as polygons in `crs`: their four corners, projected.

    Args:
        scene: a georeferenced scene.
        boxes: (N, 4) float64 ``x0, y0, x1, y1``, scene frame.
        crs: target CRS.

    Returns:
        (N,) object array of Polygons, counter-clockwise. A box across the antimeridian is a MultiPolygon where
        the map ends there: with longitudes in −180…180 in a geographic `crs` (RFC 7946, section 3.1.9), at both
        margins in, say, Web Mercator.

    Raises:
        SceneError: as `project`.
    """
    return ground_geometries(scene, pixel_polygons(boxes), crs)


def densify(scene: Scene, geometries: Any) -> Geometries:
    """Cut edges longer than a 20th of the scene's longer side, so that they follow their curve when projected."""
    step = max(scene.width, scene.height) / EDGE_PIECES
    out = np.array(geometries, object).reshape(-1)
    x0, y0, x1, y1 = shapely.bounds(out).T
    long = np.maximum(x1 - x0, y1 - y0) > step
    out[long] = shapely.segmentize(out[long], step)
    return out


def ground_geometries(scene: Scene, polygons: Geometries, crs: str) -> Geometries:
    """Polygons of the scene frame, projected vertex by vertex.

    Args:
        scene: a georeferenced scene.
        polygons: (N,) shapely Polygons, holes allowed, scene frame. Long edges should be cut by `densify`.
        crs: target CRS.

    Returns:
        (N,) object array of Polygons or MultiPolygons, as `ground_polygons`. Polygons around a pole reach it.

    Raises:
        SceneError: as `project`.
    """
    if len(polygons) == 0:
        return np.empty(0, object)
    _, pixels, (rings, parts) = shapely.to_ragged_array(polygons)
    xy = project(scene, pixels, crs)
    target = parse_crs(crs)
    if target.is_geographic:
        return geographic_polygons(xy, rings, parts, full_turn(target))
    out = oriented(shapely.from_ragged_array(shapely.GeometryType.POLYGON, xy, (rings, parts)))
    torn = _torn(xy, rings, parts, target)
    if torn.any():
        split = ground_geometries(scene, np.asarray(polygons, object)[torn], LONLAT)
        out[torn] = [_reprojected(scene, geometry, crs) for geometry in split]
    return out


def _torn(xy: FloatArray, rings: npt.NDArray[Any], parts: npt.NDArray[Any], crs: CRS) -> npt.NDArray[np.bool_]:
    """(N,) True where an edge runs across the map: the polygon lies on both sides of its cut."""
    jump = np.abs(np.diff(xy, axis=0, prepend=xy[:1])).max(axis=1) * crs.axis_info[0].unit_conversion_factor
    jump[rings[:-1]] = 0
    return np.logical_or.reduceat(np.logical_or.reduceat(jump > _WORLD_JUMP, rings[:-1]), parts[:-1])


def _reprojected(scene: Scene, geometry: Any, crs: str) -> Any:
    """A geometry in degrees, already cut at the antimeridian, put in a projected CRS."""
    transformer = _transformer(LONLAT, crs)
    out = shapely.transform(geometry, lambda xy: np.stack(transformer.transform(*xy.T), axis=1))
    _, xy, (rings, parts) = shapely.to_ragged_array(shapely.get_parts(out))
    if not np.isfinite(xy).all() or _torn(xy, rings, parts, parse_crs(crs)).any():
        raise SceneError(
            f"scene {scene.id!r} lies across the cut of {crs_name(crs)[:60]}, which is not the antimeridian; "
            f"choose another CRS for the output, such as {LONLAT}"
        )
    return oriented(np.array([out], object))[0]


def full_turn(crs: CRS) -> float:
    """How many units of a geographic CRS make a full turn: 360 for degrees, 400 for grads."""
    return float(round(2 * np.pi / crs.axis_info[0].unit_conversion_factor, 6))


def lonlat_centres(scene: Scene, boxes: FloatArray) -> FloatArray:
    """Centres of boxes in longitude and latitude.

    Args:
        scene: a georeferenced scene.
        boxes: (N, 4) float64, scene frame.

    Returns:
        (N, 2) float64 degrees on WGS 84, longitude in −180…180.

    Raises:
        SceneError: as `project`.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    out = project(scene, (boxes[:, :2] + boxes[:, 2:]) / 2, LONLAT)
    outside = np.abs(out[:, 0]) > 180
    out[outside, 0] = (out[outside, 0] + 180) % 360 - 180
    return out


def footprint(scene: Scene, crs: str = LONLAT) -> Any:
    """Outline of the scene in `crs`: a Polygon, or a MultiPolygon across the antimeridian."""
    outline = densify(scene, pixel_polygons(np.array([[0.0, 0.0, scene.width, scene.height]])))
    return ground_geometries(scene, outline, crs)[0]


def _geodetic(scene: Scene, xy: FloatArray) -> tuple[FloatArray, FloatArray, Geod]:
    """Degrees on the ellipsoid of the scene's own CRS (no change of datum), and that ellipsoid."""
    crs = parse_crs(scene.crs) if scene.crs is not None else None
    geodetic = crs.geodetic_crs if crs is not None else None
    geod = geodetic.get_geod() if geodetic is not None else None
    if geodetic is None or geod is None:
        name = "none" if scene.crs is None else crs_name(scene.crs)[:80]
        raise SceneError(f"scene {scene.id!r}: its CRS ({name}) has no ellipsoid, so nothing can be measured in metres")
    degrees = 360 / full_turn(geodetic)
    lon, lat = project(scene, xy, geodetic.to_wkt()).T * degrees
    return lon, np.clip(lat, -90, 90), geod


def ground_size(scene: Scene, boxes: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """True size of boxes on the ellipsoid of the scene's CRS.

    Width and height are geodesic distances (Karney 2013, through pyproj) along the box's x and y axes
    through its centre. The area is that of the corners in an equal-area projection about the scene's
    centre; it is within 0.1 % of the geodesic polygon's for boxes up to some hundred kilometres.

    Args:
        scene: a georeferenced scene.
        boxes: (N, 4) float64 ``x0, y0, x1, y1``, scene frame.

    Returns:
        Width in m, height in m, area in m², each (N,) float64.

    Raises:
        SceneError: as `project`, or the CRS has no ellipsoid.
    """
    x0, y0, x1, y1 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    xc, yc = (x0 + x1) / 2, (y0 + y1) / 2
    ends = np.concatenate([np.stack(p, axis=1) for p in ((x0, yc), (x1, yc), (xc, y0), (xc, y1))])
    lon, lat, geod = _geodetic(scene, ends)
    west, east, north, south = np.split(np.arange(len(ends)), 4)
    width = geod.inv(lon[west], lat[west], lon[east], lat[east])[2]
    height = geod.inv(lon[north], lat[north], lon[south], lat[south])[2]
    corners = np.stack([x0, y0, x1, y0, x1, y1, x0, y1], axis=1).reshape(-1, 2)
    x, y = equal_area(scene, corners).reshape(-1, 4, 2).transpose(2, 0, 1)
    # Twice the area of a quadrilateral is the cross product of its diagonals.
    area = np.abs((x[:, 2] - x[:, 0]) * (y[:, 3] - y[:, 1]) - (x[:, 3] - x[:, 1]) * (y[:, 2] - y[:, 0])) / 2
    return np.asarray(width, np.float64), np.asarray(height, np.float64), area


def equal_area(scene: Scene, xy: FloatArray) -> FloatArray:
    """Scene frame → metres in an equal-area projection of the scene's ellipsoid.

    Lambert's azimuthal projection about the scene's centre (so neither the antimeridian nor a pole is
    an edge); his cylindrical one where the scene reaches farther than 10,000 km from its centre.

    Args:
        scene: a georeferenced scene.
        xy: (N, 2) float64 pixels.

    Returns:
        (N, 2) float64 metres.

    Raises:
        SceneError: as `ground_size`.
    """
    projection = _equal_area_projection(scene)
    lon, lat, _ = _geodetic(scene, np.asarray(xy, np.float64).reshape(-1, 2))
    out = np.stack(projection(lon, lat), axis=1)
    if not np.isfinite(out).all():
        raise SceneError(f"scene {scene.id!r}: areas cannot be computed for all of it; check its georeference")
    return out


def _equal_area_projection(scene: Scene) -> Proj:
    w, h = scene.width, scene.height
    frame = np.array([[w / 2, h / 2], [0, 0], [w, 0], [0, h], [w, h], [0, h / 2], [w, h / 2], [w / 2, 0], [w / 2, h]])
    lon, lat, geod = _geodetic(scene, frame.astype(np.float64))
    reach = geod.inv(np.full(8, lon[0]), np.full(8, lat[0]), lon[1:], lat[1:])[2]
    if np.max(reach) < _AZIMUTHAL_REACH:
        return Proj(proj="laea", lat_0=lat[0], lon_0=lon[0], a=geod.a, b=geod.b)
    return Proj(proj="cea", lon_0=lon[0], a=geod.a, b=geod.b, over=True)
