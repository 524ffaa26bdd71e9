"""Matching by strips: what is found is what matching all boxes at once would find.

Boxes are taken up in strips by their ymin. A box is *open* while a box of a later strip could still meet it, that is
while its ymax reaches the end of the strip. A component of the graph of links, of which matches are some, has all its
boxes if none of them is open, and its outcome depends on nothing else: it is settled. All others are carried on.
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
from geosod.deduplication.crowd import components, gather
from geosod.deduplication.match import Boxes, MosaicRule
from geosod.deduplication.overlap import areas_and_parts
from geosod.deduplication.settle import settle
from geosod.deduplication.sources import reading
from geosod.deduplication.spill import append, appended
from geosod.deduplication.survey import Group, Survey, box_bounds, near_any

_COLUMNS = ["detection_id", "geometry", "bbox", "label", "score", "truncated", "n_merged"]


@dataclass(frozen=True, slots=True)
class Merged:
    """What one strip settled.

    Attributes:
        dropped: (K,) boxes that are merged into others.
        kept: (K,) the box that each is merged into.
        boxes: how many boxes were taken up.
        pairs: how many pairs of boxes were measured.
    """

    dropped: Boxes
    kept: Boxes
    boxes: int
    pairs: int


@dataclass(slots=True)
class _Shelf:
    """Boxes that were read and not yet taken up, by strip: in memory while there is room, else in files.

    Attributes:
        room: how many may be in memory.
        folder: where the files go.
        labels: numbers given to labels.
        waiting: boxes in memory.
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
            append(self._file(strip), boxes.to_arrow())

    def pop(self, strip: int) -> list[Boxes]:
        """Hand out what was kept for a strip."""
        path = self._file(strip)
        kept = self.waiting.pop(strip, [])
        self.room += sum(map(len, kept))
        kept += [Boxes.from_arrow(table) for table in appended(path)]
        path.unlink(missing_ok=True)
        return kept

    def _file(self, strip: int) -> Path:
        return self.folder / f"{strip}.arrows"


def sweep(
    plan: Survey, rule: MosaicRule, dates: IntArray, *, rows: int, turn: float | None, folder: Path
) -> Iterator[Merged]:
    """Match the boxes of all scenes, strip by strip.

    Args:
        plan: from `survey`.
        rule: when boxes match, and which stay.
        dates: as `geosod.deduplication.match.ranking`, for each layer.
        rows: boxes that may wait in memory besides those of a strip.
        turn: units of a full turn where the CRS is geographic, else None.
        folder: an empty one, for what there is no room for.

    Yields:
        What each strip settled. Together it is what one strip of everything would settle, in another order.

    Raises:
        LostSceneError: a file cannot be read.
    """
    shelf, carried = _Shelf(rows, folder), None
    begins = np.searchsorted(plan.ends, np.array([group.low for group in plan.groups]), side="right")
    for strip in range(len(plan.ends) + 1):
        new = _take_up(plan, strip, np.flatnonzero(begins == strip), shelf)
        if carried is None and not new:
            continue
        boxes = Boxes.concat([*([carried] if carried is not None else []), *new])
        crowd = gather(boxes, rule, turn=turn)
        component = components(crowd)
        end = plan.ends[strip] if strip < len(plan.ends) else np.inf
        is_open = np.zeros(len(boxes), np.bool_)
        is_open[component[boxes.bounds[:, 3] >= end]] = True
        stays, several = is_open[component], np.bincount(component)[component] > 1
        found = settle(boxes, crowd, several & ~stays, dates, rule, turn=turn)
        yield Merged(boxes.take(found.dropped), boxes.take(found.kept), sum(map(len, new)), found.pairs)
        carried = boxes.take(stays)


def _take_up(plan: Survey, strip: int, places: npt.NDArray[np.int64], shelf: _Shelf) -> list[Boxes]:
    """The boxes of a strip, in which the row groups at some places begin."""
    out = shelf.pop(strip)
    for place in places:
        boxes = _read(plan.groups[place], shelf.labels)
        lies = np.searchsorted(plan.ends, boxes.bounds[:, 1], side="right")
        order = np.argsort(lies, kind="stable")
        starts = np.flatnonzero(np.diff(lies[order], prepend=-1))
        for begin, end in zip(starts, [*starts[1:], len(order)], strict=True):
            part, where = boxes.take(order[begin:end]), int(lies[order[begin]])
            if where == strip:
                out.append(part)
            else:
                shelf.put(where, part)
    return out


def _read(group: Group, labels: dict[str, int]) -> Boxes:
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
        label=_numbers(table["label"], labels),
        score=table["score"].to_numpy(),
        truncated=np.asarray(table["truncated"].to_numpy(zero_copy_only=False), np.bool_),
        n_merged=table["n_merged"].to_numpy(),
        area=area,
        parts=parts,
        ids=table["detection_id"].combine_chunks(),
        wkb=wkb,
    )


def _numbers(column: pa.ChunkedArray, labels: dict[str, int]) -> npt.NDArray[np.int64]:
    """A number for each label name, the same in all files."""
    coded = pc.dictionary_encode(column.combine_chunks())
    numbers = [labels.setdefault(name, len(labels)) for name in coded.dictionary.to_pylist()]
    return (
        np.array(numbers, np.int64)[coded.indices.to_numpy(zero_copy_only=False)]
        if len(column)
        else np.empty(0, np.int64)
    )
