"""Inspected ground, as polygons on an equal-area map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from geosod.arrays import FloatArray
from geosod.deduplication.overlap import from_wkb
from geosod.deduplication.reading import reading
from geosod.deduplication.reproject import reprojected
from geosod.deduplication.sources import SceneSource
from geosod.georeference.crs import LONLAT, ellipsoid, geodetic_wkt, horizontal_crs, is_earth, transformer
from geosod.georeference.outlines import polygon_parts

Geometries = npt.NDArray[Any]

#: Edges longer than this, in metres or as much in degrees, are split before they are projected, since they bend.
_STRAIGHT, _STRAIGHT_DEGREES = 200.0, 0.002


def lonlat_of(shapes: Geometries, crs: str, near: tuple[float, float] | None = None) -> Geometries:
    """Polygons in longitude and latitude, split at the antimeridian.

    Args:
        shapes: (N,) Polygons and MultiPolygons.
        crs: their CRS; those of other bodies become longitude and latitude there.
        near: longitude and latitude of a point nearby, see `geosod.georeference.crs.transformer`.

    Raises:
        SceneError: they cannot be transformed.
    """
    axis = horizontal_crs(crs)
    unit = axis.axis_info[0].unit_conversion_factor
    step = np.radians(_STRAIGHT_DEGREES) / unit if axis.is_geographic else _STRAIGHT / unit
    return reprojected(shapely.segmentize(shapes, step), crs, lonlat_crs(crs), near)


def lonlat_crs(crs: str) -> str:
    """The CRS of `lonlat_of`."""
    return LONLAT if is_earth(crs) else geodetic_wkt(crs)


def plane_crs(crs: str) -> str:
    """The cylindrical equal-area CRS of the body of a CRS, in metres."""
    if is_earth(crs):
        return "+proj=cea +ellps=WGS84 +type=crs"
    geod = ellipsoid(crs)
    return f"+proj=cea +a={geod.a} +b={geod.b} +type=crs"


def on_plane(shapes: Any, crs: str) -> Any:
    """Geometries of `lonlat_of` on the equal-area map of the body of `crs`, in metres."""
    to_plane = transformer(lonlat_crs(crs), plane_crs(crs))
    return shapely.transform(shapes, lambda xy: np.stack(to_plane.transform(*xy.T), axis=1))


def points_on_plane(lon: FloatArray, lat: FloatArray) -> FloatArray:
    """(N, 2) positions on the Earth's equal-area map, in metres."""
    return np.stack(transformer(LONLAT, plane_crs(LONLAT)).transform(lon, lat), axis=1)


def inspected_lonlat(scene: SceneSource) -> Geometries:
    """(N,) polygons of the inspected ground of a georeferenced scene, longitude and latitude.

    Raises:
        UnreadableSceneError: its coverage cannot be read or transformed.
    """
    assert scene.crs is not None
    with reading(scene):
        filters = [("status", "=", "inspected")]
        table = pq.read_table(scene.coverage, columns=["geometry"], filters=filters, partitioning=None)
        shapes = from_wkb(pa.chunked_array(table["geometry"]).combine_chunks()) if len(table) else np.empty(0, object)
        return polygon_parts(lonlat_of(np.asarray(shapes, object), scene.crs, scene.near))[0]


def inspected_km2(scenes: Sequence[SceneSource]) -> float:
    """Square kilometres of inspected ground, as the coverage files have them; ground of two scenes counts twice.

    Raises:
        UnreadableSceneError: a coverage cannot be read.
    """
    total = 0.0
    for scene in scenes:
        with reading(scene):
            filters = [("status", "=", "inspected")]
            table = pq.read_table(scene.coverage, columns=["area_km2"], filters=filters, partitioning=None)
            total += float(np.sum(table["area_km2"].to_numpy(zero_copy_only=False)))
    return total


def union(shapes: Sequence[Geometries]) -> Geometries:
    """(N,) polygons that cover what polygons in longitude and latitude cover, none of it twice."""
    every = np.concatenate([np.empty(0, object), *shapes])
    # Coordinates are rounded to a tenth of a millimetre, without which slivers of shared edges may stay.
    return polygon_parts(shapely.union_all(shapely.make_valid(every), grid_size=1e-9))[0]
