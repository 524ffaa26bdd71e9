"""Which objects of two dates are the same: each date is deduplicated, then the two are matched with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from geosod.arrays import BoolArray, FloatArray
from geosod.deduplication.match import MatchRule
from geosod.deduplication.reading import common_schema, read_batches
from geosod.deduplication.row_groups import Layer, plan_sweep
from geosod.deduplication.sources import SceneSource
from geosod.deduplication.sweep import sweep
from geosod.deduplication.target_crs import full_circle_of
from geosod.output.geoparquet import GeoParquetWriter

#: Boxes that are matched at a time.
ROWS = 100_000


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """What became of the N rows of a file.

    Attributes:
        dropped: (N,) bool, the row is represented by a row of another file.
        partner: (N,) float32, the best score of the rows that it represents; -1 where there is none.
    """

    dropped: BoolArray
    partner: FloatArray


def match_files(layers: Sequence[Layer], rule: MatchRule, crs: str, folder: Path) -> list[Matches]:
    """Match the detections of several files with each other, in bounded memory but for 5 bytes a row.

    Args:
        layers: the files, numbered by their position; every file is a scene to `rule`.
        rule: when boxes match.
        crs: CRS of all files.
        folder: an empty one, for files on the way.

    Raises:
        UnreadableSceneError: a file cannot be read.
    """
    found = [
        Matches(np.zeros(layer.scene.rows, np.bool_), np.full(layer.scene.rows, -1, np.float32)) for layer in layers
    ]
    dates = np.array([layer.scene.date for layer in layers], np.int64)
    plan = plan_sweep(layers, rows=ROWS)
    for strip in sweep(plan, rule, dates, rows=ROWS, full_circle=full_circle_of(crs), folder=folder):
        dropped, kept = strip.dropped, strip.kept
        for index, one in enumerate(found):
            one.dropped[dropped.row[dropped.scene == index]] = True
            mine = kept.scene == index
            np.maximum.at(one.partner, kept.row[mine], dropped.score[mine])
    return found


def one_layer(layers: Sequence[Layer], index: int, rule: MatchRule, crs: str, folder: Path) -> Layer:
    """A file in which each object of some scenes occurs once.

    Args:
        layers: the scenes' files.
        index: number of the new file.
        rule: when boxes match.
        crs: CRS of all files.
        folder: a new one, for the file and others on the way.

    Raises:
        UnreadableSceneError: a file cannot be read.
    """
    folder.mkdir()
    numbered = [replace(layer, index=k) for k, layer in enumerate(layers)]
    (folder / "spill").mkdir()
    matches = match_files(numbered, rule, crs, folder / "spill")
    path, schema = folder / "objects.parquet", common_schema([(layer.path, layer.scene) for layer in numbered])
    with GeoParquetWriter(path, schema, crs=crs, metadata={}) as writer:
        for layer, match in zip(numbered, matches, strict=True):
            start = 0
            for table in read_batches(layer.path, layer.scene):
                kept = ~match.dropped[start : start + len(table)]
                writer.write(writer.conform(table.filter(pa.array(kept))))
                start += len(table)
    first: SceneSource = layers[0].scene
    return Layer(index, replace(first, detections=path, rows=writer.rows), path)
