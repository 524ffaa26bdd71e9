"""Boxes and polygons of pixels as polygons of a CRS."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.errors import SceneError
from geosod.georeference.antimeridian import Geometries, geographic_polygons, oriented
from geosod.georeference.crs import LONLAT, crs_name, full_circle, geodetic_wkt, horizontal_crs, radius, transformer
from geosod.georeference.outlines import polygon_parts, polygon_rings, with_vertices
from geosod.georeference.points import SCENES, ground_region, pixel_to_lonlat, placed_everywhere, project
from geosod.scene import Scene

#: Segments along the longer side of a scene, so that projected edges follow their curves.
EDGE_SEGMENTS = 20


def pixel_polygons(boxes: FloatArray) -> Geometries:
    """(N, 4) float64 boxes ``x0, y0, x1, y1`` as an (N,) object array of polygons in the same frame."""
    x0, y0, x1, y1 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    return np.asarray(shapely.box(x0, y0, x1, y1), object).reshape(-1)


def ground_polygons(scene: Scene, boxes: FloatArray, crs: str) -> Geometries:
    """Boxes as polygons in `crs`, through their four projected corners.

    Args:
        scene: a georeferenced scene.
        boxes: (N, 4) float64 ``x0, y0, x1, y1``, scene frame; all `placed`.
        crs: target CRS.

    Returns:
        (N,) object array of counter-clockwise Polygons. A box across the antimeridian is a MultiPolygon where the
        map ends there: with longitudes in −180…180 in a geographic `crs` (RFC 7946, section 3.1.9), at both edges
        of the map in, for example, Web Mercator.

    Raises:
        SceneError: as `project`.
    """
    return ground_geometries(scene, pixel_polygons(boxes), crs)


def densify(scene: Scene, geometries: Any) -> Geometries:
    """Split edges longer than a 20th of the scene's longer side, so that projected edges follow their curves."""
    step = max(scene.width, scene.height) / EDGE_SEGMENTS
    out = np.array(geometries, object).reshape(-1)
    x0, y0, x1, y1 = shapely.bounds(out).reshape(-1, 4).T
    long = np.maximum(x1 - x0, y1 - y0) > step
    out[long] = shapely.segmentize(out[long], step)
    return out


def clip_to_ground(scene: Scene, polygons: Geometries) -> tuple[Geometries, IntArray]:
    """The parts of polygons that have a position on the ground, ready to be projected.

    Args:
        scene: a georeferenced scene.
        polygons: (N,) shapely Polygons, holes allowed, scene frame.

    Returns:
        (M,) Polygons, densified, and (M,) int64, the index of the polygon that each is a part of. Where the whole
        scene has a position, these are the N polygons.

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
        clipped, origin = polygon_parts(shapely.intersection(polygons[~inside], region))
        polygons, index = (
            np.concatenate([polygons[inside], clipped]),
            np.concatenate([index[inside], index[~inside][origin]]),
        )
        order = np.argsort(index, kind="stable")
        polygons, index = polygons[order], index[order]
    dense = densify(scene, polygons)
    vertices = shapely.get_coordinates(dense)
    finite: BoolArray = np.asarray(np.isfinite(pixel_to_lonlat(scene, vertices)).all(axis=1))
    parts, origin = polygon_parts(with_vertices(dense, vertices, finite))
    return parts, index[origin]


def ground_geometries(scene: Scene, polygons: Geometries, crs: str) -> Geometries:
    """Polygons of the scene frame, projected vertex by vertex.

    Args:
        scene: a georeferenced scene.
        polygons: (N,) shapely Polygons, holes allowed, scene frame; large ones from `clip_to_ground`.
        crs: target CRS.

    Returns:
        (N,) object array of Polygons or MultiPolygons, as `ground_polygons`. Polygons around a pole include it.

    Raises:
        SceneError: as `project`.
    """
    if len(polygons) == 0:
        return np.empty(0, object)
    pixels, rings, parts = polygon_rings(polygons)
    xy = project(scene, pixels, crs)
    target = horizontal_crs(crs)
    if target.is_geographic:
        return geographic_polygons(xy, rings, parts, full_circle(target))
    out = oriented(shapely.from_ragged_array(shapely.GeometryType.POLYGON, xy, (rings, parts)))
    torn = _torn(xy, rings, parts, crs)
    if torn.any():
        split = ground_geometries(scene, np.asarray(polygons, object)[torn], geodetic_wkt(crs))
        out[torn] = [_reproject_split(scene, geometry, crs) for geometry in split]
    return out


def _torn(xy: FloatArray, rings: npt.NDArray[Any], parts: npt.NDArray[Any], crs: str) -> BoolArray:
    """(N,) bool, True where an edge spans a quarter of the body or more: its ends are on both sides of the map."""
    jump = np.abs(np.diff(xy, axis=0, prepend=xy[:1])).max(axis=1)
    jump *= horizontal_crs(crs).axis_info[0].unit_conversion_factor
    jump[rings[:-1]] = 0
    far = jump > np.pi / 2 * radius(crs)
    return np.asarray(np.logical_or.reduceat(np.logical_or.reduceat(far, rings[:-1]), parts[:-1]), np.bool_)


def _reproject_split(scene: Scene, geometry: Any, crs: str) -> Any:
    """A geographic geometry that was split at the antimeridian, in a projected CRS."""
    to_projected = transformer(geodetic_wkt(crs), crs)
    out = shapely.transform(geometry, lambda xy: np.stack(to_projected.transform(*xy.T), axis=1))
    xy, rings, parts = polygon_rings(shapely.get_parts(out))
    if not np.isfinite(xy).all() or _torn(xy, rings, parts, crs).any():
        raise SceneError(
            f"scene {scene.id!r} lies across the edge of the map of {crs_name(crs)[:60]}, which is not the "
            f"antimeridian; choose another CRS for the output, such as {crs_name(geodetic_wkt(crs))[:60]}"
        )
    return oriented(np.array([out], object))[0]


def lonlat_centres(scene: Scene, boxes: FloatArray) -> FloatArray:
    """Centres of `placed` boxes as (N, 2) float64 longitude in −180…180 and latitude, in degrees on WGS 84.

    `boxes` are (N, 4) float64 in the frame of a georeferenced scene of the Earth. SceneError as `project`.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    out = project(scene, (boxes[:, :2] + boxes[:, 2:]) / 2, LONLAT)
    outside = np.abs(out[:, 0]) > 180
    out[outside, 0] = (out[outside, 0] + 180) % 360 - 180
    return out


def footprint(scene: Scene, crs: str = LONLAT) -> Any:
    """Outline in `crs` of the part of a scene with a position: a Polygon, or a MultiPolygon across the antimeridian.

    SceneError as `project` and `ground_region`.
    """
    return _footprint(scene, crs)


@lru_cache(maxsize=SCENES)
def _footprint(scene: Scene, crs: str) -> Any:
    frame, _ = clip_to_ground(scene, pixel_polygons(np.array([[0.0, 0.0, scene.width, scene.height]])))
    outlines = ground_geometries(scene, frame, crs)
    if len(outlines) == 1:
        return outlines[0]
    return oriented(np.array([shapely.union_all(outlines)], object))[0]
