"""Traversals of the graph of matching boxes: suppression, flood fill, connected components."""

from __future__ import annotations

import numpy as np

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.detections import EXCLUDED, SIDES
from geosod.merging.index import Index, Pairs, cells_of, next_of, run_of
from geosod.merging.kernel import kernel, lean_kernel
from geosod.merging.match import Match, edge, limit_of, linked, reach_of, search_margin


def flood(index: Index, seeds: BoolArray, match: Match, near: float = 0.0) -> BoolArray:
    """Find the connected components that contain a seed, and remove their boxes from the index.

    Args:
        index: the boxes.
        seeds: (N,) bool, by row of the detections.
        match: the edges.
        near: if not 0, whole boxes are connected by `linked` with this threshold instead.

    Returns:
        (N,) bool, by row of the detections, True for every box of those components.
    """
    if not seeds.any():
        return seeds.copy()
    n = len(seeds)
    by_place, reached = seeds[index.order], np.empty(n, np.bool_)
    _flood(index, by_place, match, near, np.empty(n, np.int64), np.empty(n, np.int64))
    reached[index.order] = by_place
    return reached


def suppress(index: Index, ordered: IntArray, match: Match, *, chained: bool = False) -> IntArray:
    """Greedy suppression: the best box removes the boxes that match it, then the best remaining box does, and so on.

    Args:
        index: the boxes; it must hold no others than those of `ordered`.
        ordered: (M,) int64, places, best first in each component.
        match: the edges.
        chained: whether removed boxes remove boxes in turn, for the kept box that they belong to.

    Returns:
        (N,) int64 by place, the place of the kept box that represents each box; its own for a kept box, -1 for a box
        that is not in `ordered`.
    """
    n = len(index.boxes)
    kept_index = np.full(n, -1)
    _suppress(index, ordered, match, chained, kept_index, np.empty(n, np.int64))
    return kept_index


def components(index: Index, match: Match, count: int) -> tuple[IntArray, IntArray]:
    """Label the connected components, and remove all boxes from the index.

    Args:
        index: the boxes.
        match: the edges.
        count: how many boxes the index holds.

    Returns:
        (N,) int64 by place, the number of each box's component, or -1 for a box that was not in the index;
        and (C + 1,) int64, how many boxes the components before each one have in total.
    """
    n, sizes = len(index.boxes), np.zeros(count, np.int64)
    label = np.full(n, -1)
    number = _label(index, match, label, sizes, np.empty(n, np.int64), np.empty(n, np.int64))
    return label, np.append(0, np.cumsum(sizes[:number], dtype=np.int64))


@kernel
def connected(n: int, one: IntArray, two: IntArray) -> IntArray:
    """(n,) int64, the lowest number in each number's connected component, for edges between `one` and `two`."""
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


@lean_kernel
def pop_matches(index: Index, i: int, match: Match, found: IntArray) -> int:
    """Remove the boxes that match the box at place `i`, and that box, from the index.

    Their places are written to `found`.

    Returns:
        How many boxes were removed.
    """
    listed: int = _pop_listed(index.pairs, index, i, match, found)
    if listed >= 0:
        return listed
    boxes, skip, n, margin = index.boxes, index.skip, 0, search_margin(match)
    x0, y0, x1, y1 = boxes[i, 0] - margin, boxes[i, 1] - margin, boxes[i, 2] + margin, boxes[i, 3] + margin
    for k in range(len(index.levels)):
        row, row_high, col_low, col_high = cells_of(index, k, x0, y0, x1, y1)
        while row <= row_high and col_low <= col_high:
            place, end, row = run_of(index, k, row, col_low, col_high)
            place = np.int64(next_of(skip, place))
            while place < end:
                if edge(index, i, place, match) > 0:
                    found[n] = place
                    n += 1
                    skip[place] = place + 1
                place = np.int64(next_of(skip, place + 1))
    return n


@lean_kernel
def _pop_listed(pairs: Pairs | None, index: Index, i: int, match: Match, found: IntArray) -> int:
    """`pop_matches` by `Index.pairs`; -1 if that is None."""
    if pairs is None:
        return -1
    labels, skip, others, values = index.labels, index.skip, pairs.others, pairs.values
    n, limit = 0, limit_of(match, labels[i])
    if skip[i] == i:
        found[0], n = i, 1
        skip[i] = i + 1
    for e in range(pairs.starts[i], pairs.starts[i + 1]):
        place = others[e]
        if skip[place] == place and values[e] >= max(limit, limit_of(match, labels[place])):
            found[n] = place
            n += 1
            skip[place] = place + 1
    return n


