"""The GEOMETRY type of Parquet itself, which GeoParquet 2.0 uses: row groups have statistics of their geometries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa


class WkbType(pa.ExtensionType):  # type: ignore[misc]
    """WKB with a CRS; Arrow writes it as GEOMETRY. It is not registered, so that readers still return binary."""

    def __init__(self, crs: Mapping[str, Any]) -> None:
        """`crs` is PROJJSON."""
        self._crs = dict(crs)
        super().__init__(pa.binary(), "geoarrow.wkb")

    def __arrow_ext_serialize__(self) -> bytes:
        return json.dumps({"crs": self._crs, "crs_type": "projjson"}).encode()

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> WkbType:
        return cls(json.loads(serialized)["crs"])


def native_schema(schema: pa.Schema, crs: Mapping[str, Any]) -> pa.Schema:
    """A schema with WKB ``geometry`` and ``bbox``, with a native geometry instead of the two."""
    position = schema.get_field_index("geometry")
    native = schema.set(position, pa.field("geometry", WkbType(crs), schema.field(position).nullable))
    return native.remove(native.get_field_index("bbox"))


def native_table(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows of a table in the schema that `native_schema` makes of its own."""
    wkb = table["geometry"].combine_chunks()
    column = pa.ExtensionArray.from_storage(schema.field("geometry").type, wkb)
    columns = [column if name == "geometry" else table[name] for name in schema.names]
    return pa.Table.from_arrays(columns, schema=schema)
