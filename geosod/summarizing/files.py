"""Write a summary: as CSV, or with the outlines of its zones as a map layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv
import shapely

from geosod.errors import ConfigError, OutputError
from geosod.exporting.formats import ExportFormat, export_format
from geosod.exporting.layers import write_table
from geosod.georeference.antimeridian import oriented
from geosod.georeference.crs import LONLAT
from geosod.output.geoparquet import geometry_columns
from geosod.storage.place import Place, open_place, split_file


def check_summary_file(out: str | Path, *, zones: bool, overwrite: bool) -> None:
    """Check before any work that a summary can be written.

    Args:
        out: path or address of a new file.
        zones: whether the summary has zones.
        overwrite: whether a file that exists is replaced.

    Raises:
        UsageError: its suffix names no format, or it exists.
    """
    kind = _format(out, zones=zones)
    place, name = _place(out)
    if Path(out).is_dir():
        raise OutputError(f"{out}: is a folder; give the name of a file, such as {kind.name}")
    if not overwrite and place.exists(name):
        raise OutputError(f"{out}: exists; use --overwrite, or give -o another name")


def write_summary(
    table: pa.Table, outlines: npt.NDArray[Any] | None, out: str | Path, *, metadata: Mapping[str, object]
) -> None:
    """Write the rows of a summary, whole or not at all; a file that exists is replaced.

    Args:
        table: N rows.
        outlines: (N,) Polygons and MultiPolygons, longitude and latitude; None without zones.
        out: path or address of the file.
        metadata: of GeoParquet files, under ``geosod``.

    Raises:
        UsageError: it cannot be written.
    """
    kind = _format(out, zones=outlines is not None)
    place, name = _place(out)
    try:
        place.check()
        with place.staging() as stage:
            draft = stage / name
            if kind.name == "csv" or outlines is None:
                pa_csv.write_csv(table, draft)
            else:
                _write_map(table, outlines, draft, kind, metadata)
            place.flush(draft)
            place.put({draft: name})
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror or error}); {place.remedy}") from error


def _write_map(
    table: pa.Table, outlines: npt.NDArray[Any], draft: Path, kind: ExportFormat, metadata: Mapping[str, object]
) -> None:
    shapes = np.array([_oriented(shape) for shape in outlines], object)
    wkb, bbox = geometry_columns(shapes)
    whole = table.append_column("geometry", wkb).append_column("bbox", bbox)
    types = {shape.geom_type for shape in shapes}
    write_table(iter([whole]), whole.schema, draft, kind, crs=LONLAT, types=types, metadata=metadata, layer="summary")


def _oriented(shape: Any) -> Any:
    parts = oriented(shapely.get_parts(shape))
    return parts[0] if shape.geom_type == "Polygon" else shapely.multipolygons(parts)


def _format(out: str | Path, *, zones: bool) -> ExportFormat:
    kind = export_format(str(out))
    if kind.kind == "images":
        raise ConfigError(f"{out}: a summary has no images; give .csv, .gpkg, .fgb, .geojson or .parquet")
    if kind.name == "pmtiles":
        raise ConfigError(f"{out}: tiles are for objects, not for large areas; give .gpkg, .fgb, .geojson or .parquet")
    if not zones and kind.name != "csv":
        raise ConfigError(f"{out}: without --h3 or --areas a summary is no map; give .csv, or use --json")
    return kind


def _place(out: str | Path) -> tuple[Place, str]:
    parent, name = split_file(out)
    return open_place(parent), PurePosixPath(name).name
