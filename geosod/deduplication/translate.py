"""The CRS of a merged dataset, and the way of files into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from geosod.deduplication.sources import SceneSource, Sources, reading, tables
from geosod.deduplication.stream import GeoParquetStream
from geosod.errors import ConfigError, SceneError
from geosod.georeference.antimeridian import geographic_polygons, oriented
from geosod.georeference.crs import (
    LONLAT,
    body_name,
    crs_name,
    full_circle,
    geodetic_wkt,
    horizontal_crs,
    parse_crs,
    radius,
    same_body,
    transformer,
)
from geosod.output.geoparquet import geometry_columns

Geometries = npt.NDArray[Any]


def same_crs(first: str, second: str) -> bool:
    """Whether two CRSs are one, the order of their axes aside: files hold longitude or easting first in any case."""
    return bool(parse_crs(first).equals(parse_crs(second), ignore_axis_order=True))


def choose_crs(sources: Sources, wanted: str | None) -> str:
    """The CRS of the merged dataset: the one that is asked for, or that of all scenes, or longitude and latitude.

    Raises:
        ConfigError: PROJ does not know it, it is no horizontal one, or scenes lie on another body than it or than
            each other.
    """
    placed = [(scene, scene.crs) for scene in sources.scenes if scene.crs is not None]
    for scene, crs in placed:
        if not same_body(placed[0][1], crs):
            raise ConfigError(
                f"scene {placed[0][0].id!r} in {placed[0][0].output} lies on {body_name(placed[0][1])}, scene "
                f"{scene.id!r} in {scene.output} on {body_name(crs)}; merge each body's outputs on their own"
            )
    kinds: list[str] = []
    for crs in sorted({crs for _, crs in placed}):
        if not any(same_crs(crs, kind) for kind in kinds):
            kinds.append(crs)
    crs = wanted if wanted is not None else kinds[0] if len(kinds) == 1 else LONLAT
    try:
        horizontal_crs(crs)
    except SceneError as error:
        raise ConfigError(str(error)) from error
    if placed and not same_body(crs, placed[0][1]):
        raise ConfigError(
            f"the scenes lie on {body_name(placed[0][1])}, and {crs_name(crs)[:80]!r} is a CRS of {body_name(crs)}; "
            f"give --crs one of theirs, such as {crs_name(placed[0][1])[:80]!r}"
        )
    return crs


def turn_of(crs: str) -> float | None:
    """Units of a full turn of a geographic CRS; None of another."""
    horizontal = horizontal_crs(crs)
    return full_circle(horizontal) if horizontal.is_geographic else None


def reprojected(shapes: Geometries, source: str, target: str, near: tuple[float, float] | None) -> Geometries:
    """Polygons of one CRS in another, vertex by vertex, split at the antimeridian where the target's map ends there.

    The way leads over longitudes and latitudes on the target's datum.

    Args:
        shapes: (N,) Polygons and MultiPolygons.
        source, target: CRSs of one body.
        near: longitude and latitude, as `geosod.georeference.crs.transformer`.

    Returns:
        (N,) counter-clockwise Polygons and MultiPolygons.

    Raises:
        SceneError: some have no place in `target`, or lie across a cut of it that is not the antimeridian.
    """
    if len(shapes) == 0:
        return np.empty(0, object)
    geodetic = geodetic_wkt(target)
    parts, owner = shapely.get_parts(shapes, return_index=True)
    _, xy, (rings, offsets) = shapely.to_ragged_array(parts)
    lonlat = _through(xy, source, geodetic, near, target)
    split = geographic_polygons(lonlat, rings, offsets, full_circle(horizontal_crs(geodetic)))
    pieces, origin = shapely.get_parts(split, return_index=True)
    owner = owner[origin]
    projected = not horizontal_crs(target).is_geographic
    if projected:
        pieces = shapely.transform(pieces, lambda corners: _through(corners, geodetic, target, None, target))
        _refuse_torn(pieces, target)
    several = np.bincount(owner, minlength=len(shapes)) > 1
    out = np.empty(len(shapes), object)
    single = ~several[owner]
    out[owner[single]] = pieces[single]
    for i in np.flatnonzero(several):
        own = pieces[owner == i]
        # On a map that goes on beyond the antimeridian the two parts are one polygon again.
        out[i] = shapely.union_all(own, grid_size=1e-6) if projected else shapely.multipolygons(own)
    return oriented(out)


def _through(
    xy: npt.NDArray[np.float64], source: str, target: str, near: tuple[float, float] | None, named: str
) -> npt.NDArray[np.float64]:
    out = np.stack(transformer(source, target, near).transform(*xy.T), axis=1)
    if not np.isfinite(out).all():
        raise SceneError(f"some of it has no place in {crs_name(named)[:80]}; give --crs another CRS")
    return out


def _refuse_torn(pieces: Geometries, target: str) -> None:
    bounds = shapely.bounds(pieces).reshape(-1, 4)
    widest = (bounds[:, 2:] - bounds[:, :2]).max() * horizontal_crs(target).axis_info[0].unit_conversion_factor
    if widest > np.pi / 2 * radius(target):
        raise SceneError(
            f"lies across the cut of {crs_name(target)[:60]}, which is not the antimeridian; give --crs another CRS, "
            f"such as {crs_name(geodetic_wkt(target))[:60]}"
        )


def translated(table: pa.Table, scene: SceneSource, crs: str) -> pa.Table:
    """A table of a scene with its geometries in another CRS; SceneError as `reprojected`."""
    assert scene.crs is not None  # a pixel scene stays as it is
    shapes = shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False))
    moved = reprojected(np.asarray(shapes, object).reshape(-1), scene.crs, crs, scene.near)
    geometry, bbox = geometry_columns(moved)
    for name, column in (("geometry", geometry), ("bbox", bbox)):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), column)
    return table


def translate_file(source: Path, target: Path, scene: SceneSource, crs: str) -> None:
    """Write a file of a scene anew, in another CRS, some rows at a time.

    Raises:
        LostSceneError: it cannot be read or cannot be put in the CRS.
    """
    with reading(scene):
        schema = pq.read_schema(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    with GeoParquetStream(target, schema, crs=crs, metadata=scene.metadata) as stream:
        for table in tables(source, scene):
            with reading(scene):
                moved = translated(table, scene, crs)
            stream.write(moved)
