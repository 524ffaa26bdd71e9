"""Arrow tables with a WKB column → GeoParquet files, with the same bytes for the same rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely

from geosod.errors import OutputError, identity
from geosod.georeference.crs import LONLAT, parse_crs
from geosod.output.native_geometry import native_schema, native_table
from geosod.results import Provenance
from geosod.scene import Scene

#: 1.1 has WKB and a column of bounding boxes, 2.0 the GEOMETRY type of Parquet.
GeoParquetVersion = Literal["1.1", "2.0"]
ROW_GROUP_ROWS = 50_000

BBOX_TYPE = pa.struct([pa.field(name, pa.float64(), nullable=False) for name in ("xmin", "ymin", "xmax", "ymax")])

_TYPE_NAMES = {3: "Polygon", 6: "MultiPolygon"}
#: Columns with few distinct values, which are dictionary encoded.
REPEATING = ("label", "scene_id", "status", "reason")
#: What bounds a file, for each field of the bounding boxes.
_ENDS = (pc.min, pc.min, pc.max, pc.max)


def file_metadata(scene: Scene, provenance: Provenance) -> dict[str, object]:
    """The metadata under the key ``geosod`` of a scene's files: where the rows come from, without credentials."""
    return {
        "scene_id": scene.id,
        "source": identity(scene.ref.uri),
        "gsd": scene.gsd,
        "width": round(scene.width / scene.scale[0]),
        "height": round(scene.height / scene.scale[1]),
        "scale": list(scene.scale),
        "model": provenance.model,
        "model_digest": provenance.model_digest,
        "config_digest": provenance.config_digest,
        "version": provenance.version,
        "classes": list(provenance.classes),
        **({"supercategories": list(provenance.supercategories)} if provenance.supercategories else {}),
        "execution": asdict(provenance.execution),
        "options": provenance.options,
    }


def geometry_columns(geometries: Any) -> tuple[pa.Array, pa.Array]:
    """Geometries as a WKB column and a bounding box column.

    Args:
        geometries: (N,) shapely geometries, none of them empty.

    Returns:
        ``geometry`` (binary) and ``bbox`` (struct of float64), N rows each.
    """
    shapes = np.asarray(geometries, object).reshape(-1)
    wkb = pa.array(shapely.to_wkb(shapes, byte_order=1), pa.binary())
    bounds = shapely.bounds(shapes).reshape(-1, 4)
    columns = [pa.array(np.ascontiguousarray(column)) for column in bounds.T]
    return wkb, pa.StructArray.from_arrays(columns, fields=list(BBOX_TYPE))


def geo_metadata(
    crs: str | None,
    geometry_types: Iterable[str],
    bounds: Sequence[float] | None,
    version: GeoParquetVersion = "1.1",
) -> dict[str, Any]:
    """The ``geo`` metadata of GeoParquet for the column ``geometry``, and in 1.1 for ``bbox``.

    Args:
        crs: CRS of the geometries; None writes ``null``, which GeoParquet defines as coordinates without a CRS.
        geometry_types: names of the geometry types in the file.
        bounds: xmin, ymin, xmax, ymax of all geometries; None where there are none.
        version: of GeoParquet.
    """
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": sorted(geometry_types),
        "crs": None if crs is None else _projjson(crs),
        "orientation": "counterclockwise",
    }
    if version == "1.1":
        column["covering"] = {"bbox": {name: ["bbox", name] for name in BBOX_TYPE.names}}
    if bounds is not None:
        column["bbox"] = list(bounds)
    return {"version": f"{version}.0", "primary_column": "geometry", "columns": {"geometry": column}}


@lru_cache(maxsize=64)
def _projjson(crs: str) -> dict[str, Any]:
    return parse_crs(crs).to_json_dict()


def write_geoparquet(
    rows: pa.Table | pa.RecordBatchReader,
    path: str | Path | IO[bytes],
    *,
    crs: str | None,
    metadata: Mapping[str, object],
) -> None:
    """Write a table, or rows that are made while they are read, as GeoParquet 1.1.

    The bytes depend only on the rows, the arguments and the version of pyarrow: no time or path is written.

    Args:
        rows: have the columns ``geometry`` (WKB, polygons with counter-clockwise shells) and ``bbox``.
        path: local file, which is replaced, or an open one.
        crs: CRS of the geometries, or None for pixels.
        metadata: written as JSON under the key ``geosod``.

    Raises:
        OutputError: the file cannot be written.
    """
    tables = [rows] if isinstance(rows, pa.Table) else (pa.Table.from_batches([batch]) for batch in rows)
    try:
        with GeoParquetWriter(path, rows.schema, crs=crs, metadata=metadata) as writer:
            for table in tables:
                writer.write(table)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); free some space or choose another folder") from error


