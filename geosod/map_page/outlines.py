"""Outlines of scenes and of ground that was not inspected, on the map of a page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import shapely

from geosod.arrays import FloatArray, IntArray
from geosod.deduplication.overlap import from_wkb
from geosod.deduplication.reading import reading
from geosod.deduplication.sources import SceneSource
from geosod.errors import SceneError
from geosod.georeference.crs import LONLAT
from geosod.georeference.outlines import polygon_parts
from geosod.map_page.plane import SceneFrame

Geometries = npt.NDArray[Any]

#: Outlines are simplified by this share of their scene's extent.
_DETAIL = 1 / 3000
#: Vertices of the ground of one scene; beyond, its outlines are simplified further.
_MAX_VERTICES = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """The coverage of a scene as it is stored.

    Attributes:
        shapes: (N,) polygons in the CRS of the scene's files.
        status: (N,) of each.
        footprint: (M,) polygons around all of them; those of scenes on the Earth have longitude and latitude.
        footprint_crs: the CRS of the footprint; None for pixels.
        inspected_km2: area of what was inspected; None where it is not known.
    """

    shapes: Geometries
    status: list[str]
    footprint: Geometries
    footprint_crs: str | None
    inspected_km2: float | None


def read_ground(scene: SceneSource) -> Ground:
    """The coverage of a scene; UnreadableSceneError where its file cannot be read."""
    with reading(scene):
        table = pq.read_table(scene.coverage, columns=["geometry", "status"])
        shapes = from_wkb(table["geometry"].combine_chunks())
        outline, crs = scene.item.get("geometry"), LONLAT
        if outline is not None:
            footprint = shapely.get_parts(shapely.from_geojson(json.dumps(outline)))
        else:
            footprint, crs = shapely.get_parts(shapely.union_all(shapes)), scene.crs  # type: ignore[assignment]
        parts, _ = polygon_parts(footprint)
        if not len(parts):
            raise SceneError("its coverage holds no ground; detect the scene again")
    area = scene.item["properties"].get("geosod:inspected_km2")
    area = float(area) if isinstance(area, int | float) and np.isfinite(area) else None
    return Ground(shapes, table["status"].to_pylist(), parts, crs, area)


def on_map(shapes: Geometries, crs: str | None, frame: SceneFrame) -> tuple[Geometries, IntArray]:
    """Polygons of a scene on the map.

    Args:
        shapes: (N,) Polygons and MultiPolygons.
        crs: their CRS; None for pixels of the scene.
        frame: where the scene lies.

    Returns:
        (M,) Polygons, and (M,) int64, the shape that each is a part of.

    Raises:
        SceneError: some have no place on the map.
    """
    parts, origin = polygon_parts(shapes)
    return np.asarray(shapely.transform(parts, lambda xy: frame.place(xy, crs)), object), origin


def simplified(shapes: Geometries) -> Geometries:
    """Polygons with no more vertices than a screen shows, and a bounded number of them."""
    if not len(shapes):
        return shapes
    x0, y0, x1, y1 = shapely.total_bounds(shapes)
    tolerance = _DETAIL * max(x1 - x0, y1 - y0)
    for _ in range(12):
        out = np.asarray(shapely.simplify(shapes, tolerance, preserve_topology=True), object)
        if shapely.get_num_coordinates(out).sum() <= _MAX_VERTICES:
            break
        tolerance *= 2
    return out


def rings_of(polygon: Any, step: float) -> list[list[int]]:
    """A polygon as a list of rings, the shell first, each ``[x, y, x, y, …]`` in whole steps."""
    rings = [polygon.exterior, *polygon.interiors]
    return [_whole(shapely.get_coordinates(ring), step) for ring in rings]


def _whole(xy: FloatArray, step: float) -> list[int]:
    numbers: list[int] = np.rint(xy / step).astype(np.int64).ravel().tolist()
    return numbers
