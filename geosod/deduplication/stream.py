"""GeoParquet files that are written some rows at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geosod.output.geoparquet import REPEATING, ROW_GROUP_ROWS, geo_metadata


class GeoParquetStream:
    """A GeoParquet 1.1 file that grows, with row groups of `ROW_GROUP_ROWS` rows however they come in.

    What the ``geo`` metadata say of the whole file, its bounds and types, is gathered on the way and written last.
    """

    def __init__(self, path: Path, schema: pa.Schema, *, crs: str | None, metadata: Mapping[str, object]) -> None:
        """Open a new file.

        Args:
            path: local file; it is replaced.
            schema: of the rows; has ``geometry`` (WKB) and ``bbox``.
            crs: CRS of the geometries, or None for pixels.
            metadata: written as JSON under the key ``geosod``.
        """
        self.rows = 0
        self._schema = schema.remove_metadata()
        self._crs = crs
        self._metadata = dict(metadata)
        self._waiting: list[pa.Table] = []
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
        self._types: set[str] = set()
        # With Arrow's own schema in the file, readers would look for metadata there alone.
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            use_dictionary=[name for name in REPEATING if name in self._schema.names],
            store_schema=False,
        )

    def write(self, table: pa.Table) -> None:
        """Append rows with the schema of the file."""
        self.rows += len(table)
        if len(table) == 0:
            return
        bbox = table["bbox"].combine_chunks()
        low = [pc.min(bbox.field(name)).as_py() for name in ("xmin", "ymin")]
        high = [pc.max(bbox.field(name)).as_py() for name in ("xmax", "ymax")]
        self._bounds = np.concatenate([np.minimum(self._bounds[:2], low), np.maximum(self._bounds[2:], high)])
        geo = geo_metadata(table.select(["geometry", "bbox"]), crs=None)
        self._types |= set(geo["columns"]["geometry"]["geometry_types"])
        self._waiting.append(table.replace_schema_metadata(None))
        self._flush(ROW_GROUP_ROWS)

    def fitted(self, table: pa.Table) -> pa.Table:
        """A table with the columns of the file, in their order; those that it lacks are null."""
        n = len(table)
        columns = [
            table[field.name] if field.name in table.schema.names else pa.nulls(n, field.type) for field in self._schema
        ]
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _flush(self, least: int) -> None:
        if sum(map(len, self._waiting)) < least:
            return
        table = pa.concat_tables(self._waiting)
        while len(table) >= least and len(table):
            self._writer.write_table(table[:ROW_GROUP_ROWS].combine_chunks(), row_group_size=ROW_GROUP_ROWS)
            table = table[ROW_GROUP_ROWS:]
        self._waiting = [table] if len(table) else []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush(1)
            self._writer.add_key_value_metadata({"geo": self._geo(), "geosod": self._told()})
        self._writer.close()

    def _geo(self) -> str:
        empty = self._schema.empty_table()
        geo = geo_metadata(empty, crs=self._crs, geometry_types=sorted(self._types))
        if self.rows:
            geo["columns"]["geometry"]["bbox"] = self._bounds.tolist()
        return json.dumps(geo)

    def _told(self) -> str:
        return json.dumps(self._metadata, sort_keys=True, default=str)
