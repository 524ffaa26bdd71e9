"""Which row was merged into which: a log on disk, since it may be larger than memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geosod.deduplication.boxes import Boxes
from geosod.deduplication.spill import append_table, read_tables

#: Rows of a scene whose entries share a file.
ROWS_PER_FILE = 250_000

#: Columns that rows of the new dataset get.
MERGED_FIELDS: Sequence[pa.Field] = (
    pa.field("merged_ids", pa.list_(pa.string()), nullable=False),
    pa.field("n_scenes", pa.int32(), nullable=False),
)
#: Column of the dropped rows: the detection that each was merged into.
KEPT_ID = pa.field("kept_id", pa.string(), nullable=False)

_DROPPED = pa.schema([pa.field("row", pa.int64()), pa.field("kept_id", pa.string())])
_KEPT = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("scene", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("n_merged", pa.int32()),
    ]
)
Kind = Literal["dropped", "kept"]


@dataclass(frozen=True, slots=True)
class MergeLog:
    """Entries for every dropped row and for every row that others were merged into.

    Attributes:
        folder: where the files are; it must exist.
    """

    folder: Path

    def add(self, dropped: Boxes, kept: Boxes) -> None:
        """Record that box i of `dropped` is merged into box i of `kept`."""
        if len(dropped) == 0:
            return
        of_dropped = pa.table([dropped.row, kept.ids], schema=_DROPPED)
        of_kept = pa.table([kept.row, dropped.scene, dropped.ids, dropped.n_merged], schema=_KEPT)
        self._append("dropped", dropped, of_dropped)
        self._append("kept", kept, of_kept)

    def is_empty(self) -> bool:
        """Whether nothing was merged."""
        return not any(self.folder.iterdir())

    def _append(self, kind: Kind, boxes: Boxes, table: pa.Table) -> None:
        keys = np.stack([boxes.scene, boxes.row // ROWS_PER_FILE], axis=1)
        order = np.lexsort(keys.T[::-1])
        starts = np.flatnonzero(np.any(np.diff(keys[order], axis=0, prepend=-1), axis=1))
        for begin, end in zip(starts, [*starts[1:], len(order)], strict=True):
            rows = table.take(pa.array(order[begin:end]))
            scene, part = keys[order[begin]]
            append_table(self._file(kind, int(scene), int(part)), rows)

    def _file(self, kind: Kind, scene: int, part: int) -> Path:
        return self.folder / f"{kind}-{scene}-{part}.arrows"

    def read(self, kind: Kind, scene: int, start: int, stop: int) -> pa.Table:
        """The entries of one kind for rows ``[start, stop)`` of a scene, sorted by row, scene and id."""
        schema = _DROPPED if kind == "dropped" else _KEPT
        tables = [schema.empty_table()]
        for part in range(start // ROWS_PER_FILE, (max(stop, start + 1) - 1) // ROWS_PER_FILE + 1):
            tables += read_tables(self._file(kind, scene, part))
        table = pa.concat_tables(tables)
        table = table.filter((pc.field("row") >= start) & (pc.field("row") < stop))
        return table.sort_by([(name, "ascending") for name in ("row", "scene", "id") if name in schema.names])


def split_rows(table: pa.Table, start: int, dropped: pa.Table, kept: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Split rows of a detections file into those that are kept and those that are dropped.

    Args:
        table: rows of a scene's file, from row number `start` on.
        start: number of the first row.
        dropped, kept: from `MergeLog.read`, for these rows.

    Returns:
        The kept rows, with ``n_merged`` summed and the columns ``merged_ids`` and ``n_scenes``; and the dropped rows,
        with the column ``kept_id``.
    """
    n = len(table)
    keeper = kept["row"].to_numpy() - start
    count = np.bincount(keeper, minlength=n)
    added = np.bincount(keeper, weights=kept["n_merged"].to_numpy(), minlength=n).astype(np.int32)
    first = np.ones(len(keeper), np.bool_)
    first[1:] = (keeper[1:] != keeper[:-1]) | (np.diff(kept["scene"].to_numpy()) != 0)
    scenes = 1 + np.bincount(keeper[first], minlength=n)
    offsets = pa.array(np.concatenate([[0], np.cumsum(count)]).astype(np.int32))
    ids = pa.ListArray.from_arrays(offsets, kept["id"].combine_chunks())
    column = table.schema.get_field_index("n_merged")
    merged = pa.array(table["n_merged"].to_numpy() + added)
    annotated = table.set_column(column, table.schema.field(column), merged)
    annotated = annotated.append_column(MERGED_FIELDS[0], ids)
    annotated = annotated.append_column(MERGED_FIELDS[1], pa.array(scenes.astype(np.int32)))
    gone = np.zeros(n, np.bool_)
    gone[dropped["row"].to_numpy() - start] = True
    duplicates = table.filter(pa.array(gone)).append_column(KEPT_ID, dropped["kept_id"])
    return annotated.filter(pa.array(~gone)), duplicates
