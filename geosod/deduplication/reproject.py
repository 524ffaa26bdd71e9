"""Polygons and files of a scene in another CRS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from geosod.deduplication.overlap import from_wkb
from geosod.deduplication.reading import read_batches, reading
from geosod.deduplication.row_groups import Layer
from geosod.deduplication.sources import SceneSource
from geosod.deduplication.target_crs import same_crs
from geosod.errors import SceneError
from geosod.georeference.antimeridian import geographic_polygons, oriented
from geosod.georeference.crs import (
    crs_name,
    full_circle,
    geodetic_wkt,
    horizontal_crs,
    radius,
    transformer,
)
from geosod.georeference.outlines import polygon_rings
from geosod.output.geoparquet import GeoParquetWriter, geometry_columns

Geometries = npt.NDArray[Any]


def reprojected(shapes: Geometries, source: str, target: str, near: tuple[float, float] | None) -> Geometries:
    """Polygons in another CRS, vertex by vertex, split at the antimeridian if the target's map ends there.

    Vertices are transformed to longitude and latitude on the target's datum, then to the target.

    Args:
        shapes: (N,) Polygons and MultiPolygons.
        source, target: CRSs of one body.
        near: longitude and latitude of a point nearby, as for `geosod.georeference.crs.transformer`.

    Returns:
        (N,) counter-clockwise Polygons and MultiPolygons.

    Raises:
        SceneError: some cannot be represented in `target`, or cross an edge of its map that is not the antimeridian.
    """
    if len(shapes) == 0:
        return np.empty(0, object)
    geodetic = geodetic_wkt(target)
    parts, shape = shapely.get_parts(shapes, return_index=True)
    xy, rings, offsets = polygon_rings(parts)
    lonlat = _transformed(xy, source, geodetic, near, target)
    split = geographic_polygons(lonlat, rings, offsets, full_circle(horizontal_crs(geodetic)))
    polygons, origin = shapely.get_parts(split, return_index=True)
    shape = shape[origin]
    projected = not horizontal_crs(target).is_geographic
    if projected:
        polygons = shapely.transform(polygons, lambda corners: _transformed(corners, geodetic, target, None, target))
        _check_not_torn(polygons, target)
    several = np.bincount(shape, minlength=len(shapes)) > 1
    out = np.empty(len(shapes), object)
    single = ~several[shape]
    out[shape[single]] = polygons[single]
    for i in np.flatnonzero(several):
        own = polygons[shape == i]
        # On a map that continues beyond the antimeridian the two parts are one polygon again.
        out[i] = shapely.union_all(own, grid_size=1e-6) if projected else shapely.multipolygons(own)
    return oriented(out)


def _transformed(
    xy: npt.NDArray[np.float64], source: str, target: str, near: tuple[float, float] | None, named: str
) -> npt.NDArray[np.float64]:
    out = np.stack(transformer(source, target, near).transform(*xy.T), axis=1)
    if not np.isfinite(out).all():
        raise SceneError(f"parts of it cannot be represented in {crs_name(named)[:80]}; give --crs another CRS")
    return out


def _check_not_torn(polygons: Geometries, target: str) -> None:
    bounds = shapely.bounds(polygons).reshape(-1, 4)
    widest = (bounds[:, 2:] - bounds[:, :2]).max() * horizontal_crs(target).axis_info[0].unit_conversion_factor
    if widest > np.pi / 2 * radius(target):
        raise SceneError(
            f"crosses an edge of the map of {crs_name(target)[:60]} that is not the antimeridian; give --crs another "
            f"CRS, such as {crs_name(geodetic_wkt(target))[:60]}"
        )


def _reprojected_table(table: pa.Table, scene: SceneSource, crs: str) -> pa.Table:
    """A table of a scene with its geometries in another CRS; SceneError as `reprojected`."""
    assert scene.crs is not None  # pixel scenes are not reprojected
    shapes = reprojected(from_wkb(table["geometry"].combine_chunks()), scene.crs, crs, scene.near)
    geometry, bbox = geometry_columns(shapes)
    for name, column in (("geometry", geometry), ("bbox", bbox)):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), column)
    return table


def reproject_file(source: Path, target: Path, scene: SceneSource, crs: str) -> None:
    """Write a copy of a file of a scene in another CRS, in batches of rows.

    Raises:
        UnreadableSceneError: it cannot be read or cannot be reprojected.
    """
    with reading(scene):
        schema = pq.read_schema(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    with GeoParquetWriter(target, schema, crs=crs, metadata=scene.metadata) as writer:
        for table in read_batches(source, scene):
            with reading(scene):
                moved = _reprojected_table(table, scene, crs)
            writer.write(moved)


def layers_in(
    scenes: Sequence[SceneSource], crs: str, folder: Path, on_scene: Callable[[int], None] = lambda _: None
) -> list[Layer]:
    """The detections of scenes in one CRS; those of scenes with another one are reprojected copies.

    Args:
        scenes: the scenes; those without georeference stay as they are.
        crs: the CRS.
        folder: for the copies, in a folder ``reprojected``.
        on_scene: called with the number of scenes that are done, whenever one was reprojected.

    Raises:
        UnreadableSceneError: as `reproject_file`.
    """
    layers = []
    for index, scene in enumerate(scenes):
        path = scene.detections
        if scene.crs is not None and not same_crs(scene.crs, crs):
            path = folder / "reprojected" / f"{index}.parquet"
            reproject_file(scene.detections, path, scene, crs)
            on_scene(index + 1)
        layers.append(Layer(index, scene, path))
    return layers
