"""Where an area of interest, a vector file in any CRS, lies in a scene."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyogrio
import shapely
from shapely import affinity
from shapely.geometry.base import BaseGeometry

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.errors import ConfigError, SceneError, one_line
from geosod.georeference.crs import body_name, full_circle, horizontal_crs, period, same_body
from geosod.georeference.outlines import Predicate, lattice, polygon_parts, region_where, with_vertices
from geosod.georeference.points import (
    crs_to_pixel,
    georeferenced,
    ground_region,
    pixel_to_crs,
    pixel_to_lonlat,
    transformer_to,
)
from geosod.georeference.polygons import footprint
from geosod.scene import Scene

#: CRS of a file without polygons.
WGS84 = "OGC:CRS84"
#: Edges are split into this many segments before they are transformed to another CRS.
EDGE_SEGMENTS = 32
#: The same for an AOI that cannot be clipped to the scene's surroundings.
_LONG_EDGE_SEGMENTS = 2000
#: Points along each side of the scene at which the outline is checked by transforming pixels to the ground.
_SAMPLES = 33
#: Allowed error of the outline at these points, as a ratio of the scene's longer side; at least one pixel.
_TOLERANCE = 0.002


@dataclass(frozen=True, slots=True)
class Aoi:
    """An area of interest.

    Attributes:
        geometry: its polygons, dissolved.
        crs: their CRS as WKT; x is easting or longitude.
    """

    geometry: BaseGeometry
    crs: str


def split_layer(name: str) -> tuple[str, str | None]:
    """``FILE:LAYER`` as the file and the layer; None where the name is that of a file, or no such file exists.

    Both may hold colons: the file is the longest name that exists.
    """
    parts = name.split(":")
    for count in range(len(parts), 0, -1):
        file = ":".join(parts[:count])
        if file and Path(file).exists():
            return file, ":".join(parts[count:]) or None
    return name, None


def load_aoi(path: str | Path, layer: str | None = None, *, what: str = "AOI", empty: bool = False) -> Aoi:
    """Read every polygon of a vector file (GeoPackage, GeoJSON, Shapefile, KML, GeoParquet, ...).

    Args:
        path: the file, or a folder of files.
        layer: the layer to read; None reads all of them.
        what: what it is called in error messages.
        empty: whether a file without polygons is allowed.

    Raises:
        ConfigError: the file cannot be read, has no such layer, no CRS, or no polygon.
    """
    try:
        if Path(path).suffix.lower() in (".parquet", ".geoparquet"):
            frames = {"": geopandas.read_parquet(path)} if layer is None else {}
        else:
            frames = _layers(path, layer)
    except Exception as error:
        # pyogrio's advice on drivers after the semicolon does not help here.
        line = one_line(error).partition(".; It might help")[0]
        advice = "; give a GeoPackage, GeoJSON, KML or shapefile, unpacked" if "not recognized" in line else ""
        raise ConfigError(f"{what} {path}: cannot be read as a vector file: {line}{advice}") from error
    if not frames:
        missing = f"has no layer {layer!r}" if layer else "has no layer with geometries"
        raise ConfigError(f"{what} {path}: {missing}; its layers are {', '.join(_layer_names(path)) or 'none'}")
    parts: list[tuple[BaseGeometry, str]] = []
    for name, frame in frames.items():
        geometry = _dissolved(frame)
        if geometry.is_empty and (frame.crs is None or len(frames) > 1):
            continue
        if frame.crs is None:
            where = f" layer {name!r}" if len(frames) > 1 else ""
            raise ConfigError(f"{what} {path}:{where} has no CRS; assign one (a .prj file, or ogr2ogr -a_srs)")
        parts.append((geometry, frame.crs.to_wkt()))
    crs = parts[0][1] if parts else WGS84
    geometry = shapely.union_all([one if wkt == crs else _reprojected(one, wkt, crs) for one, wkt in parts])
    if geometry.is_empty and not empty:
        raise ConfigError(f"{what} {path}: holds no polygon; give a file with polygons")
    return Aoi(geometry, crs)


def _layers(path: str | Path, layer: str | None) -> dict[str, Any]:
    """The layers of a file that hold geometries, by name."""
    names = [name for name, kind in pyogrio.list_layers(path).tolist() if kind is not None and layer in (None, name)]
    return {name: geopandas.read_file(path, layer=name) for name in names}


def _layer_names(path: str | Path) -> list[str]:
    is_parquet = Path(path).suffix.lower() in (".parquet", ".geoparquet")
    return [] if is_parquet else [str(name) for name, _ in pyogrio.list_layers(path).tolist()]


def _dissolved(frame: Any) -> BaseGeometry:
    geometries = shapely.make_valid(shapely.force_2d(np.asarray(frame.geometry.dropna().values)))
    return _polygons([geometry for geometry in geometries if geometry.area > 0])


def _reprojected(geometry: BaseGeometry, crs: str, target: str) -> BaseGeometry:
    moved = geopandas.GeoSeries([_densified(geometry, _LONG_EDGE_SEGMENTS)], crs=crs).to_crs(target)
    valid: BaseGeometry = shapely.make_valid(moved.iloc[0])
    return valid


def polygons_in_scene(aoi: Aoi, scene: Scene) -> BaseGeometry:
    """The part of an AOI that lies in a scene, as polygons in the scene frame (pixels); may be empty.

    The AOI is clipped to the scene's surroundings in its own CRS before it is transformed, so that the AOI may be
    larger than the valid area of the scene's projection. Then a lattice of pixels is transformed to the ground, which
    is always exact; where it disagrees, the outline is traced with that transformation alone.

    Longitudes of an AOI may continue beyond 180, or its polygons may be split there.

    Raises:
        SceneError: the scene has no georeference, or lies on another body than the AOI.
    """
    if scene.crs is None or not georeferenced(scene):
        raise SceneError(f"{scene.ref.uri}: has no georeference; run it without AOI and masks")
    if not same_body(aoi.crs, scene.crs):
        there, here = body_name(aoi.crs), body_name(scene.crs)
        raise SceneError(f"{scene.ref.uri}: is on {here}, the AOI or mask on {there}; give that in a CRS of {here}")
    area = _within_one_circle(aoi)
    frame = shapely.box(0, 0, scene.width, scene.height)
    outline = _polygons(shapely.intersection(_to_frame(_near_scene(area, aoi.crs, scene), aoi.crs, scene), frame))

    def inside(xy: FloatArray) -> BoolArray:
        return _inside(area, aoi.crs, scene, xy)

    if _agrees(outline, inside, scene):
        return outline
    return _polygons(region_where(inside, 0.0, 0.0, scene.width, scene.height))


def windows_in(area: BaseGeometry, windows: IntArray | FloatArray) -> BoolArray:
    """(N,) bool: which of (N, 4) ``[col, row, width, height]`` windows overlap `area` (scene frame)."""
    col, row, width, height = windows.T
    shapely.prepare(area)
    boxes = shapely.box(col, row, col + width, row + height)
    result: BoolArray = shapely.intersects(area, boxes) & ~shapely.touches(area, boxes)
    return result


def _within_one_circle(aoi: Aoi) -> BaseGeometry:
    """The AOI with longitudes within half a circle of 0."""
    crs = horizontal_crs(aoi.crs)
    if not crs.is_geographic:
        return aoi.geometry
    circle = full_circle(crs)
    x0, y0, x1, y1 = aoi.geometry.bounds
    first, last = (int(np.floor((x + circle / 2) / circle)) for x in (x0, np.nextafter(x1, x0)))
    if first == last == 0:
        return aoi.geometry
    parts = []
    for k in range(first, last + 1):
        part = shapely.clip_by_rect(aoi.geometry, (k - 0.5) * circle, y0, (k + 0.5) * circle, y1)
        parts.append(affinity.translate(shapely.make_valid(part), -k * circle))
    return _polygons(shapely.union_all(parts))


def _near_scene(area: BaseGeometry, crs: str, scene: Scene) -> BaseGeometry:
    """The part of the AOI near the scene, with split edges, in the AOI's CRS."""
    try:
        outline = footprint(scene, crs)
    except SceneError:
        # The scene is larger than the valid area of the AOI's CRS.
        return _densified(area, _LONG_EDGE_SEGMENTS)
    if ground_region(scene) is not None:
        return _densified(shapely.intersection(area, outline), EDGE_SEGMENTS)
    x0, y0, x1, y1 = shapely.bounds(shapely.get_parts(outline)).T
    margin = 0.02 * np.maximum(x1 - x0, y1 - y0)
    around = shapely.union_all(shapely.box(x0 - margin, y0 - margin, x1 + margin, y1 + margin))
    return _densified(shapely.intersection(area, around), EDGE_SEGMENTS)


