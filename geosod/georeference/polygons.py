"""Boxes and polygons of pixels → polygons of a CRS."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.errors import SceneError
from geosod.georeference.antimeridian import geographic_polygons, oriented
from geosod.georeference.crs import (
    LONLAT,
    crs_name,
    full_turn,
    geodetic_text,
    horizontal_crs,
    parse_crs,
    radius,
    transformer,
)
from geosod.georeference.points import (
    georeferenced,
    ground_region,
    located,
    on_earth,
    placed,
    placed_everywhere,
    project,
    to_ground,
    unplaced_share,
)
from geosod.georeference.valid_region import with_corners
from geosod.scene import Scene

__all__ = [
    "LONLAT",
    "crs_name",
    "densify",
    "footprint",
    "georeferenced",
    "ground_geometries",
    "ground_polygons",
    "ground_region",
    "located",
    "lonlat_centres",
    "on_earth",
    "on_ground",
    "parse_crs",
    "pixel_polygons",
    "placed",
    "project",
    "to_ground",
    "unplaced_share",
]

Geometries = npt.NDArray[Any]

#: Pieces that the edge of a scene is cut into before it is projected, so that it follows its curve.
EDGE_PIECES = 20


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
        boxes: (N, 4) float64 ``x0, y0, x1, y1``, scene frame; all `placed`.
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
    x0, y0, x1, y1 = shapely.bounds(out).reshape(-1, 4).T
    long = np.maximum(x1 - x0, y1 - y0) > step
    out[long] = shapely.segmentize(out[long], step)
    return out


def on_ground(scene: Scene, polygons: Geometries) -> tuple[Geometries, IntArray]:
    """What of some polygons has a place on the ground, ready to be projected.

    Args:
        scene: a georeferenced scene.
        polygons: (N,) shapely Polygons, holes allowed, scene frame.

    Returns:
        (M,) Polygons with long edges cut as by `densify`, and (M,) int64, which of the N each is a part of. Where the
        whole scene has a place they are the N polygons; else some are smaller or in pieces, and others gone.

    Raises:
        SceneError: as `ground_region`.
    """
    polygons = np.asarray(polygons, object).reshape(-1)
    index = np.arange(len(polygons))
    if placed_everywhere(scene):
        return densify(scene, polygons), index
    region = ground_region(scene)
    if region is not None:
        shapely.prepare(region)
        inside = shapely.contains_properly(region, polygons)
        cut, origin = _parts(shapely.intersection(polygons[~inside], region), index[~inside])
        polygons, index = np.concatenate([polygons[inside], cut]), np.concatenate([index[inside], origin])
        order = np.argsort(index, kind="stable")
        polygons, index = polygons[order], index[order]
    dense = densify(scene, polygons)
    corners = shapely.get_coordinates(dense)
    fine: BoolArray = np.asarray(np.isfinite(located(scene, corners)).all(axis=1))
    return _parts(with_corners(dense, corners, fine), index)


def _parts(geometries: Any, index: IntArray) -> tuple[Geometries, IntArray]:
    """The polygons of geometries of any kind, and the index of each one's origin."""
    parts, first = shapely.get_parts(np.asarray(geometries, object).reshape(-1), return_index=True)
    again, second = shapely.get_parts(parts, return_index=True)
    kept = (shapely.get_type_id(again) == shapely.GeometryType.POLYGON) & (shapely.area(again) > 0)
    return np.asarray(again[kept], object), index[first[second[kept]]]


def ground_geometries(scene: Scene, polygons: Geometries, crs: str) -> Geometries:
    """Polygons of the scene frame, projected vertex by vertex.

    Args:
        scene: a georeferenced scene.
        polygons: (N,) shapely Polygons, holes allowed, scene frame, from `on_ground` where they are large.
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
    target = horizontal_crs(crs)
    if target.is_geographic:
        return geographic_polygons(xy, rings, parts, full_turn(target))
    out = oriented(shapely.from_ragged_array(shapely.GeometryType.POLYGON, xy, (rings, parts)))
    torn = _torn(xy, rings, parts, crs)
    if torn.any():
        split = ground_geometries(scene, np.asarray(polygons, object)[torn], geodetic_text(crs))
        out[torn] = [_reprojected(scene, geometry, crs) for geometry in split]
    return out


def _torn(xy: FloatArray, rings: npt.NDArray[Any], parts: npt.NDArray[Any], crs: str) -> BoolArray:
    """(N,) True where an edge runs across the map, a quarter of the way round the body or farther.

    The polygon then lies on both sides of the map's cut.
    """
    jump = np.abs(np.diff(xy, axis=0, prepend=xy[:1])).max(axis=1)
    jump *= horizontal_crs(crs).axis_info[0].unit_conversion_factor
    jump[rings[:-1]] = 0
    far = jump > np.pi / 2 * radius(crs)
    return np.asarray(np.logical_or.reduceat(np.logical_or.reduceat(far, rings[:-1]), parts[:-1]), np.bool_)


def _reprojected(scene: Scene, geometry: Any, crs: str) -> Any:
    """A geometry in degrees, already cut at the antimeridian, put in a projected CRS."""
    way = transformer(geodetic_text(crs), crs)
    out = shapely.transform(geometry, lambda xy: np.stack(way.transform(*xy.T), axis=1))
    _, xy, (rings, parts) = shapely.to_ragged_array(shapely.get_parts(out))
    if not np.isfinite(xy).all() or _torn(xy, rings, parts, crs).any():
        raise SceneError(
            f"scene {scene.id!r} lies across the cut of {crs_name(crs)[:60]}, which is not the antimeridian; "
            f"choose another CRS for the output, such as {crs_name(geodetic_text(crs))[:60]}"
        )
    return oriented(np.array([out], object))[0]


def lonlat_centres(scene: Scene, boxes: FloatArray) -> FloatArray:
    """Centres of boxes in longitude and latitude.

    Args:
        scene: a georeferenced scene of the Earth.
        boxes: (N, 4) float64, scene frame; all `placed`.

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
    """Outline of what of the scene has a place, in `crs`: a Polygon, or a MultiPolygon across the antimeridian.

    Raises:
        SceneError: as `project` and `ground_region`.
    """
    frame, _ = on_ground(scene, pixel_polygons(np.array([[0.0, 0.0, scene.width, scene.height]])))
    outlines = ground_geometries(scene, frame, crs)
    if len(outlines) == 1:
        return outlines[0]
    return oriented(np.array([shapely.union_all(outlines)], object))[0]
