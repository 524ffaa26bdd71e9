"""Orders in which boxes can be worked through one part of the scene at a time, for the sake of caches."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.merging.graph import flood, places_of
from geosod.merging.index import Index, restore
from geosod.merging.kernel import kernel
from geosod.merging.match import Match, reach_of

#: Boxes of a part: so many that what is known of them stays in a core's cache.
_BLOCK = 16_384
#: Share of boxes that leave their part above which parts are too small for the boxes.
_MOST_CROSSING = 0.2
#: A square so far away that its number does not matter, but can still be told.
_FAR = 2.0**40
_ULPS = 4 * np.finfo(np.float64).eps


def by_block(
    index: Index,
    ranking: IntArray,
    match: Match,
    near: float = 0.0,
) -> IntArray:
    """Rearrange a ranking so that neighbours come together, and boxes of one component stay in order of rank.

    Components that lie in one square of the plane come square by square, all others after them.

    Args:
        index: the boxes that are ranked, and no others.
        ranking: M rows of the detections, best first.
        match: the edges.
        near: as in `flood`.

    Returns:
        (M,) int64, places.
    """
    places = places_of(index, ranking)
    if len(ranking) <= 2 * _BLOCK:
        return places
    blocks = len(ranking) / _BLOCK
    low, spread = _spread(index.boxes)
    side = max((spread[0] * spread[1] / blocks) ** 0.5, spread.max() / blocks, np.finfo(np.float64).tiny)
    n = len(index.boxes)
    block, crossing = np.empty(n, np.int64), np.zeros(n, np.bool_)
    count = _blocks(index.boxes, low, side, reach_of(near) if near else 0.0, block, np.empty_like(block), crossing)
    ranked = np.zeros(n, np.bool_)
    ranked[places] = True
    crossing &= ranked
    if np.count_nonzero(crossing) > _MOST_CROSSING * len(ranking):
        return places
    seeds = np.empty(n, np.bool_)
    seeds[index.order] = crossing
    wide = flood(index, seeds, match, near)[index.order]
    restore(index, ranked)
    block[wide] = count
    return sort_into(block, places, count + 1)


def sort_into(part: IntArray, ranking: IntArray, count: int) -> IntArray:
    """`ranking` sorted by the part, below `count`, that each of its places is in, stably."""
    ordered = np.empty_like(ranking)
    _sort_into(part, ranking, np.zeros(count + 1, np.int64), np.empty(len(ranking), np.int32), ordered)
    return ordered


@kernel
def _sort_into(
    part: IntArray, ranking: IntArray, slot: IntArray, parts: npt.NDArray[np.int32], ordered: IntArray
) -> None:
    # Parts are kept in the order they are needed again in: `part` is read all over the place.
    for k in range(len(ranking)):
        parts[k] = part[ranking[k]]
        slot[parts[k] + 1] += 1
    for k in range(len(slot) - 1):
        slot[k + 1] += slot[k]
    for k in range(len(ranking)):
        ordered[slot[parts[k]]] = ranking[k]
        slot[parts[k]] += 1


@kernel
def _spread(boxes: FloatArray) -> Any:
    """(2,) float64 each: the first of all top-left corners, and how far they spread."""
    low, high = boxes[0, :2].copy(), boxes[0, :2].copy()
    for i in range(len(boxes)):
        for axis in range(2):
            low[axis], high[axis] = min(low[axis], boxes[i, axis]), max(high[axis], boxes[i, axis])
    return low, high - low


@kernel
def _blocks(
    boxes: FloatArray, low: FloatArray, side: float, reach: float, block: IntArray, cols: IntArray, crossing: BoolArray
) -> int:
    """Write the square of each box's top-left corner, and whether the box, or its reach, leaves it.

    Returns:
        The number of squares.
    """
    n, most, highest = len(boxes), 0, 0
    for i in range(n):
        for axis in range(2):
            start, end = boxes[i, axis], boxes[i, axis + 2]
            margin = reach * (end - start) + _ULPS * (abs(start) + abs(end) + (end - start))
            here = int((start - low[axis]) / side)
            if axis:
                block[i] = here
            else:
                cols[i] = here
                most = max(most, here)
            before = int((start - margin - low[axis]) / side)
            after = int(min((end + margin - low[axis]) / side, _FAR))
            crossing[i] = crossing[i] or before != here or after != here
    for i in range(n):
        block[i] = block[i] * (most + 1) + cols[i]
        highest = max(highest, block[i])
    return highest + 1
