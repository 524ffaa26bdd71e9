"""GeoParquet and CSV, written table by table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import shapely

from geosod.exporting.gdal import plain_table
from geosod.output.geoparquet import GeoParquetVersion, GeoParquetWriter

#: Column of CSV files with the geometries; GDAL and QGIS recognise this name.
WKT = "WKT"


def write_parquet(
    tables: Iterator[pa.Table],
    schema: pa.Schema,
    path: Path,
    *,
    crs: str | None,
    metadata: Mapping[str, object],
    version: GeoParquetVersion,
) -> None:
    """Write a GeoParquet file; OutputError where `version` cannot hold it."""
    with GeoParquetWriter(path, schema, crs=crs, metadata=metadata, version=version) as writer:
        for table in tables:
            writer.write(table)


def write_csv(tables: Iterator[pa.Table], schema: pa.Schema, path: Path) -> None:
    """Write a CSV file: times as RFC 3339, geometries as WKT in the last column."""
    with pa_csv.CSVWriter(path, _as_text(schema.empty_table()).schema) as writer:
        for table in tables:
            writer.write_table(_as_text(table))


def _as_text(table: pa.Table) -> pa.Table:
    plain = plain_table(table, multi=False)
    for position, field in enumerate(plain.schema):
        if pa.types.is_timestamp(field.type):
            text = pc.strftime(plain[field.name], format="%Y-%m-%dT%H:%M:%SZ")
            plain = plain.set_column(position, pa.field(field.name, pa.string()), text)
    wkb = plain["geometry"].combine_chunks().to_numpy(zero_copy_only=False)
    wkt = shapely.to_wkt(shapely.from_wkb(wkb), rounding_precision=-1) if len(wkb) else []
    return plain.drop_columns("geometry").append_column(pa.field(WKT, pa.string()), pa.array(wkt, pa.string()))
