"""The spatial index over boxes, and the two walks over it that merging is made of.

Boxes lie in square cells by their top-left corner, in levels of growing cell size by their longer side, so
that a box is stored once and is hardly ever larger than its cell. Boxes are sorted by level, row and column
of their cell: what a query needs of a row of cells is one run. Runs are looked up in a table of the level's
cells where that is no larger than the boxes themselves, else by binary search, so memory stays linear in
the number of boxes, whatever their extent and sizes.

Both walks *take* boxes out of the index as they match: a box is looked at only until its fate is known,
which keeps piles of near-duplicates linear too. All compiled code of the match graph is in this file,
since numba does not notice when a cached function's callee changes in another one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from geosod.types import BoolArray, Detections, FloatArray, IntArray

_LEVEL_RATIO = 4.0
_LEVELS = 16
_BITS = 29
_HALF = 1 << (_BITS - 1)
_LOW = (1 << _BITS) - 1
_NOWHERE = np.iinfo(np.int64).max
_ULPS = 4 * np.finfo(np.float64).eps
_SAMPLE = 65536


def _kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile without the GIL and keep the result on disk, where there is a place to keep it."""
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:
        return numba.njit(nogil=True, error_model="numpy")(function)


class Match(NamedTuple):
    """The edges of the match graph.

    Two boxes match if their classes agree, their intersection has a positive area, and the metric is at
    least `threshold`. The metric is intersection over the fragment's area where one of the two is a fragment,
    over the smaller area where both are or `ios` is set, else over the union. A box without area matches
    nothing, not even its own copy.
    """

    ios: bool
    threshold: float
    class_agnostic: bool


class Index(NamedTuple):
    """Boxes by cell. A *place* is a position in that order; boxes without area come last, in no level.

    Attributes:
        order: (N,) int64, row of the detections at each place.
        boxes: (N, 4) float64, labels: (N,) int32, fragment: (N,) bool, by place.
        keys: (N,) int64, level, row and column of each box's cell, ascending.
        skip: (N + 1,) int32 or int64; following it from a place ends at the first one not yet taken.
        sizes: (L, 2) float64, cell size and longest side of a box in each level.
        levels: (L, 7) int64, of each level: its number, first place, end of its places, first row, last row,
            first column, last column.
        tables: (L, 2) int64, start and end of each level's part of `table`; the same where it has none.
        table: int32 or int64, first place of each cell of a level in reading order, then the end of the last.
    """

    order: IntArray
    boxes: FloatArray
    labels: npt.NDArray[np.int32]
    fragment: BoolArray
    keys: IntArray
    skip: npt.NDArray[Any]
    sizes: FloatArray
    levels: IntArray
    tables: IntArray
    table: npt.NDArray[Any]