@lean_kernel
def matches_of(index: Index, i: int, match: Match, found: IntArray, values: FloatArray) -> int:
    """Find the boxes in the index that match the box at place `i`.

    Their places are written to `found`, the metric of each to `values`. The index is not changed.

    Returns:
        How many boxes were found.
    """
    listed: int = _matches_listed(index.pairs, index, i, match, found, values)
    if listed >= 0:
        return listed
    boxes, skip, n = index.boxes, index.skip, 0
    for k in range(len(index.levels)):
        row, row_high, col_low, col_high = cells_of(index, k, boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3])
        while row <= row_high and col_low <= col_high:
            place, end, row = run_of(index, k, row, col_low, col_high)
            place = np.int64(next_of(skip, place))
            while place < end:
                value = edge(index, i, place, match)
                if value > 0:
                    found[n], values[n] = place, value
                    n += 1
                place = np.int64(next_of(skip, place + 1))
    return n


@lean_kernel
def _matches_listed(
    pairs: Pairs | None, index: Index, i: int, match: Match, found: IntArray, values: FloatArray
) -> int:
    """`matches_of` by `Index.pairs`; -1 if that is None."""
    if pairs is None:
        return -1
    labels, skip = index.labels, index.skip
    n, limit = 0, limit_of(match, labels[i])
    for e in range(pairs.starts[i], pairs.starts[i + 1]):
        place, value = pairs.others[e], pairs.values[e]
        if skip[place] == place and value >= max(limit, limit_of(match, labels[place])):
            found[n], values[n] = place, value
            n += 1
    return n


@lean_kernel
def pop_linked(index: Index, i: int, match: Match, near: float, found: IntArray) -> int:
    """As `pop_matches`, but whole boxes are connected by `linked`; fragments by `match`."""
    boxes, labels, fragment, skip = index.boxes, index.labels, index.fragment, index.skip
    n, box, flags, label = 0, index.boxes[i], index.fragment[i], index.labels[i]
    reach, margin = 0.0 if flags & (SIDES | EXCLUDED) else reach_of(near), search_margin(match)
    dx, dy = max(margin, reach * (box[2] - box[0])), max(margin, reach * (box[3] - box[1]))
    for k in range(len(index.levels)):
        row, row_high, col_low, col_high = cells_of(index, k, box[0] - dx, box[1] - dy, box[2] + dx, box[3] + dy)
        while row <= row_high and col_low <= col_high:
            place, end, row = run_of(index, k, row, col_low, col_high)
            place = np.int64(next_of(skip, place))
            while place < end:
                joined = False
                if labels[place] == label or match.class_agnostic:
                    if (flags | fragment[place]) & (SIDES | EXCLUDED):
                        joined = edge(index, i, place, match) > 0
                    else:
                        joined = linked(box, boxes[place], near)
                if joined:
                    found[n] = place
                    n += 1
                    skip[place] = place + 1
                place = np.int64(next_of(skip, place + 1))
    return n


@lean_kernel
def _flood(index: Index, reached: BoolArray, match: Match, near: float, stack: IntArray, found: IntArray) -> None:
    top, skip = 0, index.skip
    for i in range(len(reached)):
        if reached[i]:
            stack[top] = i
            top += 1
            # Boxes without area, and excluded ones, do not match themselves.
            skip[i] = i + 1
    while top:
        top -= 1
        i = stack[top]
        count = pop_linked(index, i, match, near, found) if near else pop_matches(index, i, match, found)
        for f in range(count):
            if not reached[found[f]]:
                reached[found[f]] = True
                stack[top] = found[f]
                top += 1


@lean_kernel
def _suppress(
    index: Index, ordered: IntArray, match: Match, chained: bool, kept_index: IntArray, found: IntArray
) -> None:
    remaining = len(ordered)
    for i in ordered:
        if kept_index[i] < 0 or chained:
            kept = i if kept_index[i] < 0 else kept_index[i]
            kept_index[i] = kept
            count = pop_matches(index, i, match, found) if remaining else 0
            remaining -= count
            for f in range(count):
                if kept_index[found[f]] < 0:
                    kept_index[found[f]] = kept


@lean_kernel
def _label(index: Index, match: Match, label: IntArray, sizes: IntArray, stack: IntArray, found: IntArray) -> int:
    """Write the component of each box and the size of each component; returns their number."""
    skip, components = index.skip, 0
    for first in range(len(label)):
        if skip[first] != first:
            continue
        top, stack[0], label[first] = 1, first, components
        skip[first] = first + 1
        while top:
            top -= 1
            sizes[components] += 1
            popped = pop_matches(index, stack[top], match, found)
            for f in range(popped):
                label[found[f]] = components
                stack[top + f] = found[f]
            top += popped
        components += 1
    return components
