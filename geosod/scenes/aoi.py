"""The area of interest: any vector file in any CRS, brought into the scene frame before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import shapely
from shapely import affinity
from shapely.geometry.base import BaseGeometry

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.errors import ConfigError, SceneError
from geosod.georeference.crs import body_name, full_turn, horizontal_crs, period, same_body
from geosod.georeference.points import from_native, georeferenced, ground_region, located, native, way_to
from geosod.georeference.polygons import footprint
from geosod.georeference.valid_region import region_where, with_corners
from geosod.scene import Scene

#: Edges are given this many intermediate points before they are carried from one CRS to another.
POINTS_PER_EDGE = 32
#: An AOI that cannot be cut to the scene's surroundings gets more.
_POINTS_PER_LONG_EDGE = 2000
#: Points along each side of the scene at which the way to the ground tells whether the way back went well.
_TRIALS = 33
#: Share of the scene's longer side by which an AOI's outline may be off at these points, but at least a pixel.
_LEEWAY = 0.002


@dataclass(frozen=True, slots=True)
class Aoi:
    """An area of interest.

    Attributes:
        geometry: its polygons, dissolved.
        crs: their CRS as WKT; x is easting or longitude.
    """

    geometry: BaseGeometry
    crs: str


def load_aoi(path: str | Path, *, what: str = "AOI", empty: bool = False) -> Aoi:
    """Read every polygon of a vector file (GeoJSON, GeoPackage, Shapefile, GeoParquet, ...).

    Args:
        path: the file.
        what: what it is called in an error.
        empty: whether it may hold no polygon.

    Raises:
        ConfigError: the file cannot be read, has no CRS, or holds no polygon.
    """
    try:
        is_parquet = Path(path).suffix.lower() in (".parquet", ".geoparquet")
        frame = geopandas.read_parquet(path) if is_parquet else geopandas.read_file(path)
    except Exception as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"{what} {path}: cannot be read as a vector file: {line}") from error
    if frame.crs is None:
        raise ConfigError(f"{what} {path}: has no CRS; give it one (a .prj file, or ogr2ogr -a_srs)")
    geometries = shapely.make_valid(np.asarray(frame.geometry.dropna().values))
    geometry = shapely.union_all([g for g in geometries if g.area > 0])
    if geometry.is_empty and not empty:
        raise ConfigError(f"{what} {path}: holds no polygon, so there is no area to look at")
    return Aoi(geometry, frame.crs.to_wkt())


def aoi_in_scene(aoi: Aoi, scene: Scene) -> BaseGeometry:
    """The part of an AOI that lies on a scene, as polygons in the scene frame (pixels).

    Raises:
        SceneError: as `polygons_in_scene`, or the AOI misses the scene.
    """
    near = polygons_in_scene(aoi, scene)
    if near.is_empty:
        raise SceneError(f"{scene.ref.uri}: the AOI misses this scene; check the AOI's CRS and place")
    return near


def polygons_in_scene(aoi: Aoi, scene: Scene) -> BaseGeometry:
    """As `aoi_in_scene`, but empty where nothing lies on the scene.

    The AOI is cut to the scene's surroundings in its own CRS before it is transformed, so that an AOI
    as large as a continent does not meet the limits of the scene's projection. Then a lattice of pixels
    is carried to the ground, the way that is always exact; where these lie in the AOI when they should not, or the
    other way round, the outline is traced by that way alone.

    Longitudes of an AOI may go on beyond 180 or stop there; polygons may be given in two parts.

    Raises:
        SceneError: the scene has no georeference, or lies on another body than the AOI.
    """
    if scene.crs is None or not georeferenced(scene):
        raise SceneError(f"{scene.ref.uri}: has no georeference, so no AOI or mask can be placed on it; leave it out")
    if not same_body(aoi.crs, scene.crs):
        there, here = body_name(aoi.crs), body_name(scene.crs)
        raise SceneError(f"{scene.ref.uri}: is on {here}, the AOI or mask on {there}; give that in a CRS of {here}")
    area = _within_one_turn(aoi)
    frame = shapely.box(0, 0, scene.width, scene.height)
    near = _polygons(shapely.intersection(_in_frame(_surrounding(area, aoi.crs, scene), aoi.crs, scene), frame))

    def inside(xy: FloatArray) -> BoolArray:
        return _inside(area, aoi.crs, scene, xy)

    if _agrees(near, inside, scene):
        return near
    return _polygons(region_where(inside, 0.0, 0.0, scene.width, scene.height))


def windows_in(area: BaseGeometry, windows: IntArray | FloatArray) -> BoolArray:
    """(N,) bool: which of (N, 4) ``[col, row, width, height]`` windows share ground with `area` (scene frame)."""
    col, row, width, height = windows.T
    shapely.prepare(area)
    boxes = shapely.box(col, row, col + width, row + height)
    result: BoolArray = shapely.intersects(area, boxes) & ~shapely.touches(area, boxes)
    return result


def _within_one_turn(aoi: Aoi) -> BaseGeometry:
    """The AOI with longitudes of at most half a turn either way."""
    crs = horizontal_crs(aoi.crs)
    if not crs.is_geographic:
        return aoi.geometry
    turn = full_turn(crs)
    x0, y0, x1, y1 = aoi.geometry.bounds
    first, last = (int(np.floor((x + turn / 2) / turn)) for x in (x0, np.nextafter(x1, x0)))
    if first == last == 0:
        return aoi.geometry
    pieces = []
    for k in range(first, last + 1):
        piece = shapely.clip_by_rect(aoi.geometry, (k - 0.5) * turn, y0, (k + 0.5) * turn, y1)
        pieces.append(affinity.translate(shapely.make_valid(piece), -k * turn))
    return _polygons(shapely.union_all(pieces))


def _surrounding(area: BaseGeometry, crs: str, scene: Scene) -> BaseGeometry:
    """What of the AOI is near the scene, with intermediate points on its edges; in the AOI's CRS."""
    try:
        outline = footprint(scene, crs)
    except SceneError:
        # The scene is larger than the AOI's map.
        return _densified(area, _POINTS_PER_LONG_EDGE)
    if ground_region(scene) is not None:
        return _densified(shapely.intersection(area, outline), POINTS_PER_EDGE)
    x0, y0, x1, y1 = shapely.bounds(shapely.get_parts(outline)).T
    margin = 0.02 * np.maximum(x1 - x0, y1 - y0)
    around = shapely.union_all(shapely.box(x0 - margin, y0 - margin, x1 + margin, y1 + margin))
    return _densified(shapely.intersection(area, around), POINTS_PER_EDGE)


