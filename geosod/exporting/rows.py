"""The rows of an export: those of all scenes that are chosen, batch by batch, in one CRS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from geosod.deduplication.reading import common_schema, read_batches
from geosod.deduplication.row_groups import Layer
from geosod.deduplication.sources import SceneSource
from geosod.errors import ConfigError, did_you_mean
from geosod.output.geoparquet import read_metadata


@dataclass(frozen=True, slots=True)
class Selection:
    """Which detections are chosen.

    Attributes:
        threshold: minimum score.
        classes: names of the classes; None for all.
    """

    threshold: float = 0.0
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold {self.threshold} is not a score; give a number from 0 to 1")

    def of(self, table: pa.Table) -> pa.Table:
        """The chosen rows of a table with the columns ``score`` and ``label``."""
        if self.threshold > 0:
            # Scores are float32: 0.3 as float64 is larger than the score 0.3.
            table = table.filter(pc.greater_equal(table["score"], pa.scalar(self.threshold, pa.float32())))
        if self.classes is not None:
            table = table.filter(pc.is_in(table["label"], value_set=pa.array(self.classes, pa.string())))
        return table

    def check_classes(self, known: Sequence[str]) -> None:
        """ConfigError where a class is none of `known`."""
        for name in self.classes or ():
            if name not in known:
                listed = ", ".join(known) or "none"
                raise ConfigError(
                    f"class {name!r} is not in the outputs; they have {listed}{did_you_mean(name, known)}"
                )


def class_names(scenes: Sequence[SceneSource]) -> list[str]:
    """Names of the classes of all models, in the order in which they come first."""
    return list(dict.fromkeys(str(name) for scene in scenes for name in scene.metadata.get("classes", ())))


def schema_of(layers: Sequence[Layer]) -> pa.Schema:
    """The columns of an export of detections; UnreadableSceneError as `common_schema`."""
    return common_schema([(layer.path, layer.scene) for layer in layers])


def rows_of(layers: Sequence[Layer], chosen: Selection, schema: pa.Schema) -> Iterator[pa.Table]:
    """The chosen rows of all scenes in tables of at most 50,000.

    Raises:
        UnreadableSceneError: a file cannot be read.
    """
    for layer in layers:
        for table in read_batches(layer.path, layer.scene):
            yield conformed(chosen.of(table), schema)


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the columns of a schema, in their order; those that it lacks are null."""
    columns = [
        table[field.name] if field.name in table.schema.names else pa.nulls(len(table), field.type) for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def geometry_types(paths: Sequence[Path]) -> set[str]:
    """Names of the types of geometries in GeoParquet files, from their metadata."""
    found: set[str] = set()
    for path in paths:
        geo = read_metadata(path, key="geo") or {}
        found |= set(geo.get("columns", {}).get("geometry", {}).get("geometry_types", ()))
    return found
