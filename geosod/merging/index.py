"""The spatial index over boxes that every walk of merging goes by.

Boxes lie in square cells by their top-left corner, in levels of growing cell size by their longer side, so
that a box is stored once and is hardly ever larger than its cell. Boxes are sorted by level, row and column
of their cell: what a query needs of a row of cells is one run. Runs are looked up in a table of the level's
cells where that is no larger than the boxes themselves, else by binary search, so memory stays linear in
the number of boxes, whatever their extent and sizes.

Walks *take* boxes out of the index: a box is looked at only until its fate is known, which keeps piles of
near-duplicates linear too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.detections import Detections
from geosod.merging.kernel import kernel
from geosod.merging.order import ascending

_LEVEL_RATIO = 4.0
_LEVELS = 16
_BITS = 29
_HALF = 1 << (_BITS - 1)
_LOW = (1 << _BITS) - 1
_NOWHERE = np.iinfo(np.int64).max
_ULPS = 4 * np.finfo(np.float64).eps
_SAMPLE = 65536


class Index(NamedTuple):
    """Boxes by cell. A *place* is a position in that order; boxes without area come last, in no level.

    Attributes:
        order: (N,) int64, row of the detections at each place.
        boxes: (N, 4) float64, labels: (N,) int32, fragment: (N,) uint8, by place.
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
    fragment: npt.NDArray[np.uint8]
    keys: IntArray
    skip: npt.NDArray[Any]
    sizes: FloatArray
    levels: IntArray
    tables: IntArray
    table: npt.NDArray[Any]


def build_index(detections: Detections, *, borders: bool = True) -> Index:
    """Sort boxes into cells. Coordinates must be finite; without `borders` all boxes count as whole."""
    n = len(detections)
    sides, solid = _sides(detections.boxes)
    some = slice(None, None, max(1, n // _SAMPLE))
    base = _base_cell(sides[some][solid[some]])
    keys, longest, extents = _cell_keys(detections.boxes, sides, solid, base)
    order, ordered_keys = ascending(keys.view(np.uint64))
    keys = ordered_keys.view(np.int64)
    # Large arrays are taken from numpy, which asks for large pages: numba does not, and small ones cost time.
    pieces = detections.fragment if borders else np.zeros_like(detections.fragment)
    columns = detections.boxes, detections.labels, pieces
    boxes, labels = np.empty_like(detections.boxes), np.empty_like(detections.labels)
    fragment = np.empty_like(detections.fragment)
    _gather(order, *columns, boxes, labels, fragment)
    used = np.flatnonzero(longest)
    stops = np.searchsorted(keys, (used + 1) << (2 * _BITS))
    levels = np.column_stack([used, np.append(0, stops)[:-1], stops, extents[used]]).astype(np.int64)
    place = np.int32 if n < np.iinfo(np.int32).max else np.int64
    tables = _table_bounds(levels)
    table = np.zeros(tables[-1, 1] if len(tables) else 0, place)
    _fill_tables(keys, levels, tables, table)
    return Index(
        order=order,
        boxes=boxes,
        labels=labels,
        fragment=fragment,
        keys=keys,
        skip=np.arange(n + 1, dtype=place),
        sizes=np.column_stack([base * _LEVEL_RATIO**used, longest[used]]),
        levels=levels,
        tables=tables,
        table=table,
    )


def restore(index: Index, alive: BoolArray) -> None:
    """Put boxes back into the index, and take out the others; `alive` is (N,) bool by place."""
    _restore(index.skip, alive)


@kernel
def _restore(skip: npt.NDArray[Any], alive: BoolArray) -> None:
    for place in range(len(alive)):
        skip[place] = place if alive[place] else place + 1


def _base_cell(sides: FloatArray) -> float:
    """Cell size of the finest level: room for the smaller boxes without the few outliers below them."""
    return float(np.quantile(sides, 0.05)) * 2 if len(sides) else 1.0


@kernel
def _gather(
    order: IntArray, boxes: Any, labels: Any, fragment: Any, to_boxes: Any, to_labels: Any, to_fragment: Any
) -> None:
    for place in range(len(order)):
        row = order[place]
        to_labels[place], to_fragment[place] = labels[row], fragment[row]
        for corner in range(4):
            to_boxes[place, corner] = boxes[row, corner]


@kernel
def _sides(boxes: FloatArray) -> tuple[FloatArray, BoolArray]:
    n = len(boxes)
    sides, solid = np.empty(n), np.empty(n, np.bool_)
    for i in range(n):
        width, height = boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1]
        sides[i] = max(width, height)
        solid[i] = width * height > 0
    return sides, solid


@kernel
def _cell(value: float, size: float) -> np.int64:
    """Column or row of a coordinate; far ones share the outermost, which keeps the order of any two."""
    return np.int64(min(max(np.floor(value / size), -_HALF), _HALF - 1)) + _HALF


@kernel
def _row(key: int) -> Any:
    """Row of a cell, from its key."""
    return (key >> _BITS) & _LOW


@kernel
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


@kernel
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


@kernel
def lower_bound(keys: IntArray, key: int, low: int, high: int) -> int:
    """First position in ``[low, high)`` of ascending keys that is not less than `key`, else `high`."""
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def next_of(skip: npt.NDArray[Any], place: int) -> Any:
    """First place from `place` on that is not taken; halves the way for the next caller."""
    while skip[place] != place:
        skip[place] = skip[skip[place]]
        place = skip[place]
    return place


@kernel
def run_of(index: Index, k: int, row: int, col_low: int, col_high: int) -> Any:
    """Places of a row of cells.

    Args:
        index: the boxes.
        k: the level's position in `Index.levels`.
        row: a row that the level has.
        col_low: first column, of those the level has.
        col_high: last column, of those the level has.

    Returns:
        First place, end of the places, and the next row that may hold any.
    """
    levels, tables, keys = index.levels, index.tables, index.keys
    if tables[k, 0] < tables[k, 1]:
        start = tables[k, 0] + (row - levels[k, 3]) * (levels[k, 6] - levels[k, 5] + 1) - levels[k, 5]
        return np.int64(index.table[start + col_low]), np.int64(index.table[start + col_high + 1]), row + 1
    key = ((levels[k, 0] << _BITS) | row) << _BITS
    place = lower_bound(keys, key | col_low, levels[k, 1], levels[k, 2])
    end = lower_bound(keys, (key | col_high) + 1, place, levels[k, 2])
    if place == end:
        # Rows without boxes can be many more than the boxes.
        row = max(row, _row(keys[place]) - 1) if place < levels[k, 2] else levels[k, 4]
    return place, end, row + 1


@kernel
def cells_of(index: Index, k: int, x0: float, y0: float, x1: float, y1: float) -> Any:
    """First and last row, first and last column of the cells where boxes of a level that meet a box may lie."""
    size, longest, levels = index.sizes[k, 0], index.sizes[k, 1], index.levels
    # A box that meets this one begins at most `longest` before it, give or take rounding.
    left = x0 - longest - _ULPS * (abs(x0) + longest)
    top = y0 - longest - _ULPS * (abs(y0) + longest)
    row_low, row_high = max(_cell(top, size), levels[k, 3]), min(_cell(y1, size), levels[k, 4])
    col_low, col_high = max(_cell(left, size), levels[k, 5]), min(_cell(x1, size), levels[k, 6])
    return row_low, row_high, col_low, col_high