def build_index(detections: Detections) -> Index:
    """Sort boxes into cells. Coordinates must be finite."""
    n = len(detections)
    sides, solid = _sides(detections.boxes)
    base = _base_cell(sides[solid][:: max(1, n // _SAMPLE)])
    keys, longest, extents = _cell_keys(detections.boxes, sides, solid, base)
    order = np.argsort(keys).astype(np.int64, copy=False)
    keys = keys[order]
    used = np.flatnonzero(longest)
    stops = np.searchsorted(keys, (used + 1) << (2 * _BITS))
    levels = np.column_stack([used, np.append(0, stops)[:-1], stops, extents[used]]).astype(np.int64)
    place = np.int32 if n < np.iinfo(np.int32).max else np.int64
    tables = _table_bounds(levels)
    table = np.zeros(tables[-1, 1] if len(tables) else 0, place)
    _fill_tables(keys, levels, tables, table)
    return Index(
        order=order,
        boxes=detections.boxes[order],
        labels=detections.labels[order],
        fragment=detections.fragment[order],
        keys=keys,
        skip=np.arange(n + 1, dtype=place),
        sizes=np.column_stack([base * _LEVEL_RATIO**used, longest[used]]),
        levels=levels,
        tables=tables,
        table=table,
    )


def flood(index: Index, seeds: BoolArray, match: Match) -> BoolArray:
    """Connected components of the match graph that hold a seed; takes their boxes out of the index.

    Args:
        index: the boxes.
        seeds: (N,) bool in the order of the detections.
        match: the edges.

    Returns:
        (N,) bool in the order of the detections, True for every box of those components.
    """
    reached = np.empty(len(seeds), np.bool_)
    reached[index.order] = _flood(index, seeds[index.order], match)
    return reached


def suppress(index: Index, ranking: IntArray, match: Match) -> IntArray:
    """Greedy suppression: the best box takes all its matches, then the best of the rest, and so on.

    Args:
        index: the boxes; those that `ranking` leaves out must have been taken by `flood` before.
        ranking: rows of the detections, best first.
        match: the edges.

    Returns:
        (N,) int64 in the order of the detections: the row of the box that suppressed each box, its own
        row for a kept box, -1 for a box that is not ranked.
    """
    place = np.empty_like(index.order)
    place[index.order] = np.arange(len(place))
    owner = _suppress(index, place[ranking], match)
    by_row = np.empty_like(owner)
    by_row[index.order] = np.where(owner < 0, -1, index.order[owner])
    return by_row  # type: ignore[no-any-return]


def _base_cell(sides: FloatArray) -> float:
    """Cell size of the finest level: room for the smaller boxes without the few outliers below them."""
    return float(np.quantile(sides, 0.05)) * 2 if len(sides) else 1.0


@_kernel
def _sides(boxes: FloatArray) -> tuple[FloatArray, BoolArray]:
    n = len(boxes)
    sides, solid = np.empty(n), np.empty(n, np.bool_)
    for i in range(n):
        width, height = boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1]
        sides[i] = max(width, height)
        solid[i] = width * height > 0
    return sides, solid


@_kernel
def _cell(value: float, size: float) -> np.int64:
    """Column or row of a coordinate; far ones share the outermost, which keeps the order of any two."""
    return np.int64(min(max(np.floor(value / size), -_HALF), _HALF - 1)) + _HALF


@_kernel
def _row(key: int) -> Any:
    """Row of a cell, from its key."""
    return (key >> _BITS) & _LOW


@_kernel
def _cell_keys(
    boxes: FloatArray, sides: FloatArray, solid: BoolArray, base: float
) -> tuple[IntArray, FloatArray, IntArray]:
    """Key of each box; longest side, and first and last row and column, of each level."""
    keys, longest, extents = np.empty(len(boxes), np.int64), np.zeros(_LEVELS), np.zeros((_LEVELS, 4), np.int64)
    extents[:, 0::2] = 2 * _HALF
    for i in range(len(boxes)):
        if not solid[i]:
            keys[i] = _NOWHERE
            continue
        level, size = 0, base
        while sides[i] > size and level < _LEVELS - 1:
            level, size = level + 1, size * _LEVEL_RATIO
        row, col = _cell(boxes[i, 1], size), _cell(boxes[i, 0], size)
        longest[level] = max(longest[level], sides[i])
        extents[level, 0], extents[level, 1] = min(extents[level, 0], row), max(extents[level, 1], row)
        extents[level, 2], extents[level, 3] = min(extents[level, 2], col), max(extents[level, 3], col)
        keys[i] = (((level << _BITS) | row) << _BITS) | col
    return keys, longest, extents


def _table_bounds(levels: IntArray) -> IntArray:
    """(L, 2) int64, see `Index.tables`: a level gets a table if that is about as small as its boxes."""
    cells = (levels[:, 4] - levels[:, 3] + 1) * (levels[:, 6] - levels[:, 5] + 1) + 1
    ends = np.cumsum(np.where(cells <= 4 * (levels[:, 2] - levels[:, 1]) + 1024, cells, 0), dtype=np.int64)
    return np.column_stack([np.append(0, ends)[:-1], ends]).astype(np.int64)


@_kernel
def _fill_tables(keys: IntArray, levels: IntArray, tables: IntArray, table: npt.NDArray[Any]) -> None:
    for k in range(len(levels)):
        cell, end = tables[k, 0], tables[k, 1]
        if cell == end:
            continue
        cols = levels[k, 6] - levels[k, 5] + 1
        for place in range(levels[k, 1], levels[k, 2]):
            here = tables[k, 0] + (_row(keys[place]) - levels[k, 3]) * cols + (keys[place] & _LOW) - levels[k, 5]
            while cell <= here:
                table[cell] = place
                cell += 1
        table[cell:end] = levels[k, 2]


@_kernel
def _lower_bound(keys: IntArray, key: int, low: int, high: int) -> int:
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


@_kernel
def _next(skip: npt.NDArray[Any], place: int) -> Any:
    """First place from `place` on that is not taken; halves the way for the next caller."""
    while skip[place] != place:
        skip[place] = skip[skip[place]]
        place = skip[place]
    return place


@_kernel
def _take(index: Index, i: int, match: Match, found: IntArray) -> int:
    """Take the boxes that match the box at place `i`, itself included, into `found`; their number."""
    # Names for the arrays: numba counts references whenever one is fetched from a tuple.
    boxes, labels, fragment, keys, skip = index.boxes, index.labels, index.fragment, index.keys, index.skip
    sizes, levels, tables, table = index.sizes, index.levels, index.tables, index.table
    n = 0
    x0, y0, x1, y1 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
    area, label, piece = (x1 - x0) * (y1 - y0), labels[i], fragment[i]
    for k in range(len(levels)):
        size, longest = sizes[k, 0], sizes[k, 1]
        # A box that meets this one begins at most `longest` before it, give or take rounding.
        left = x0 - longest - _ULPS * (abs(x0) + longest)
        top = y0 - longest - _ULPS * (abs(y0) + longest)
        col_low, col_high = max(_cell(left, size), levels[k, 5]), min(_cell(x1, size), levels[k, 6])
        if col_low > col_high:
            continue
        row, row_high = max(_cell(top, size), levels[k, 3]), min(_cell(y1, size), levels[k, 4])
        while row <= row_high:
            if tables[k, 0] < tables[k, 1]:
                start = tables[k, 0] + (row - levels[k, 3]) * (levels[k, 6] - levels[k, 5] + 1) - levels[k, 5]
                place, end = np.int64(table[start + col_low]), np.int64(table[start + col_high + 1])
            else:
                key = ((levels[k, 0] << _BITS) | row) << _BITS
                place = _lower_bound(keys, key | col_low, levels[k, 1], levels[k, 2])
                end = _lower_bound(keys, (key | col_high) + 1, place, levels[k, 2])
                if place == end:
                    # Rows without boxes can be many more than the boxes.
                    row = max(row, _row(keys[place]) - 1) if place < levels[k, 2] else row_high
            row += 1
            place = np.int64(_next(skip, place))
            while place < end:
                width = min(x1, boxes[place, 2]) - max(x0, boxes[place, 0])
                height = min(y1, boxes[place, 3]) - max(y0, boxes[place, 1])
                if width > 0 and height > 0 and (match.class_agnostic or labels[place] == label):
                    inter = width * height
                    other = (boxes[place, 2] - boxes[place, 0]) * (boxes[place, 3] - boxes[place, 1])
                    if piece != fragment[place]:
                        whole = area if piece else other
                    else:
                        whole = min(area, other) if match.ios or piece else area + other - inter
                    if inter > 0 and inter / whole >= match.threshold:
                        found[n] = place
                        n += 1
                        skip[place] = place + 1
                place = np.int64(_next(skip, place + 1))
    return n


@_kernel
def _flood(index: Index, seeds: BoolArray, match: Match) -> BoolArray:
    n = len(seeds)
    reached, stack, found = seeds.copy(), np.empty(n, np.int64), np.empty(n, np.int64)
    top = 0
    for i in range(n):
        if seeds[i]:
            stack[top] = i
            top += 1
    while top:
        top -= 1
        for f in range(_take(index, stack[top], match, found)):
            if not reached[found[f]]:
                reached[found[f]] = True
                stack[top] = found[f]
                top += 1
    return reached


@_kernel
def _suppress(index: Index, ranking: IntArray, match: Match) -> IntArray:
    n, skip = len(index.boxes), index.skip
    owner, found = np.full(n, -1, np.int64), np.empty(n, np.int64)
    for i in ranking:
        if skip[i] == i:
            for f in range(_take(index, i, match, found)):
                owner[found[f]] = i
            owner[i] = i
    return owner
