"""Which boxes could match, judged by their bounds alone, and in which order to measure them.

Two boxes are *linked* if they are of different scenes and of one class, and their metric would reach the threshold if
they shared all the area that their bounds share. Every match is a link. Near a pole, where bounds in degrees do not
bound areas, boxes are linked if their bounds meet.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.deduplication.boxes import Boxes
from geosod.deduplication.match import ROUNDING, MatchRule
from geosod.deduplication.overlap import near_pole, part_bounds
from geosod.detections import Detections
from geosod.merging.graph import connected
from geosod.merging.index import Index, build_index, cells_of, next_of, restore, run_of
from geosod.merging.kernel import kernel

_ULPS = 4 * np.finfo(np.float64).eps
_CLAIMABLE, _BLOCKED = 1, 2


class CandidateIndex(NamedTuple):
    """N boxes in a spatial index; boxes that are split at the antimeridian are indexed part by part.

    Attributes:
        parts: the P parts; a *place* is a position in this index.
        box: (P,) int64, the box that the part at each place belongs to.
        scene: (P,) int64, area: (P,) float64, truncated: (P,) bool, polar: (P,) bool, of these boxes.
        n_parts: (P,) float64, number of parts of these boxes.
        places: (P,) int64, places of all boxes, box by box.
        start: (N + 1,) int64, where those of each box begin in `places`.
        ios: whether the metric is "ios".
        class_agnostic: whether boxes of different classes may be linked.
        min_metric: the metric from which boxes are linked.
    """

    parts: Index
    box: IntArray
    scene: IntArray
    area: FloatArray
    truncated: BoolArray
    polar: BoolArray
    n_parts: FloatArray
    places: IntArray
    start: IntArray
    ios: bool
    class_agnostic: bool
    min_metric: float


class Round(NamedTuple):
    """Pairs to measure, and the boxes that are decided by them.

    Attributes:
        ready: (K,) int64, boxes by rank; what each may suppress depends only on those before it.
        keeper, candidate: (M,) int64, each box of `ready` with every lower-ranked box linked to it.
    """

    ready: IntArray
    keeper: IntArray
    candidate: IntArray


def index_candidates(boxes: Boxes, rule: MatchRule, *, full_circle: float | None) -> CandidateIndex:
    """Put boxes into an index.

    Args:
        boxes: N boxes.
        rule: when they match.
        full_circle: 360° in units of the CRS if it is geographic, else None.
    """
    bounds, box = part_bounds(boxes.wkb, boxes.bounds, boxes.parts)
    # Room for rounding in the bounds; the index would leave out a box with a side of length zero.
    bounds += np.array([-_ULPS, -_ULPS, _ULPS, _ULPS]) * np.abs(bounds)
    index = build_index(Detections(boxes=bounds, scores=np.zeros(len(bounds)), labels=boxes.label[box]))
    box = box[index.order]
    return CandidateIndex(
        parts=index,
        box=box,
        scene=boxes.scene[box],
        area=boxes.area[box],
        truncated=boxes.truncated[box],
        polar=near_pole(boxes.bounds, full_circle)[box],
        n_parts=boxes.parts[box].astype(np.float64),
        places=np.argsort(box, kind="stable"),
        start=np.searchsorted(np.sort(box), np.arange(len(boxes) + 1)),
        ios=rule.metric == "ios",
        class_agnostic=rule.class_agnostic,
        min_metric=rule.threshold - 2 * ROUNDING,
    )


def components(index: CandidateIndex) -> IntArray:
    """(N,) int64, the connected component of the graph of links that each box is in.

    Every box is reached once and then removed from the index, so that the time is linear even for many boxes in one
    place.
    """
    label = _flood(index)
    box = index.box[index.places]
    same = np.flatnonzero(box[1:] == box[:-1])
    joined: IntArray = connected(len(label), label[index.places[same]], label[index.places[same + 1]])
    component: IntArray = joined[label[index.places[index.start[:-1]]]]
    return component


def restore_boxes(index: CandidateIndex, among: BoolArray) -> None:
    """Make the index hold these boxes, (N,) bool, and no others."""
    restore(index.parts, among[index.box])


def remove_boxes(index: CandidateIndex, gone: IntArray) -> None:
    """Remove boxes, (K,) int64, from the index."""
    _remove(index.parts.skip, index.places, index.start, gone)


def next_round(
    index: CandidateIndex,
    order: IntArray,
    rank: IntArray,
    *,
    max_pairs: int,
    max_speculative: int,
    max_waiting: int,
) -> Round:
    """Choose as many boxes as can be decided at once, from the best on, and the pairs that this needs.

    A box must wait if what it may suppress depends on a better box that waits: if it is linked to one, or to a box
    that is linked to one. It need not wait if a better box of the same round may suppress it, but then its pairs may
    be measured in vain; so it waits, too, once there have been many such pairs.

    Args:
        index: the boxes.
        order: (K,) int64, the boxes in the index, from best to worst; not empty.
        rank: (N,) int64, position of each box in the whole ranking.
        max_pairs: no box is added once there are this many pairs.
        max_speculative: how many pairs may be measured for boxes that another of the round may suppress.
        max_waiting: the round ends when more than three times as many boxes wait as do not, plus this many.

    Returns:
        At least one box.
    """
    n = len(index.start) - 1
    ready, keeper, candidate = (
        np.empty(n, np.int64),
        np.empty(max_pairs + n, np.int64),
        np.empty(max_pairs + n, np.int64),
    )
    limits = (max_pairs, max_speculative, max_waiting)
    boxes, pairs = _next_round(index, order, rank, limits, ready, keeper, candidate)
    return Round(ready[:boxes].copy(), keeper[:pairs].copy(), candidate[:pairs].copy())


@kernel
def _metric(shared: float, first: float, second: float, truncated_1: bool, truncated_2: bool, ios: bool) -> float:
    """An upper bound of the metric of two boxes, in either order."""
    most = min(shared, first, second)
    over = first + second - most
    if truncated_1 != truncated_2:
        over = first if truncated_1 else second
    elif ios or truncated_1:
        over = min(first, second)
    return most / over if most > 0 else 0.0


@kernel
def _linked_places(candidates: CandidateIndex, i: int, remove: bool, found: IntArray) -> int:
    """Write the places linked to place `i` into `found`; returns their number. `remove` takes them out of the index."""
    # Names for the arrays: numba counts references whenever one is fetched from a tuple.
    index, scene, polar, n_parts, area, truncated = (
        candidates.parts, candidates.scene, candidates.polar, candidates.n_parts, candidates.area,
        candidates.truncated,
    )  # fmt: skip
    boxes, labels, skip = index.boxes, index.labels, index.skip
    x0, y0, x1, y1 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
    own, label, n = scene[i], labels[i], 0
    for k in range(len(index.levels)):
        row, row_high, col_low, col_high = cells_of(index, k, x0, y0, x1, y1)
        while row <= row_high and col_low <= col_high:
            place, end, row = run_of(index, k, row, col_low, col_high)
            place = np.int64(next_of(skip, place))
            while place < end:
                if scene[place] != own and (candidates.class_agnostic or labels[place] == label):
                    width = min(x1, boxes[place, 2]) - max(x0, boxes[place, 0])
                    height = min(y1, boxes[place, 3]) - max(y0, boxes[place, 1])
                    if width >= 0 and height >= 0:
                        # The largest of the areas shared by pairs of parts is at least their mean.
                        most = (width * height) * (n_parts[i] * n_parts[place])
                        bound = _metric(most, area[i], area[place], truncated[i], truncated[place], candidates.ios)
                        if bound >= candidates.min_metric or polar[i] or polar[place]:
                            found[n] = place
                            n += 1
                            if remove:
                                skip[place] = place + 1
                place = np.int64(next_of(skip, place + 1))
    return n


@kernel
def _flood(candidates: CandidateIndex) -> IntArray:
    """(P,) int64 by place, the number of each part's component, counted from 0."""
    skip = candidates.parts.skip
    n, count = len(candidates.box), 0
    label, stack, found = np.full(n, -1, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    for first in range(n):
        if label[first] >= 0:
            continue
        top, stack[0], label[first] = 1, first, count
        skip[first] = first + 1
        while top:
            top -= 1
            linked = _linked_places(candidates, stack[top], True, found)
            for f in range(linked):
                label[found[f]] = count
                stack[top + f] = found[f]
            top += linked
        count += 1
    return label


@kernel
def _next_round(
    candidates: CandidateIndex,
    order: IntArray,
    rank: IntArray,
    limits: tuple[int, int, int],
    ready: IntArray,
    keeper: IntArray,
    candidate: IntArray,
) -> Any:
    max_pairs, max_speculative, max_waiting = limits
    n = len(candidates.start) - 1
    stamp, links = np.zeros(n, np.uint8), np.empty(n, np.int64)
    found, seen = np.empty(len(candidates.box), np.int64), np.full(n, -1, np.int64)
    box_of, places, start = candidates.box, candidates.places, candidates.start
    boxes, count, waiting, speculative = 0, 0, 0, 0
    for box in order:
        if count >= max_pairs or waiting > 3 * boxes + max_waiting:
            break
        m, blocked = 0, stamp[box] == _BLOCKED
        for part in range(start[box], start[box + 1]):
            for f in range(_linked_places(candidates, places[part], False, found)):
                other = box_of[found[f]]
                if rank[other] > rank[box] and seen[other] != box:
                    seen[other], links[m] = box, other
                    blocked |= stamp[other] == _BLOCKED
                    m += 1
        if not blocked and (stamp[box] != _CLAIMABLE or speculative + m <= max_speculative):
            speculative += m if stamp[box] == _CLAIMABLE else 0
            ready[boxes] = box
            boxes += 1
            for k in range(m):
                stamp[links[k]] = _CLAIMABLE
                keeper[count], candidate[count] = box, links[k]
                count += 1
        else:
            waiting += 1
            for k in range(m):
                stamp[links[k]] = _BLOCKED
    return boxes, count


@kernel
def _remove(skip: npt.NDArray[Any], places: IntArray, start: IntArray, gone: IntArray) -> None:
    for box in gone:
        for k in range(start[box], start[box + 1]):
            skip[places[k]] = places[k] + 1