def _in_frame(area: BaseGeometry, crs: str, scene: Scene) -> BaseGeometry:
    """Polygons of the AOI's CRS in the scene frame, in each turn of the globe that the scene reaches into."""
    polygons = _parts(area)
    if len(polygons) == 0 or scene.crs is None:
        return shapely.Polygon()
    corners = shapely.get_coordinates(polygons)
    xy = np.stack(way_to(scene, crs).transform(corners[:, 0], corners[:, 1], direction="INVERSE"), axis=1)
    edge = shapely.segmentize(shapely.box(0, 0, scene.width, scene.height), max(scene.width, scene.height) / 8)
    reach = native(scene, shapely.get_coordinates(edge))[0][:, 0]
    turn = period(scene.crs)
    turns = [0.0]
    if turn is not None and np.isfinite(reach).any() and np.isfinite(xy[:, 0]).any():
        first = np.floor((np.nanmin(reach) - np.max(xy[np.isfinite(xy[:, 0]), 0])) / turn)
        last = np.ceil((np.nanmax(reach) - np.min(xy[np.isfinite(xy[:, 0]), 0])) / turn)
        turns = [float(k) * turn for k in range(int(first), int(last) + 1)]
    found = []
    for shift in turns:
        pixels = from_native(scene, xy + np.array([shift, 0.0]))
        fine: BoolArray = np.asarray(np.isfinite(pixels).all(axis=1))
        found.append(shapely.union_all(with_corners(polygons, pixels, fine)))
    return shapely.union_all(found)


def _inside(area: BaseGeometry, crs: str, scene: Scene, xy: FloatArray) -> BoolArray:
    """(N,) bool: which of (N, 2) pixels lie in the AOI, by the way from pixel to ground."""
    there, _ = native(scene, xy)
    lost = ~np.isfinite(located(scene, xy)).all(axis=1)
    x, y = way_to(scene, crs).transform(*there.T)
    aoi_crs = horizontal_crs(crs)
    if aoi_crs.is_geographic:
        turn = full_turn(aoi_crs)
        with np.errstate(invalid="ignore"):
            x = x - turn * np.rint(x / turn)
    shapely.prepare(area)
    return np.asarray(shapely.intersects_xy(area, np.where(lost, np.nan, x), np.where(lost, np.nan, y)) & ~lost)


def _agrees(near: BaseGeometry, inside: Callable[[FloatArray], BoolArray], scene: Scene) -> bool:
    axes = (np.linspace(0, side, _TRIALS) for side in (scene.width, scene.height))
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    wrong = inside(grid) != shapely.intersects_xy(near, *grid.T)
    if not wrong.any():
        return True
    frame = shapely.box(0, 0, scene.width, scene.height)
    outline = shapely.union(shapely.boundary(near), shapely.boundary(frame))
    far = shapely.distance(outline, shapely.points(grid[wrong])) > max(1.0, _LEEWAY * max(scene.width, scene.height))
    return not bool(far.any())


def _densified(geometry: BaseGeometry, pieces: int) -> BaseGeometry:
    if geometry.is_empty:
        return geometry
    x0, y0, x1, y1 = geometry.bounds
    return shapely.segmentize(geometry, max(x1 - x0, y1 - y0) / pieces or 1.0)


def _parts(geometry: BaseGeometry) -> Any:
    """Only the areas of a geometry; points and lines are where two areas merely touch."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return parts[shapely.area(parts) > 0]


def _polygons(geometry: BaseGeometry) -> BaseGeometry:
    return shapely.union_all(_parts(geometry))
