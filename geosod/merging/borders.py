"""Fragments of objects at the borders of tiles: assigned to whole objects, or stitched.

A tile shows an object only up to the tile's edge. A box that touches an interior edge is a *fragment*. If another box
shows the whole object, the fragment adds nothing and is assigned to that box. If none does, the object is larger than
the overlap of the tiles. Its fragments then agree on the ground that their tiles share, and they are stitched into one
box, whatever the method.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from geosod.arrays import FloatArray, IntArray
from geosod.detections import EXCLUDED, SIDES, Detections
from geosod.merging.graph import components, pop_matches
from geosod.merging.groups import Outcome, enclosing
from geosod.merging.index import Index, restore
from geosod.merging.kernel import lean_kernel, read_only
from geosod.merging.match import Match


def touching_sides(detections: Detections) -> npt.NDArray[np.uint8]:
    """(N,) uint8, the sides on which boxes touch an interior edge of their tile; not 0 for fragments."""
    return detections.fragment & np.uint8(SIDES)


def add_fragments(outcome: Outcome, placed: Detections, index: Index, ranked: IntArray, match: Match) -> Outcome:
    """Add fragments and excluded boxes to the result of merging the whole boxes.

    Args:
        outcome: the result for the whole boxes.
        placed: N boxes in the order of the index.
        index: these boxes; it does not matter which of them it holds.
        ranked: (M,) int64, places of the boxes to merge, best first.
        match: the edges.

    Returns:
        The result for all boxes.
    """
    kept_index, is_fragment = outcome.kept_index.copy(), touching_sides(placed) > 0
    excluded = ranked[(placed.fragment[ranked] & EXCLUDED > 0) & ~is_fragment[ranked]]
    kept_index[excluded] = excluded
    whole = ranked[(kept_index[ranked] >= 0) & ~is_fragment[ranked]]
    target = _assign(index, whole, ranked[is_fragment[ranked]], match)
    assigned = target >= 0
    stitched = assigned & is_fragment[target]
    columns = dict(outcome.columns)
    for name, values in _stitched_columns(placed, np.where(stitched, target, -1)).items():
        column = columns.get(name, getattr(placed, name)).copy()
        column[stitched] = values[stitched]
        columns[name] = column
    kept_index[stitched] = target[stitched]
    absorbed = assigned & ~stitched
    kept_index[absorbed] = kept_index[target[absorbed]]
    return Outcome(kept_index, columns)


def _assign(index: Index, whole: IntArray, fragments: IntArray, match: Match) -> IntArray:
    """Assign fragments to the whole objects that they match, and group the remaining fragments.

    Args:
        index: N boxes; it does not matter which of them it holds.
        whole: places of the boxes that fragments may be assigned to, best first.
        fragments: places of the fragments, best first.
        match: the edges.

    Returns:
        (N,) int64 by place. For each fragment, the best-ranked box of `whole` that it matches; if there is none, the
        best-ranked of the fragments that it is connected with through unassigned fragments. -1 for other boxes.
    """
    present = np.zeros(len(index.order), np.bool_)
    present[fragments] = True
    restore(index, present)
    target = np.full(len(present), -1)
    _absorb(index, whole, match, len(fragments), target, np.empty(len(target), np.int64))
    unassigned = fragments[target[fragments] < 0]
    label, starts = components(index, match, len(unassigned))
    _group(label, unassigned, np.full(len(starts) - 1, -1), target)
    return target


def _stitched_columns(detections: Detections, kept_index: IntArray) -> dict[str, npt.NDArray[Any]]:
    """Columns of stitched fragments: the smallest enclosing box of each group, with its highest score.

    A side of that box is flagged in `fragment` if a fragment that reaches that side touches its tile's edge there.

    Args:
        detections: N boxes.
        kept_index: (N,) int64, the fragment that represents each fragment, -1 for other boxes.
    """
    columns = enclosing(detections.boxes, detections.scores.copy(), detections.truncated.copy(), kept_index)
    boxes, flags, remaining = read_only(detections.boxes), read_only(detections.fragment), detections.fragment.copy()
    _set_remaining_sides(boxes, columns["boxes"], flags, kept_index, remaining)
    return columns | {"fragment": remaining}


@lean_kernel
def _absorb(index: Index, whole: IntArray, match: Match, remaining: int, target: IntArray, found: IntArray) -> None:
    for i in whole:
        count = pop_matches(index, i, match, found) if remaining else 0
        remaining -= count
        for f in range(count):
            target[found[f]] = i


@lean_kernel
def _group(label: IntArray, ranked: IntArray, first: IntArray, target: IntArray) -> None:
    for place in ranked:
        component = label[place]
        if first[component] < 0:
            first[component] = place
        target[place] = first[component]


@lean_kernel
def _set_remaining_sides(
    boxes: FloatArray,
    stitched: FloatArray,
    flags: npt.NDArray[np.uint8],
    kept_index: IntArray,
    remaining: npt.NDArray[np.uint8],
) -> None:
    for i in range(len(kept_index)):
        if kept_index[i] == i:
            remaining[i] = 0
    for i in range(len(kept_index)):
        if kept_index[i] >= 0:
            for side in range(4):
                # The bits are in the order of the corners.
                if boxes[i, side] == stitched[kept_index[i], side]:
                    remaining[kept_index[i]] |= flags[i] & (1 << side)
