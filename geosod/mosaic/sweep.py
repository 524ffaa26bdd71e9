"""Matching by strips: what is found is what matching all boxes at once would find.

Boxes are taken up in strips by their ymin. A box is *open* while a box of a later strip could still meet it, that is
while its ymax reaches the end of the strip. A component of the graph of matches without an open box has all its
boxes and matches, and its outcome depends on nothing else: it is settled. All others are carried on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geosod.mosaic.match import Boxes, Edges, MosaicRule, components, find_edges, keepers
from geosod.mosaic.sources import reading
from geosod.mosaic.survey import Group, Survey, box_bounds, near_any
from geosod.types import BoolArray, IntArray

_COLUMNS = ["detection_id", "geometry", "bbox", "label", "score", "cut", "n_merged"]


@dataclass(frozen=True, slots=True)
class Merged:
    """What one strip settled.

    Attributes:
        dropped: (K,) boxes that are merged into others.
        kept: (K,) the box that each is merged into.
        boxes: how many boxes were taken up.
    """

    dropped: Boxes
    kept: Boxes
    boxes: int


@dataclass(slots=True)
class _Shelf:
    """Boxes of row groups that were read and not yet taken up, and the numbers given to labels."""

    labels: dict[str, int] = field(default_factory=dict)
    waiting: dict[int, Boxes] = field(default_factory=dict)

    def put(self, key: int, boxes: Boxes, room: int) -> None:
        """Keep what is left of a row group, where there is room; it is read again otherwise."""
        if len(boxes) and sum(map(len, self.waiting.values())) + len(boxes) <= room:
            self.waiting[key] = boxes


def sweep(plan: Survey, rule: MosaicRule, dates: IntArray, *, rows: int, turn: float | None) -> Iterator[Merged]:
    """Match the boxes of all scenes, strip by strip.

    Args:
        plan: from `survey`.
        rule: when boxes match, and which stay.
        dates: as `geosod.mosaic.match.ranking`, for each layer.
        rows: boxes that may wait in memory besides those of a strip.
        turn: units of a full turn where the CRS is geographic, else None.

    Yields:
        What each strip settled. Together it is what one strip of everything would settle, in another order.

    Raises:
        LostSceneError: a file cannot be read.
    """
    shelf, carried, edges = _Shelf(), None, Edges.none()
    lows, highs = (np.array([getattr(group, name) for group in plan.groups]) for name in ("low", "high"))
    spans = np.stack([np.searchsorted(plan.ends, y, side="right") for y in (lows, highs)], axis=1)
    for strip in range(len(plan.ends) + 1):
        new = _take_up(plan, strip, spans, shelf, rows)
        taken = sum(map(len, new))
        boxes = Boxes.concat([*([carried] if carried is not None else []), *new]) if new or carried else None
        if boxes is None:
            continue
        fresh = np.arange(len(boxes)) >= len(boxes) - taken
        end = plan.ends[strip] if strip < len(plan.ends) else np.inf
        edges = edges.plus(_new_edges(boxes, fresh, rule, turn, carried_reach=_open(boxes, fresh, plan, strip)))
        component = components(len(boxes), edges.a, edges.b)
        is_open = np.zeros(len(boxes), np.bool_)
        is_open[component[boxes.bounds[:, 3] >= end]] = True
        stays = is_open[component]
        yield _settled(boxes, edges, ~stays[edges.a], dates, rule, taken)
        carried, edges = boxes.take(stays), _kept_edges(edges, stays)


def _open(boxes: Boxes, fresh: BoolArray, plan: Survey, strip: int) -> BoolArray:
    """Boxes that a box of this strip can meet."""
    begin = plan.ends[strip - 1] if strip else -np.inf
    return np.asarray(fresh | (boxes.bounds[:, 3] >= begin), np.bool_)


def _new_edges(
    boxes: Boxes, fresh: BoolArray, rule: MosaicRule, turn: float | None, *, carried_reach: BoolArray
) -> Edges:
    """Matches with a fresh box; others were found before."""
    some = np.flatnonzero(carried_reach)
    found = find_edges(boxes.take(some), fresh[some], rule, turn=turn)
    return Edges(some[found.a], some[found.b], found.measure)


def _settled(boxes: Boxes, edges: Edges, done: BoolArray, dates: IntArray, rule: MosaicRule, taken: int) -> Merged:
    """The outcome of the components that the matches `done` make up."""
    used, index = np.unique(np.concatenate([edges.a[done], edges.b[done]]), return_inverse=True)
    half = int(done.sum())
    own = boxes.take(used)
    keeper = keepers(own, Edges(index[:half], index[half:], edges.measure[done]), dates, rule)
    gone = np.flatnonzero(keeper >= 0)
    return Merged(own.take(gone), own.take(keeper[gone]), taken)


def _kept_edges(edges: Edges, stays: BoolArray) -> Edges:
    """The matches of boxes that stay, by their places among these."""
    place = np.cumsum(stays) - 1
    kept = stays[edges.a]
    return Edges(place[edges.a[kept]], place[edges.b[kept]], edges.measure[kept])


def _take_up(plan: Survey, strip: int, spans: IntArray, shelf: _Shelf, room: int) -> list[Boxes]:
    """The boxes of a strip; `spans` has the first and last strip of each group."""
    out = []
    for place in np.flatnonzero((spans[:, 0] <= strip) & (strip <= spans[:, 1])):
        group = plan.groups[place]
        boxes = shelf.waiting.pop(int(place), None) or _read(group, shelf.labels)
        lies = np.searchsorted(plan.ends, boxes.bounds[:, 1], side="right")
        out.append(boxes.take(lies == strip))
        if spans[place, 1] > strip:
            shelf.put(int(place), boxes.take(lies > strip), room)
    return [boxes for boxes in out if len(boxes)]


def _read(group: Group, labels: dict[str, int]) -> Boxes:
    """The boxes of a row group that may meet another scene's."""
    with reading(group.layer.scene), pq.ParquetFile(group.layer.path) as file:
        table = file.read_row_group(group.number, columns=_COLUMNS)
        bounds = box_bounds(table["bbox"])
        near = near_any(bounds, group.near)
        table = table.take(pa.array(near)) if len(near) < len(table) else table
    return Boxes(
        scene=np.full(len(near), group.layer.index, np.int64),
        row=group.first_row + near,
        bounds=bounds[near],
        label=_numbers(table["label"], labels),
        score=table["score"].to_numpy(),
        cut=np.asarray(table["cut"].to_numpy(zero_copy_only=False), np.bool_),
        n_merged=table["n_merged"].to_numpy(),
        ids=table["detection_id"].combine_chunks(),
        wkb=table["geometry"].combine_chunks(),
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
