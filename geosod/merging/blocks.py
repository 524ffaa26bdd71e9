"""Processing order of boxes: block by block of the scene, so that the data of a block stays in the CPU cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.merging.graph import flood
from geosod.merging.index import Index, places_of, restore
from geosod.merging.kernel import kernel, lean_kernel
from geosod.merging.match import Match, reach_of

#: Boxes per block; the data of so many fits in a core's cache.
BLOCK = 16_384
#: If more than this share of the boxes cross a block's edge, blocks are too small to help.
_MAX_CROSSING = 0.2
#: Upper limit for block numbers, so that they fit in an integer.
_FAR = 2.0**40
_ULPS = 4 * np.finfo(np.float64).eps


def by_block(
    index: Index,
    ranking: IntArray,
    match: Match,
    near: float = 0.0,
) -> IntArray:
    """Reorder a ranking so that nearby boxes are processed together; in each component the order of rank is kept.

    The plane is divided into square blocks. Components that lie in one block come block by block, and all components
    that cross the edge of a block come last.

    Args:
        index: the ranked boxes, and no others.
        ranking: (M,) int64, rows of the detections, best first.
        match: the edges.
        near: as in `flood`.

    Returns:
        (M,) int64, places.
    """
    places = places_of(index, ranking)
    if len(ranking) <= 2 * BLOCK:
        return places
    blocks = len(ranking) / BLOCK
    low, spread = _spread(index.boxes)
    side = max((spread[0] * spread[1] / blocks) ** 0.5, spread.max() / blocks, np.finfo(np.float64).tiny)
    n = len(index.boxes)
    block, crossing = np.empty(n, np.int64), np.zeros(n, np.bool_)
    count = _blocks(index.boxes, low, side, reach_of(near) if near else 0.0, block, np.empty_like(block), crossing)
    ranked = np.zeros(n, np.bool_)
    ranked[places] = True
    crossing &= ranked
    if np.count_nonzero(crossing) > _MAX_CROSSING * len(ranking):
        return places
    seeds = np.empty(n, np.bool_)
    seeds[index.order] = crossing
    crosses = flood(index, seeds, match, near)[index.order]
    restore(index, ranked)
    block[crosses] = count
    return sort_into(block, places, count + 1)


def sort_into(part: IntArray, ranking: IntArray, count: int) -> IntArray:
    """`ranking` stably sorted by the part of each of its places; parts are numbers from 0 to ``count - 1``."""
    ordered = np.empty_like(ranking)
    _sort_into(part, ranking, np.zeros(count + 1, np.int64), np.empty(len(ranking), np.int32), ordered)
    return ordered


@lean_kernel
def _sort_into(
    part: IntArray, ranking: IntArray, slot: IntArray, parts: npt.NDArray[np.int32], ordered: IntArray
) -> None:
    # Parts are copied in the order of their second use, since access to `part` is random.
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
    """(2,) float64 each: the minimum of all top-left corners, and the range of these corners."""
    low, high = boxes[0, :2].copy(), boxes[0, :2].copy()
    for i in range(len(boxes)):
        for axis in range(2):
            low[axis], high[axis] = min(low[axis], boxes[i, axis]), max(high[axis], boxes[i, axis])
    return low, high - low


@lean_kernel
def _blocks(
    boxes: FloatArray, low: FloatArray, side: float, reach: float, block: IntArray, cols: IntArray, crossing: BoolArray
) -> int:
    """Write the block of each box's top-left corner, and whether the box, extended by its reach, crosses its edge.

    Returns:
        The number of blocks.
    """
    n, last_col, last_block = len(boxes), 0, 0
    for i in range(n):
        for axis in range(2):
            start, end = boxes[i, axis], boxes[i, axis + 2]
            margin = reach * (end - start) + _ULPS * (abs(start) + abs(end) + (end - start))
            here = int((start - low[axis]) / side)
            if axis:
                block[i] = here
            else:
                cols[i] = here
                last_col = max(last_col, here)
            before = int((start - margin - low[axis]) / side)
            after = int(min((end + margin - low[axis]) / side, _FAR))
            crossing[i] = crossing[i] or before != here or after != here
    for i in range(n):
        block[i] = block[i] * (last_col + 1) + cols[i]
        last_block = max(last_block, block[i])
    return last_block + 1
