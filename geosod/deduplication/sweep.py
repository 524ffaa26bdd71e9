"""Deduplicating strip by strip, with the result of deduplicating all boxes at once.

Boxes are processed in strips by their ymin. At the end of a strip a box is *pending* if a box of a later strip could
still meet it, that is if its ymax reaches the end of the strip. A connected component of the graph of links (every
match is a link) has all its boxes if none of them is pending, and its outcome depends on nothing else: it is *final*.
All other components are carried over to the next strip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geosod.arrays import IntArray
from geosod.deduplication.boxes import Boxes
from geosod.deduplication.candidates import components, index_candidates
from geosod.deduplication.match import MatchRule
from geosod.deduplication.overlap import areas_and_parts
from geosod.deduplication.reading import reading
from geosod.deduplication.row_groups import RowGroup, SweepPlan, box_bounds, near_any
from geosod.deduplication.spill import append_table, read_tables
from geosod.deduplication.suppress import suppress

_COLUMNS = ["detection_id", "geometry", "bbox", "label", "score", "truncated", "n_merged"]


@dataclass(frozen=True, slots=True)
class StripResult:
    """What became final in one strip.

    Attributes:
        dropped: (K,) boxes that are merged into others.
        kept: (K,) the box that each is merged into.
        boxes: number of boxes that begin in the strip.
        pairs: number of pairs of boxes that were measured.
    """

    dropped: Boxes
    kept: Boxes
    boxes: int
    pairs: int


@dataclass(slots=True)
class _StripBuffer:
    """Boxes that were read for later strips: in memory while there is room, else in files.

    Attributes:
        room: number of further boxes that may be in memory.
        folder: where the files go.
        labels: number of each label name.
        waiting: boxes in memory, by strip.
    """

    room: int
    folder: Path
    labels: dict[str, int] = field(default_factory=dict)
    waiting: dict[int, list[Boxes]] = field(default_factory=dict)

    def put(self, strip: int, boxes: Boxes) -> None:
        """Keep the boxes of a later strip."""
        if len(boxes) <= self.room:
            self.room -= len(boxes)
            self.waiting.setdefault(strip, []).append(boxes)
        else:
            append_table(self._file(strip), boxes.to_arrow())

    def pop(self, strip: int) -> list[Boxes]:
        """Remove and return the boxes kept for a strip."""
        path = self._file(strip)
        kept = self.waiting.pop(strip, [])
        self.room += sum(map(len, kept))
        kept += [Boxes.from_arrow(table) for table in read_tables(path)]
        path.unlink(missing_ok=True)
        return kept

    def _file(self, strip: int) -> Path:
        return self.folder / f"{strip}.arrows"


def sweep(
    plan: SweepPlan, rule: MatchRule, dates: IntArray, *, rows: int, full_circle: float | None, folder: Path
) -> Iterator[StripResult]:
    """Match the boxes of all scenes, strip by strip.

    Args:
        plan: from `geosod.deduplication.row_groups.plan_sweep`.
        rule: when boxes match, and which is kept.
        dates: (S,) int64 of each layer, as for `geosod.deduplication.match.ranking`.
        rows: maximum number of boxes of later strips in memory.
        full_circle: 360° in units of the CRS if it is geographic, else None.
        folder: an empty one, for boxes of later strips beyond `rows`.

    Yields:
        What became final in each strip. Together this is what a single strip of everything gives, in another order.

    Raises:
        UnreadableSceneError: a file cannot be read.
    """
    buffer, pending = _StripBuffer(rows, folder), None
    begins = np.searchsorted(plan.ends, np.array([group.low for group in plan.groups]), side="right")
    for strip in range(len(plan.ends) + 1):
        new = _read_strip(plan, strip, np.flatnonzero(begins == strip), buffer)
        if pending is None and not new:
            continue
        boxes = Boxes.concat([*([pending] if pending is not None else []), *new])
        index = index_candidates(boxes, rule, full_circle=full_circle)
        component = components(index)
        end = plan.ends[strip] if strip < len(plan.ends) else np.inf
        has_pending = np.zeros(len(boxes), np.bool_)
        has_pending[component[boxes.bounds[:, 3] >= end]] = True
        carried, linked = has_pending[component], np.bincount(component)[component] > 1
        found = suppress(boxes, index, linked & ~carried, dates, rule, full_circle=full_circle)
        yield StripResult(boxes.take(found.dropped), boxes.take(found.kept), sum(map(len, new)), found.pairs)
        pending = boxes.take(carried)


def _read_strip(plan: SweepPlan, strip: int, groups: npt.NDArray[np.int64], buffer: _StripBuffer) -> list[Boxes]:
    """The boxes of a strip; reads the row groups that begin in it and buffers their boxes of later strips."""
    out = buffer.pop(strip)
    for group in groups:
        boxes = _read(plan.groups[group], buffer.labels)
        strips = np.searchsorted(plan.ends, boxes.bounds[:, 1], side="right")
        order = np.argsort(strips, kind="stable")
        starts = np.flatnonzero(np.diff(strips[order], prepend=-1))
        for begin, end in zip(starts, [*starts[1:], len(order)], strict=True):
            part, target = boxes.take(order[begin:end]), int(strips[order[begin]])
            if target == strip:
                out.append(part)
            else:
                buffer.put(target, part)
    return out


def _read(group: RowGroup, labels: dict[str, int]) -> Boxes:
    """The boxes of a row group that may meet another scene's."""
    with reading(group.layer.scene), pq.ParquetFile(group.layer.path) as file:
        table = file.read_row_group(group.number, columns=_COLUMNS)
        bounds = box_bounds(table["bbox"])
        near = near_any(bounds, group.near)
        table = table.take(pa.array(near)) if len(near) < len(table) else table
        wkb = table["geometry"].combine_chunks()
        area, parts = areas_and_parts(wkb)
    return Boxes(
        scene=np.full(len(near), group.layer.index, np.int64),
        row=group.first_row + near,
        bounds=bounds[near],
        label=_label_numbers(table["label"], labels),
        score=table["score"].to_numpy(),
        truncated=np.asarray(table["truncated"].to_numpy(zero_copy_only=False), np.bool_),
        n_merged=table["n_merged"].to_numpy(),
        area=area,
        parts=parts,
        ids=table["detection_id"].combine_chunks(),
        wkb=wkb,
    )


def _label_numbers(column: pa.ChunkedArray, labels: dict[str, int]) -> npt.NDArray[np.int64]:
    """(N,) a number for each label name, the same in all files."""
    if len(column) == 0:
        return np.empty(0, np.int64)
    coded = pc.dictionary_encode(column.combine_chunks())
    numbers = [labels.setdefault(name, len(labels)) for name in coded.dictionary.to_pylist()]
    out: npt.NDArray[np.int64] = np.array(numbers, np.int64)[coded.indices.to_numpy(zero_copy_only=False)]
    return out
