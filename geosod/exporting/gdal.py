"""Vector files that GDAL writes, from tables that are made while it reads them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyogrio
from pyogrio.raw import write_arrow

from geosod.deduplication.target_crs import same_crs
from geosod.errors import OutputError, one_line
from geosod.georeference.crs import LONLAT, crs_name, parse_crs

#: Little-endian WKB of a MultiPolygon with one part, up to the part.
_ONE_PART = b"\x01\x06\x00\x00\x00\x01\x00\x00\x00"
_POLYGON = (3).to_bytes(4, "little")
_JOINED = ","


def write_layer(
    tables: Iterator[pa.Table],
    schema: pa.Schema,
    path: Path,
    *,
    driver: str,
    layer: str,
    crs: str | None,
    types: set[str],
    options: Mapping[str, str],
    append: bool = False,
) -> None:
    """Write a layer of a file.

    Args:
        tables: rows with `schema`.
        schema: has ``geometry`` (WKB); ``bbox`` is left out, and lists are joined with commas.
        path: the file.
        driver: GDAL's name of the format.
        layer: name of the layer.
        crs: CRS of the geometries; None for pixels.
        types: names of the types of the geometries. Where there are several, all become MultiPolygons, since a layer
            has one type.
        options: of the layer.
        append: whether the layer is added to an existing file.

    Raises:
        OutputError: GDAL cannot write it.
        GeosodError: as the tables raise it.
    """
    multi, exact = "MultiPolygon" in types, driver == "GeoJSON"
    failures: list[BaseException] = []

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for table in tables:
                yield from plain_table(table, multi=multi, exact=exact).to_batches()
        except BaseException as error:
            # GDAL makes text of it.
            failures.append(error)
            raise

    plain = plain_table(schema.empty_table(), multi=multi, exact=exact).schema
    reader = pa.RecordBatchReader.from_batches(plain, batches())
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="'crs' was not provided")
            write_arrow(
                reader,
                path,
                layer=layer,
                driver=driver,
                geometry_name="geometry",
                geometry_type="MultiPolygon" if multi else "Polygon",
                crs=_gdal_crs(crs),
                append=append,
                layer_options=dict(options) or None,
            )
    except (pyogrio.errors.DataSourceError, RuntimeError, ValueError, OSError) as error:
        if failures:
            raise failures[0] from None
        raise OutputError(f"{path.name}: GDAL cannot write it: {one_line(error)}") from error
    if failures:
        raise failures[0]


def _gdal_crs(crs: str | None) -> str | None:
    """A CRS for GDAL, which puts easting or longitude first in any case."""
    if crs is None:
        return None
    if same_crs(crs, LONLAT):
        return "EPSG:4326"  # QGIS and others know it better than OGC:CRS84
    name = crs_name(crs)
    return name if ":" in name and len(name) < 30 else str(parse_crs(crs).to_wkt())


def plain_table(table: pa.Table, *, multi: bool, exact: bool = False) -> pa.Table:
    """A table without ``bbox``, and with lists as text.

    Args:
        table: has ``geometry`` (WKB).
        multi: whether polygons become MultiPolygons.
        exact: whether float32 becomes the float64 with the same shortest decimal. GDAL writes float32 as text with 7
            digits, which may read back as another number.
    """
    columns = {}
    for field in table.schema:
        column = table[field.name]
        if field.name == "bbox":
            continue
        if field.name == "geometry" and multi:
            column = _as_multi(column)
        if pa.types.is_list(field.type):
            column = pc.binary_join(column, _JOINED)
        if exact and field.type == pa.float32():
            column = column.cast(pa.string()).cast(pa.float64())
        columns[field.name] = column
    known = {field.name: field.nullable or pa.types.is_list(field.type) for field in table.schema}
    fields = [pa.field(name, column.type, known[name]) for name, column in columns.items()]
    return pa.Table.from_arrays(list(columns.values()), schema=pa.schema(fields))


def _as_multi(wkb: pa.ChunkedArray) -> pa.ChunkedArray:
    """Polygons as MultiPolygons of one part each; others as they are."""
    single = pc.equal(pc.binary_slice(wkb, 1, 5), _POLYGON)
    return pc.if_else(single, pc.binary_join_element_wise(pa.scalar(_ONE_PART), wkb, b""), wkb)
