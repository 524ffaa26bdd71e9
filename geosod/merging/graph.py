"""Walks along the edges between boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, IntArray
from geosod.detections import EXCLUDED, SIDES
from geosod.merging.index import Index, cells_of, next_of, run_of
from geosod.merging.kernel import kernel
from geosod.merging.match import Match, around, limit_of, linked, overlap, reach_of, shared


def flood(index: Index, seeds: BoolArray, match: Match, near: float = 0.0) -> BoolArray:
    """Connected components that hold a seed; takes their boxes out of the index.

    Args:
        index: the boxes.
        seeds: (N,) bool in the order of the detections.
        match: the edges.
        near: if not 0, whole boxes are linked as `linked` says, for this threshold.

    Returns:
        (N,) bool in the order of the detections, True for every box of those components.
    """
    if not seeds.any():
        return seeds.copy()
    reached = np.empty(len(seeds), np.bool_)
    reached[index.order] = _flood(index, seeds[index.order], match, near)
    return reached


def suppress(index: Index, ordered: IntArray, match: Match, *, chained: bool = False) -> IntArray:
    """Greedy suppression: the best box takes all its matches, then the best of the rest, and so on.

    Args:
        index: the boxes; those that `ordered` leaves out must have been taken by `flood` before.
        ordered: places, best first in each component.
        match: the edges.
        chained: boxes that were taken go on taking, in their turn, for the box that took them.

    Returns:
        (N,) int64 by place: the place of the box that stands for each box, its own for a kept box, -1 for a box
        that is not ranked.
    """
    n = len(index.boxes)
    owner = np.full(n, -1)
    _suppress(index, ordered, match, chained, owner, np.empty(n, np.int64))
    return owner


def places_of(index: Index, rows: IntArray) -> IntArray:
    """Places of rows of the detections."""
    places = np.empty(len(rows), np.int64)
    _places_of(index.order, rows, np.empty(len(index.order), index.skip.dtype), places)
    return places


def components(index: Index, match: Match, count: int) -> tuple[IntArray, IntArray]:
    """Tell the connected components apart; takes all boxes out of the index.

    Args:
        index: the boxes.
        match: the edges.
        count: how many are in the index.

    Returns:
        (N,) int64 by place, the number of each box's component, or -1 for boxes that were not in the index;
        and (C + 1,) int64, how many boxes come before each component.
    """
    label, sizes = _label(index, match, count)
    return label, np.append(0, np.cumsum(sizes, dtype=np.int64))


@kernel
def _places_of(order: IntArray, rows: IntArray, place: npt.NDArray[Any], places: IntArray) -> None:
    for k in range(len(order)):
        place[order[k]] = k
    for k in range(len(rows)):
        places[k] = place[rows[k]]


@kernel
def tally(owner: IntArray, values: npt.NDArray[Any]) -> IntArray:
    """(N,) int64, for each box the sum of `values` over the boxes that it stands for; -1 is nobody."""
    sums = np.zeros(len(owner), np.int64)
    for i in range(len(owner)):
        if owner[i] >= 0:
            sums[owner[i]] += values[i]
    return sums


@kernel
def connected(n: int, one: IntArray, two: IntArray) -> IntArray:
    """(n,) int64, the lowest number that each is connected with, for edges between `one` and `two`."""
    head = np.arange(n)
    for k in range(len(one)):
        a, b = one[k], two[k]
        while head[a] != a:
            head[a] = head[head[a]]
            a = head[a]
        while head[b] != b:
            head[b] = head[head[b]]
            b = head[b]
        head[max(a, b)] = min(a, b)
    for i in range(n):
        head[i] = head[head[i]]
    return head


@kernel
def take(index: Index, i: int, match: Match, found: IntArray) -> int:
    """Take the boxes that match the box at place `i`, itself included, into `found`; their number."""
    # Names for the arrays: numba counts references whenever one is fetched from a tuple.
    boxes, labels, fragment, skip = index.boxes, index.labels, index.fragment, index.skip
    n = 0
    x0, y0, x1, y1 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
    area, label, piece = (x1 - x0) * (y1 - y0), labels[i], fragment[i]
    own, beyond = limit_of(match, label), around(match)
    for k in range(len(index.levels)):
        row, row_high, col_low, col_high = cells_of(index, k, x0 - beyond, y0 - beyond, x1 + beyond, y1 + beyond)
        while row <= row_high and col_low <= col_high:
            place, end, row = run_of(index, k, row, col_low, col_high)
            place = np.int64(next_of(skip, place))
            while place < end:
                value = 0.0
                if labels[place] == label or match.class_agnostic:
                    if piece or fragment[place]:
                        value = shared(boxes[i], boxes[place], piece, fragment[place], match)
                    else:
                        width = min(x1, boxes[place, 2]) - max(x0, boxes[place, 0])
                        height = min(y1, boxes[place, 3]) - max(y0, boxes[place, 1])
                        if width > 0 and height > 0:
                            inter = width * height
                            other = (boxes[place, 2] - boxes[place, 0]) * (boxes[place, 3] - boxes[place, 1])
                            value = inter / (min(area, other) if match.ios else area + other - inter)
                if value > 0:
                    limit = own if labels[place] == label else max(own, limit_of(match, labels[place]))
                    if value >= limit:
                        found[n] = place
                        n += 1
                        skip[place] = place + 1
                place = np.int64(next_of(skip, place + 1))
    return n


@kernel
def take_near(index: Index, i: int, match: Match, near: float, found: IntArray) -> int:
    """Take the boxes that the box at place `i` is linked to, or as a fragment matches, into `found`; their number."""
    boxes, labels, fragment, skip = index.boxes, index.labels, index.fragment, index.skip
    n, box, piece, label = 0, index.boxes[i], index.fragment[i], index.labels[i]
    reach, beyond = 0.0 if piece & (SIDES | EXCLUDED) else reach_of(near), around(match)
    dx, dy = max(beyond, reach * (box[2] - box[0])), max(beyond, reach * (box[3] - box[1]))
    for k in range(len(index.levels)):
        row, row_high, col_low, col_high = cells_of(index, k, box[0] - dx, box[1] - dy, box[2] + dx, box[3] + dy)
        while row <= row_high and col_low <= col_high:
            place, end, row = run_of(index, k, row, col_low, col_high)
            place = np.int64(next_of(skip, place))
            while place < end:
                joined = False
                if labels[place] == label or match.class_agnostic:
                    if (piece | fragment[place]) & (SIDES | EXCLUDED):
                        value = overlap(index, i, place, match)
                        joined = value > 0 and value >= max(limit_of(match, label), limit_of(match, labels[place]))
                    else:
                        joined = linked(box, boxes[place], near)
                if joined:
                    found[n] = place
                    n += 1
                    skip[place] = place + 1
                place = np.int64(next_of(skip, place + 1))
    return n


@kernel
def _flood(index: Index, seeds: BoolArray, match: Match, near: float) -> BoolArray:
    n = len(seeds)
    reached, stack, found = seeds.copy(), np.empty(n, np.int64), np.empty(n, np.int64)
    top = 0
    for i in range(n):
        if seeds[i]:
            stack[top] = i
            top += 1
    while top:
        top -= 1
        i = stack[top]
        taken = take_near(index, i, match, near, found) if near else take(index, i, match, found)
        for f in range(taken):
            if not reached[found[f]]:
                reached[found[f]] = True
                stack[top] = found[f]
                top += 1
    return reached


@kernel
def _suppress(index: Index, ranking: IntArray, match: Match, chained: bool, owner: IntArray, found: IntArray) -> None:
    left = len(ranking)
    for i in ranking:
        if owner[i] < 0 or chained:
            mine = i if owner[i] < 0 else owner[i]
            owner[i] = mine
            taken = take(index, i, match, found) if left else 0
            left -= taken
            for f in range(taken):
                if owner[found[f]] < 0:
                    owner[found[f]] = mine


@kernel
def _label(index: Index, match: Match, alive: int) -> tuple[IntArray, IntArray]:
    n, skip = len(index.boxes), index.skip
    label, stack, found = np.full(n, -1, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    sizes = np.zeros(alive, np.int64)
    components = 0
    for first in range(n):
        if skip[first] != first:
            continue
        top, stack[0], label[first] = 1, first, components
        skip[first] = first + 1
        while top:
            top -= 1
            sizes[components] += 1
            taken = take(index, stack[top], match, found)
            for f in range(taken):
                label[found[f]] = components
                stack[top + f] = found[f]
            top += taken
        components += 1
    return label, sizes[:components]