def _to_frame(area: BaseGeometry, crs: str, scene: Scene) -> BaseGeometry:
    """Polygons of the AOI's CRS in the scene frame, in each full circle that the scene extends into."""
    polygons, _ = polygon_parts(area)
    if len(polygons) == 0 or scene.crs is None:
        return shapely.Polygon()
    vertices = shapely.get_coordinates(polygons)
    xy = np.stack(transformer_to(scene, crs).transform(vertices[:, 0], vertices[:, 1], direction="INVERSE"), axis=1)
    edge = shapely.segmentize(shapely.box(0, 0, scene.width, scene.height), max(scene.width, scene.height) / 8)
    extent = pixel_to_crs(scene, shapely.get_coordinates(edge))[0][:, 0]
    step, x = period(scene.crs), xy[np.isfinite(xy[:, 0]), 0]
    shifts = [0.0]
    if step is not None and np.isfinite(extent).any() and len(x):
        first = np.floor((np.nanmin(extent) - np.max(x)) / step)
        last = np.ceil((np.nanmax(extent) - np.min(x)) / step)
        shifts = [float(k) * step for k in range(int(first), int(last) + 1)]
    found = []
    for shift in shifts:
        pixels = crs_to_pixel(scene, xy + np.array([shift, 0.0]))
        finite: BoolArray = np.asarray(np.isfinite(pixels).all(axis=1))
        found.append(shapely.union_all(with_vertices(polygons, pixels, finite)))
    return shapely.union_all(found)