class GeoParquetWriter:
    """Writes a GeoParquet file in several calls; every row group but the last has `ROW_GROUP_ROWS` rows.

    The bounds and geometry types for the ``geo`` metadata are collected on the way and written last.
    """

    def __init__(
        self,
        path: str | Path | IO[bytes],
        schema: pa.Schema,
        *,
        crs: str | None,
        metadata: Mapping[str, object],
        version: GeoParquetVersion = "1.1",
    ) -> None:
        """Open a new file.

        Args:
            path: local file, which is replaced, or an open one.
            schema: of the rows; has ``geometry`` (WKB) and ``bbox``.
            crs: CRS of the geometries, or None for pixels.
            metadata: written as JSON under the key ``geosod``.
            version: of GeoParquet.

        Raises:
            OutputError: 2.0 without a CRS.
        """
        if version == "2.0" and crs is None:
            raise OutputError(
                "GeoParquet 2.0 cannot hold pixels: its GEOMETRY type without a CRS means longitude and latitude; "
                "use GeoParquet 1.1"
            )
        self.rows = 0
        self._version: GeoParquetVersion = version
        self._schema = schema.remove_metadata()
        self._crs = crs
        self._metadata = dict(metadata)
        self._waiting: list[pa.Table] = []
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
        self._types: set[str] = set()
        self._native = None if version == "1.1" or crs is None else native_schema(self._schema, _projjson(crs))
        # Arrow takes longer to find out what file system a path is of than to open it.
        self._file = pa.OSFile(str(path), "wb") if isinstance(path, (str, Path)) else None
        # If Arrow's own schema were in the file, readers would look for metadata only there.
        self._writer = pq.ParquetWriter(
            self._file or path,
            self._schema if self._native is None else self._native,
            compression="zstd",
            use_dictionary=[name for name in REPEATING if name in schema.names],
            store_schema=False,
        )

    def write(self, table: pa.Table) -> None:
        """Append rows with the schema of the file."""
        self.rows += len(table)
        self._waiting.append(table.replace_schema_metadata(None))
        self._flush(ROW_GROUP_ROWS)

    def conform(self, table: pa.Table) -> pa.Table:
        """A table with the columns of the file, in their order; columns that it lacks are null."""
        n = len(table)
        columns = [
            table[field.name] if field.name in table.schema.names else pa.nulls(n, field.type) for field in self._schema
        ]
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _flush(self, min_rows: int) -> None:
        if sum(map(len, self._waiting)) < min_rows:
            return
        table = pa.concat_tables(self._waiting)
        while len(table) >= min_rows:
            self._write_group(table[:ROW_GROUP_ROWS].combine_chunks())
            table = table[ROW_GROUP_ROWS:]
        self._waiting = [table]

    def _write_group(self, group: pa.Table) -> None:
        bbox = group["bbox"].combine_chunks()
        ends = [end(bbox.field(name)).as_py() for name, end in zip(BBOX_TYPE.names, _ENDS, strict=True)]
        self._bounds = np.concatenate([np.minimum(self._bounds[:2], ends[:2]), np.maximum(self._bounds[2:], ends[2:])])
        self._types |= _geometry_types(group["geometry"])
        group = group if self._native is None else native_table(group, self._native)
        self._writer.write_table(group, row_group_size=ROW_GROUP_ROWS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush(1)
                bounds = self._bounds.tolist() if self.rows else None
                geo = json.dumps(geo_metadata(self._crs, self._types, bounds, self._version))
                own = json.dumps(self._metadata, sort_keys=True, default=str)
                self._writer.add_key_value_metadata({"geo": geo, "geosod": own})
            self._writer.close()
        finally:
            if self._file is not None:
                self._file.close()


def _geometry_types(column: pa.ChunkedArray) -> set[str]:
    """Names of the geometry types present, read from bytes 1 to 4 of each little-endian WKB."""
    codes = pc.unique(pc.binary_slice(column, 1, 5)).to_pylist()
    return {_TYPE_NAMES[int.from_bytes(code, "little")] for code in codes}


def read_metadata(path: str | Path | IO[bytes], *, key: str = "geosod") -> dict[str, Any] | None:
    """The file metadata under ``geosod`` or ``geo``, or None if it is not a Parquet file with such a key."""
    try:
        stored = pq.read_metadata(path).metadata or {}
        value = json.loads(stored[key.encode()])
    except (OSError, pa.ArrowInvalid, KeyError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def geometry_crs(geo: Mapping[str, Any]) -> str | None:
    """PROJJSON or name of the CRS in ``geo`` metadata; None for coordinates without one."""
    crs = geo["columns"][geo["primary_column"]].get("crs", LONLAT)
    return crs if crs is None or isinstance(crs, str) else json.dumps(crs)
