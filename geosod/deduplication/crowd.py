"""Boxes of one strip beside each other: which could match, told by their bounds alone.

Two boxes are *linked* if they are of different scenes and of one class, and their metric would reach the threshold if
they shared all the area that their bounds share. Every match is a link. Near a pole, where bounds in degrees tell
nothing of areas, boxes are linked if their bounds meet.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.deduplication.match import ROUNDING, Boxes, MosaicRule
from geosod.deduplication.overlap import near_pole, parts_of
from geosod.detections import Detections
from geosod.merging.graph import connected
from geosod.merging.index import Index, build_index, cells_of, next_of, restore, run_of
from geosod.merging.kernel import kernel

_ULPS = 4 * np.finfo(np.float64).eps
_CLAIMABLE, _BLOCKED = 1, 2


class Crowd(NamedTuple):
    """Boxes in an index, those that are split at the antimeridian part by part.

    Attributes:
        parts: the P parts in an index; a *place* is a position in it.
        owner: (P,) int64, the box that the part at each place is of.
        scene: (P,) int64, area: (P,) float64, truncated: (P,) bool, polar: (P,) bool, of these boxes.
        pieces: (P,) float64, number of parts of these boxes.
        places: (P,) int64, places of all boxes, box by box.
        start: (N + 1,) int64, where those of each box begin in `places`.
        ios: whether the metric is "ios".
        class_agnostic: whether boxes of different classes may be linked.
        least: the metric from which boxes are linked.
    """

    parts: Index
    owner: IntArray
    scene: IntArray
    area: FloatArray
    truncated: BoolArray
    polar: BoolArray
    pieces: FloatArray
    places: IntArray
    start: IntArray
    ios: bool
    class_agnostic: bool
    least: float


class Round(NamedTuple):
    """Pairs to be measured, and the boxes whose turn it is.

    Attributes:
        ready: (K,) int64, boxes by rank: what each can take depends on nothing but those before it.
        keeper, twin: (M,) int64, each box of `ready` with those linked to it that rank below it.
    """

    ready: IntArray
    keeper: IntArray
    twin: IntArray


def gather(boxes: Boxes, rule: MosaicRule, *, turn: float | None) -> Crowd:
    """Put boxes into an index.

    Args:
        boxes: N boxes.
        rule: when they match.
        turn: units of a full turn where the CRS is geographic, else None.
    """
    bounds, owner = parts_of(boxes.wkb, boxes.bounds, boxes.parts)
    # Room for rounding in the bounds; a side of no length would be left out of the index.
    bounds += np.array([-_ULPS, -_ULPS, _ULPS, _ULPS]) * np.abs(bounds)
    index = build_index(Detections(boxes=bounds, scores=np.zeros(len(bounds)), labels=boxes.label[owner]))
    owner = owner[index.order]
    return Crowd(
        parts=index,
        owner=owner,
        scene=boxes.scene[owner],
        area=boxes.area[owner],
        truncated=boxes.truncated[owner],
        polar=near_pole(boxes.bounds, turn)[owner],
        pieces=boxes.parts[owner].astype(np.float64),
        places=np.argsort(owner, kind="stable"),
        start=np.searchsorted(np.sort(owner), np.arange(len(boxes) + 1)),
        ios=rule.metric == "ios",
        class_agnostic=rule.class_agnostic,
        least=rule.threshold - 2 * ROUNDING,
    )


def components(crowd: Crowd) -> IntArray:
    """(N,) int64, a number for each box, the same for boxes that links join, directly or through others.

    Every box is reached once, and is taken out of the index then, so that piles of boxes are linear.
    """
    label = _flood(crowd)
    owner = crowd.owner[crowd.places]
    same = np.flatnonzero(owner[1:] == owner[:-1])
    joined: IntArray = connected(len(label), label[crowd.places[same]], label[crowd.places[same + 1]])
    component: IntArray = joined[label[crowd.places[crowd.start[:-1]]]]
    return component


def put_back(crowd: Crowd, among: BoolArray) -> None:
    """Have these boxes, (N,) bool, in the index, and no others."""
    restore(crowd.parts, among[crowd.owner])


def take_out(crowd: Crowd, gone: IntArray) -> None:
    """Take boxes out of the index."""
    _take_out(crowd.parts.skip, crowd.places, crowd.start, gone)


def next_round(crowd: Crowd, order: IntArray, rank: IntArray, *, pairs: int, waste: int, patience: int) -> Round:
    """As many boxes as can be dealt with at once, from the best on, and the pairs they need.

    A box has to wait if what it can take depends on a better one that waits: if it is linked to such a one or to what
    such a one is linked to. It may be dealt with if a better one that is dealt with may take it, but its pairs are in
    vain then, so it waits, too, where there have been many.

    Args:
        crowd: the boxes.
        order: (K,) int64, the boxes in its index, from the best to the last; not empty.
        rank: (N,) int64, place of each box in the whole ranking.
        pairs: with so many no more boxes are added.
        waste: so many pairs of boxes that may be taken are allowed for.
        patience: when so many more boxes wait than three times those that do not, the rest is left to the next round.

    Returns:
        At least one box.
    """
    n = len(crowd.start) - 1
    some = np.empty(n, np.int64), np.empty(pairs + n, np.int64), np.empty(pairs + n, np.int64)
    boxes, found = _next_round(crowd, order, rank, (pairs, waste, patience), *some)
    return Round(some[0][:boxes].copy(), some[1][:found].copy(), some[2][:found].copy())


@kernel
def _metric(shared: float, first: float, second: float, cut_first: bool, cut_second: bool, ios: bool) -> float:
    """An upper bound of the metric of two boxes; the same whichever is the first."""
    least = min(shared, first, second)
    over = first + second - least
    if cut_first != cut_second:
        over = first if cut_first else second
    elif ios or cut_first:
        over = min(first, second)
    return least / over if least > 0 else 0.0


@kernel
def _links(crowd: Crowd, i: int, taking: bool, found: IntArray) -> int:
    """Places that the one at `i` is linked to, into `found`; their number. If `taking`, they leave the index."""
    # Names for the arrays: numba counts references whenever one is fetched from a tuple.
    index, scene, polar, pieces, area, cut = (
        crowd.parts, crowd.scene, crowd.polar, crowd.pieces, crowd.area, crowd.truncated,
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
                if scene[place] != own and (crowd.class_agnostic or labels[place] == label):
                    width = min(x1, boxes[place, 2]) - max(x0, boxes[place, 0])
                    height = min(y1, boxes[place, 3]) - max(y0, boxes[place, 1])
                    if width >= 0 and height >= 0:
                        # The largest of so many shares of parts is at least their mean.
                        most = (width * height) * (pieces[i] * pieces[place])
                        bound = _metric(most, area[i], area[place], cut[i], cut[place], crowd.ios)
                        if bound >= crowd.least or polar[i] or polar[place]:
                            found[n] = place
                            n += 1
                            if taking:
                                skip[place] = place + 1
                place = np.int64(next_of(skip, place + 1))
    return n


@kernel
def _flood(crowd: Crowd) -> IntArray:
    """(P,) int64 by place, the number of each part's component, counted from 0."""
    skip = crowd.parts.skip
    n, count = len(crowd.owner), 0
    label, stack, found = np.full(n, -1, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    for first in range(n):
        if label[first] >= 0:
            continue
        top, stack[0], label[first] = 1, first, count
        skip[first] = first + 1
        while top:
            top -= 1
            taken = _links(crowd, stack[top], True, found)
            for f in range(taken):
                label[found[f]] = count
                stack[top + f] = found[f]
            top += taken
        count += 1
    return label


@kernel
def _next_round(
    crowd: Crowd,
    order: IntArray,
    rank: IntArray,
    limits: tuple[int, int, int],
    ready: IntArray,
    keeper: IntArray,
    twin: IntArray,
) -> Any:
    pairs, waste, patience = limits
    n = len(crowd.start) - 1
    stamp, links = np.zeros(n, np.uint8), np.empty(n, np.int64)
    found, seen = np.empty(len(crowd.owner), np.int64), np.full(n, -1, np.int64)
    owner, places, start = crowd.owner, crowd.places, crowd.start
    boxes, count, waiting, spent = 0, 0, 0, 0
    for box in order:
        if count >= pairs or waiting > 3 * boxes + patience:
            break
        m, blocked = 0, stamp[box] == _BLOCKED
        for part in range(start[box], start[box + 1]):
            for f in range(_links(crowd, places[part], False, found)):
                other = owner[found[f]]
                if rank[other] > rank[box] and seen[other] != box:
                    seen[other], links[m] = box, other
                    blocked |= stamp[other] == _BLOCKED
                    m += 1
        if not blocked and (stamp[box] != _CLAIMABLE or spent + m <= waste):
            spent += m if stamp[box] == _CLAIMABLE else 0
            ready[boxes] = box
            boxes += 1
            for k in range(m):
                stamp[links[k]] = _CLAIMABLE
                keeper[count], twin[count] = box, links[k]
                count += 1
        else:
            waiting += 1
            for k in range(m):
                stamp[links[k]] = _BLOCKED
    return boxes, count


@kernel
def _take_out(skip: npt.NDArray[Any], places: IntArray, start: IntArray, gone: IntArray) -> None:
    for box in gone:
        for k in range(start[box], start[box + 1]):
            skip[places[k]] = places[k] + 1
