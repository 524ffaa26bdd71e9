"""The layers of an export with ground coordinates: detections, and where the format has room the coverage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from geosod.deduplication.overlap import from_wkb
from geosod.deduplication.reading import read_batches
from geosod.deduplication.reproject import layers_in, reproject_file, reprojected
from geosod.deduplication.row_groups import Layer
from geosod.deduplication.sources import SceneSource
from geosod.deduplication.target_crs import same_crs
from geosod.exporting.formats import ExportFormat
from geosod.exporting.gdal import plain_table, write_layer
from geosod.exporting.rows import Selection, class_names, conformed, geometry_types, rows_of, schema_of
from geosod.exporting.style import add_styles, coverage_style, detections_style
from geosod.exporting.tables import write_csv, write_parquet
from geosod.exporting.tiles.write import write_tiles
from geosod.georeference.crs import LONLAT
from geosod.output.coverage import COVERAGE_SCHEMA
from geosod.output.geoparquet import GeoParquetVersion, geometry_columns
from geosod.version import __version__

#: Names of the layers of files that have several, and of the only one of others.
DETECTIONS, COVERAGE = "detections", "coverage"


@dataclass(frozen=True, slots=True)
class Layers:
    """What is written.

    Attributes:
        scenes: the scenes, all with georeference or all without.
        crs: CRS of the export; None for pixels.
        chosen: which detections.
        stage: a folder for files on the way.
    """

    scenes: Sequence[SceneSource]
    crs: str | None
    chosen: Selection
    stage: Path

    @property
    def style(self) -> str:
        """The QGIS style of the detections."""
        return detections_style(self.chosen.classes or class_names(self.scenes))

    def detections(self) -> list[Layer]:
        """The detections in the CRS; UnreadableSceneError as `layers_in`."""
        if self.crs is None:
            return [Layer(i, scene, scene.detections) for i, scene in enumerate(self.scenes)]
        return layers_in(self.scenes, self.crs, self.stage)

    def coverage(self) -> list[Layer]:
        """The coverage files in the CRS; UnreadableSceneError as `reproject_file`."""
        layers = []
        for index, scene in enumerate(self.scenes):
            path = scene.coverage
            if self.crs is not None and scene.crs is not None and not same_crs(scene.crs, self.crs):
                path = self.stage / "coverage" / f"{index}.parquet"
                reproject_file(scene.coverage, path, scene, self.crs)
            layers.append(Layer(index, scene, path))
        return layers


def write_layers(
    layers: Layers,
    path: Path,
    kind: ExportFormat,
    version: GeoParquetVersion,
    on_rows: Callable[[int, int], None],
) -> int:
    """Write a file; the number of detections in it.

    Args:
        layers: what is written.
        path: the file.
        kind: its format, which is not "images".
        version: of GeoParquet.
        on_rows: called with the number of detections that were written so far, and with that of all scenes.

    Raises:
        OutputError: it cannot be written.
        UnreadableSceneError: a scene cannot be read.
    """
    files = layers.detections()
    schema = schema_of(files)
    total, written = sum(scene.rows for scene in layers.scenes), 0

    def counted() -> Iterator[pa.Table]:
        nonlocal written
        for table in rows_of(files, layers.chosen, schema):
            yield table
            written += len(table)
            on_rows(written, total)

    types = geometry_types([layer.path for layer in files])
    write_table(counted(), schema, path, kind, crs=layers.crs, types=types, metadata=_metadata(layers), version=version)
    if kind.coverage:
        _add_coverage(layers, path, kind)
        add_styles(path, {DETECTIONS: layers.style, COVERAGE: coverage_style()})
    return written


def write_table(
    tables: Iterator[pa.Table],
    schema: pa.Schema,
    path: Path,
    kind: ExportFormat,
    *,
    crs: str | None,
    types: set[str],
    metadata: Mapping[str, object],
    layer: str = DETECTIONS,
    version: GeoParquetVersion = "1.1",
) -> None:
    """Write tables with geometries as a file of one layer.

    Args:
        tables: rows with `schema`.
        schema: has ``geometry`` (WKB) and ``bbox``.
        path: the file.
        kind: its format, which is not "images".
        crs: CRS of the geometries; None for pixels.
        types: names of the types of the geometries.
        metadata: of GeoParquet files, under ``geosod``.
        layer: name of the layer.
        version: of GeoParquet.

    Raises:
        OutputError: it cannot be written.
    """
    if kind.name == "csv":
        write_csv(tables, schema, path)
    elif kind.kind == "tiles":
        plain = plain_table(schema.empty_table(), multi=False).schema
        write_tiles((plain_table(_lonlat(table, crs), multi=False) for table in tables), plain, path, layer=layer)
    elif kind.kind == "arrow":
        write_parquet(tables, schema, path, crs=crs, metadata=metadata, version=version)
    else:
        write_layer(
            tables,
            schema,
            path,
            driver=kind.driver,
            layer=layer,
            crs=crs,
            types=types,
            options=kind.layer_options,
        )


def _lonlat(table: pa.Table, crs: str | None) -> pa.Table:
    """A table with its geometries in longitude and latitude."""
    if crs is None or same_crs(crs, LONLAT):
        return table
    shapes = reprojected(from_wkb(table["geometry"].combine_chunks()), crs, LONLAT, None)
    return table.set_column(table.schema.get_field_index("geometry"), "geometry", geometry_columns(shapes)[0])


def _add_coverage(layers: Layers, path: Path, kind: ExportFormat) -> None:
    files = layers.coverage()
    tables = (conformed(table, COVERAGE_SCHEMA) for layer in files for table in read_batches(layer.path, layer.scene))
    types = geometry_types([layer.path for layer in files])
    options: dict[str, Any] = {"driver": kind.driver, "crs": layers.crs, "options": kind.layer_options}
    write_layer(tables, COVERAGE_SCHEMA, path, layer=COVERAGE, types=types, append=True, **options)


def _metadata(layers: Layers) -> dict[str, object]:
    """The metadata under ``geosod`` of a GeoParquet file of several scenes."""
    models = {str(scene.metadata.get("model")): scene.metadata.get("model_digest") for scene in layers.scenes}
    chosen = layers.chosen
    return {
        "version": __version__,
        "classes": class_names(layers.scenes),
        "scenes": {scene.id: scene.metadata.get("source") for scene in layers.scenes},
        "models": models,
        "export": {"threshold": chosen.threshold, "classes": chosen.classes},
    }