def _inside(area: BaseGeometry, crs: str, scene: Scene, xy: FloatArray) -> BoolArray:
    """(N,) bool: which of (N, 2) pixels lie in the AOI, by transforming them to the ground."""
    native, _ = pixel_to_crs(scene, xy)
    lost = ~np.isfinite(pixel_to_lonlat(scene, xy)).all(axis=1)
    x, y = transformer_to(scene, crs).transform(*native.T)
    aoi_crs = horizontal_crs(crs)
    if aoi_crs.is_geographic:
        circle = full_circle(aoi_crs)
        with np.errstate(invalid="ignore"):
            x = x - circle * np.rint(x / circle)
    shapely.prepare(area)
    return np.asarray(shapely.intersects_xy(area, np.where(lost, np.nan, x), np.where(lost, np.nan, y)) & ~lost)


def _agrees(outline: BaseGeometry, inside: Predicate, scene: Scene) -> bool:
    """Whether an outline contains the sampled pixels that are inside, but for those near its border."""
    grid = lattice(np.linspace(0, scene.width, _SAMPLES), np.linspace(0, scene.height, _SAMPLES))
    wrong = inside(grid) != shapely.intersects_xy(outline, *grid.T)
    if not wrong.any():
        return True
    frame = shapely.box(0, 0, scene.width, scene.height)
    borders = shapely.union(shapely.boundary(outline), shapely.boundary(frame))
    tolerance = max(1.0, _TOLERANCE * max(scene.width, scene.height))
    return not (shapely.distance(borders, shapely.points(grid[wrong])) > tolerance).any()


def _densified(geometry: BaseGeometry, segments: int) -> BaseGeometry:
    if geometry.is_empty:
        return geometry
    x0, y0, x1, y1 = geometry.bounds
    return shapely.segmentize(geometry, max(x1 - x0, y1 - y0) / segments or 1.0)


def _polygons(geometry: Any) -> BaseGeometry:
    """The areas of a geometry; points and lines are where two areas only touch."""
    return shapely.union_all(polygon_parts(geometry)[0])
