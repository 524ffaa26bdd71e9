"""The area of interest: any vector file in any CRS, brought into the scene frame before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import shapely
from affine import Affine
from pyproj import CRS, Transformer
from shapely.geometry.base import BaseGeometry

from geosod.errors import ConfigError, SceneError
from geosod.scenes.locate import to_ground
from geosod.types import BoolArray, IntArray, Scene

#: Edges are given this many intermediate points before they are carried from one CRS to another.
POINTS_PER_EDGE = 32


@dataclass(frozen=True, slots=True)
class Aoi:
    """An area of interest.

    Attributes:
        geometry: its polygons, dissolved.
        crs: their CRS as WKT; x is easting or longitude.
    """

    geometry: BaseGeometry
    crs: str


def load_aoi(path: str | Path) -> Aoi:
    """Read every polygon of a vector file (GeoJSON, GeoPackage, Shapefile, GeoParquet, ...).

    Raises:
        ConfigError: the file cannot be read, has no CRS, or holds no polygon.
    """
    try:
        is_parquet = Path(path).suffix.lower() in (".parquet", ".geoparquet")
        frame = geopandas.read_parquet(path) if is_parquet else geopandas.read_file(path)
    except Exception as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"AOI {path}: cannot be read as a vector file: {line}") from error
    if frame.crs is None:
        raise ConfigError(f"AOI {path}: has no CRS; give it one (a .prj file, or ogr2ogr -a_srs)")
    geometries = shapely.make_valid(np.asarray(frame.geometry.dropna().values))
    geometry = shapely.union_all([g for g in geometries if g.area > 0])
    if geometry.is_empty:
        raise ConfigError(f"AOI {path}: holds no polygon, so there is no area to look at")
    return Aoi(geometry, frame.crs.to_wkt())


def aoi_in_scene(aoi: Aoi, scene: Scene) -> BaseGeometry:
    """The part of an AOI that lies on a scene, as polygons in the scene frame (pixels).

    The AOI is cut to the scene's surroundings in its own CRS before it is transformed, so that an AOI
    as large as a continent does not meet the limits of the scene's projection.

    Raises:
        SceneError: the scene has no georeference, or the AOI misses it.
    """
    if scene.crs is None or scene.transform is None:
        raise SceneError(f"{scene.ref.uri}: has no georeference, so --aoi cannot be placed on it; leave --aoi out")
    frame = shapely.box(0, 0, scene.width, scene.height)
    to_aoi = Transformer.from_crs(CRS(scene.crs), CRS(aoi.crs), always_xy=True)
    surroundings = _transformed(_mapped(_densified(frame), scene.transform), to_aoi)
    if surroundings.is_empty:
        raise SceneError(f"{scene.ref.uri}: its footprint has no place in the AOI's CRS; give the AOI in another CRS")
    margin = 0.02 * max(
        surroundings.bounds[2] - surroundings.bounds[0], surroundings.bounds[3] - surroundings.bounds[1]
    )
    near = shapely.intersection(aoi.geometry, shapely.box(*surroundings.buffer(margin).bounds))
    if not near.is_empty:
        to_scene = Transformer.from_crs(CRS(aoi.crs), CRS(scene.crs), always_xy=True)
        ground = _transformed(_densified(near), to_scene)
        pixels = shapely.make_valid(_mapped(ground, ~scene.transform))
        near = _polygons(shapely.intersection(pixels, frame))
    if near.is_empty:
        raise SceneError(f"{scene.ref.uri}: the AOI misses this scene; check the AOI's CRS and place")
    return near


def windows_in(area: BaseGeometry, windows: IntArray) -> BoolArray:
    """(N,) bool: which of (N, 4) ``[col, row, width, height]`` windows share ground with `area` (scene frame)."""
    col, row, width, height = windows.T
    shapely.prepare(area)
    boxes = shapely.box(col, row, col + width, row + height)
    result: BoolArray = shapely.intersects(area, boxes) & ~shapely.touches(area, boxes)
    return result


def _densified(geometry: BaseGeometry) -> BaseGeometry:
    x0, y0, x1, y1 = geometry.bounds
    return shapely.segmentize(geometry, max(x1 - x0, y1 - y0) / POINTS_PER_EDGE or 1.0)


def _mapped(geometry: BaseGeometry, transform: Affine) -> BaseGeometry:
    return shapely.transform(geometry, lambda xy: to_ground(transform, xy))


def _transformed(geometry: BaseGeometry, transformer: Transformer) -> BaseGeometry:
    moved = shapely.transform(geometry, lambda xy: np.column_stack(transformer.transform(xy[:, 0], xy[:, 1])))
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        return shapely.Polygon()
    return shapely.make_valid(moved)


def _polygons(geometry: BaseGeometry) -> BaseGeometry:
    """Only the areas of a geometry; points and lines are where two areas merely touch."""
    parts = shapely.get_parts(geometry)
    return shapely.union_all(parts[shapely.area(parts) > 0])
