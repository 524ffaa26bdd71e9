"""Arrow tables with a WKB column → GeoParquet 1.1 files, the same bytes for the same rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely

from geosod.errors import OutputError, identity
from geosod.georeference.crs import parse_crs
from geosod.results import Provenance
from geosod.scene import Scene

GEOPARQUET_VERSION = "1.1.0"
ROW_GROUP_ROWS = 50_000

BBOX_TYPE = pa.struct([pa.field(name, pa.float64(), nullable=False) for name in ("xmin", "ymin", "xmax", "ymax")])

_TYPE_NAMES = {3: "Polygon", 6: "MultiPolygon"}
#: Columns of few values.
REPEATING = ("label", "scene_id", "status", "reason")


def file_metadata(scene: Scene, provenance: Provenance) -> dict[str, object]:
    """What goes under the key ``geosod`` of a scene's files: where the rows come from, no credentials."""
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
        "execution": asdict(provenance.execution),
        "options": provenance.options,
    }


def geometry_columns(geometries: Any) -> tuple[pa.Array, pa.Array]:
    """Geometries as a WKB column and their covering.

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


def _geometry_types(column: pa.ChunkedArray) -> list[str]:
    """Names of the types present, read from the second byte of each little-endian WKB."""
    codes = pc.unique(pc.binary_slice(column, 1, 5)).to_pylist() if len(column) else []
    return sorted(_TYPE_NAMES[int.from_bytes(code, "little")] for code in codes)


def geo_metadata(table: pa.Table, *, crs: str | None, geometry_types: Sequence[str] | None = None) -> dict[str, Any]:
    """The ``geo`` metadata of GeoParquet 1.1.0.

    Args:
        table: has the columns ``geometry`` (WKB) and ``bbox``.
        crs: CRS of the geometries; None writes ``null``, the mark of coordinates without one.
        geometry_types: names of the geometry types in the table; None reads them from the WKB.
    """
    types = _geometry_types(table["geometry"]) if geometry_types is None else sorted(geometry_types)
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": types,
        "crs": None if crs is None else parse_crs(crs).to_json_dict(),
        "orientation": "counterclockwise",
        "covering": {"bbox": {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}},
    }
    if len(table):
        bbox = table["bbox"].combine_chunks()
        ends = {"xmin": pc.min, "ymin": pc.min, "xmax": pc.max, "ymax": pc.max}
        column["bbox"] = [end(bbox.field(name)).as_py() for name, end in ends.items()]
    return {"version": GEOPARQUET_VERSION, "primary_column": "geometry", "columns": {"geometry": column}}


def write_geoparquet(
    table: pa.Table,
    path: str | Path,
    *,
    crs: str | None,
    metadata: Mapping[str, object],
    geometry_types: Sequence[str] | None = None,
) -> None:
    """Write a table as GeoParquet 1.1.

    The bytes depend on the arguments and the version of pyarrow alone: no time or path goes in.

    Args:
        table: has the columns ``geometry`` (WKB, polygons with counter-clockwise shells) and ``bbox``.
        path: local file; it is replaced.
        crs: CRS of the geometries, or None for pixels.
        metadata: written as JSON under the key ``geosod``.
        geometry_types: as `geo_metadata`.

    Raises:
        OutputError: the file cannot be written.
    """
    geo = geo_metadata(table, crs=crs, geometry_types=geometry_types)
    keys = {"geo": json.dumps(geo), "geosod": json.dumps(dict(metadata), sort_keys=True, default=str)}
    stamped = table.combine_chunks().replace_schema_metadata(keys)
    try:
        pq.write_table(
            stamped,
            path,
            compression="zstd",
            row_group_size=ROW_GROUP_ROWS,
            use_dictionary=[name for name in REPEATING if name in table.schema.names],
        )
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); free some space or choose another folder") from error


def read_metadata(path: str | Path, *, key: str = "geosod") -> dict[str, Any] | None:
    """The file metadata under ``geosod`` or ``geo``, or None where the path is no Parquet file with such a key."""
    try:
        stored = pq.read_schema(path).metadata or {}
        value = json.loads(stored[key.encode()])
    except (OSError, pa.ArrowInvalid, KeyError, ValueError):
        return None
    return value if isinstance(value, dict) else None
