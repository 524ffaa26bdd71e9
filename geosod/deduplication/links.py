"""Which row is merged into which: kept on disk, since there may be more of it than memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geosod.deduplication.match import Boxes
from geosod.deduplication.spill import append, appended

#: Rows of a scene whose links share a file.
BUCKET = 250_000

_DROPPED = pa.schema([pa.field("row", pa.int64()), pa.field("kept_id", pa.string())])
_KEPT = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("scene", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("n_merged", pa.int32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Links:
    """Links by the rows they concern, in a folder of their own.

    Attributes:
        folder: where their files are; it must exist.
    """

    folder: Path

    def add(self, dropped: Boxes, kept: Boxes) -> None:
        """Note that each box of `dropped` is merged into the box of `kept` at the same place."""
        if len(dropped) == 0:
            return
        gone = pa.table([dropped.row, kept.ids], schema=_DROPPED)
        heirs = pa.table([kept.row, dropped.scene, dropped.ids, dropped.n_merged], schema=_KEPT)
        self._append("dropped", dropped, gone)
        self._append("kept", kept, heirs)

    def _append(self, kind: str, boxes: Boxes, table: pa.Table) -> None:
        keys = np.stack([boxes.scene, boxes.row // BUCKET], axis=1)
        order = np.lexsort(keys.T[::-1])
        starts = np.flatnonzero(np.any(np.diff(keys[order], axis=0, prepend=-1), axis=1))
        for begin, end in zip(starts, [*starts[1:], len(order)], strict=True):
            rows = table.take(pa.array(order[begin:end]))
            scene, bucket = keys[order[begin]]
            append(self._file(kind, int(scene), int(bucket)), rows)

    def _file(self, kind: str, scene: int, bucket: int) -> Path:
        return self.folder / f"{kind}-{scene}-{bucket}.arrows"

    def read(self, kind: str, scene: int, start: int, stop: int) -> pa.Table:
        """The links of rows ``[start, stop)`` of a scene: of "dropped" or of "kept" ones, by row, scene and id."""
        schema = _DROPPED if kind == "dropped" else _KEPT
        parts = [schema.empty_table()]
        for bucket in range(start // BUCKET, (max(stop, start + 1) - 1) // BUCKET + 1):
            parts += appended(self._file(kind, scene, bucket))
        table = pa.concat_tables(parts)
        table = table.filter((pc.field("row") >= start) & (pc.field("row") < stop))
        return table.sort_by([(name, "ascending") for name in ("row", "scene", "id") if name in schema.names])


def annotated(table: pa.Table, start: int, dropped: pa.Table, kept: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Rows of a detections file as they go into the merged one.

    Args:
        table: rows from number `start` on of a scene's file.
        start: number of the first row.
        dropped, kept: from `Links.read`, for these rows.

    Returns:
        The rows that stay, with ``n_merged`` added up and the columns ``merged_ids`` and ``n_scenes``; and the rows
        that go, with the column ``kept_id``.
    """
    n = len(table)
    heirs = kept["row"].to_numpy() - start
    count = np.bincount(heirs, minlength=n)
    added = np.bincount(heirs, weights=kept["n_merged"].to_numpy(), minlength=n).astype(np.int32)
    first = np.ones(len(heirs), np.bool_)
    first[1:] = (heirs[1:] != heirs[:-1]) | (np.diff(kept["scene"].to_numpy()) != 0)
    scenes = 1 + np.bincount(heirs[first], minlength=n)
    offsets = pa.array(np.concatenate([[0], np.cumsum(count)]).astype(np.int32))
    ids = pa.ListArray.from_arrays(offsets, kept["id"].combine_chunks())
    place = table.schema.get_field_index("n_merged")
    merged = pa.array(table["n_merged"].to_numpy() + added)
    whole = table.set_column(place, table.schema.field(place), merged)
    whole = whole.append_column(MERGED_FIELDS[0], ids).append_column(
        MERGED_FIELDS[1], pa.array(scenes.astype(np.int32))
    )
    gone = np.zeros(n, np.bool_)
    gone[dropped["row"].to_numpy() - start] = True
    lost = table.filter(pa.array(gone)).append_column(KEPT_ID, dropped["kept_id"])
    return whole.filter(pa.array(~gone)), lost


MERGED_FIELDS: Sequence[pa.Field] = (
    pa.field("merged_ids", pa.list_(pa.string()), nullable=False),
    pa.field("n_scenes", pa.int32(), nullable=False),
)
KEPT_ID = pa.field("kept_id", pa.string(), nullable=False)
