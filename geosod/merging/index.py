"""The spatial index: finds the boxes near a box.

Boxes are stored once, in the square cell of their top-left corner. There are several levels of cells, each with larger
cells than the one before; a box belongs to a level by its longer side, so that it is hardly ever larger than its cell.
Boxes are sorted by level, row and column of their cell, so the boxes in a row of cells are one contiguous run. Runs
are looked up in a table of the level's cells if that is not much larger than the boxes, otherwise by binary search, so
memory is linear in the number of boxes, whatever their extent and sizes.

Traversals remove boxes from the index once their result is known. This keeps piles of near-duplicates linear, too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.detections import Detections
from geosod.merging.kernel import kernel, lean_kernel, read_only
from geosod.merging.order import ascending

_LEVEL_RATIO = 4.0
_LEVELS = 16
_BITS = 29
_HALF = 1 << (_BITS - 1)
_LOW = (1 << _BITS) - 1
_NOWHERE = np.iinfo(np.int64).max
_ULPS = 4 * np.finfo(np.float64).eps
_SAMPLE = 65536


class Pairs(NamedTuple):
    """Precomputed overlaps, for polygons. Each pair is listed from both sides.

    Attributes:
        starts: (N + 1,) int64, the pairs of the box at place i are at ``starts[i]:starts[i + 1]``.
        others: (P,) int64, place of the other box.
        values: (P,) float64, the metric, greater than 0.
    """

    starts: IntArray
    others: IntArray
    values: FloatArray


class Index(NamedTuple):
    """Boxes by cell. A *place* is a position in that order; boxes without area come last and belong to no level.

    Attributes:
        order: (N,) int64, row of the detections at each place.
        boxes: (N, 4) float64, labels: (N,) int32, fragment: (N,) uint8, by place.
        keys: (N,) int64, level, row and column of each box's cell, ascending.
        skip: (N + 1,) int32 or int64; following it from a place leads to the first place whose box is in the index.
        sizes: (L, 2) float64, cell size and longest side of a box in each level.
        levels: (L, 7) int64, of each level: its number, first place, end of its places, first row, last row,
            first column, last column.
        tables: (L, 2) int64, start and end of each level's part of `table`; equal if the level has no table.
        table: (T,) int32 or int64, first place of each cell of a level in reading order, then the end of the last.
        pairs: overlaps that replace those of the boxes, or None. numba compiles kernels for both cases, so this costs
            nothing where it is None.
        group: (N,) uint8 by place, from 1 on, groups whose boxes do not match each other, or None, which costs nothing.
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
    pairs: Pairs | None = None
    group: npt.NDArray[np.uint8] | None = None


def build_index(detections: Detections, *, borders: bool = True, group: npt.NDArray[np.uint8] | None = None) -> Index:
    """Sort boxes into cells.

    Args:
        detections: N boxes with finite coordinates; copied.
        borders: False sets all fragment flags in the index to 0.
        group: (N,) uint8, see `Index.group`, by row; None for no groups.
    """
    n, source = len(detections), read_only(detections.boxes)
    sides, has_area = _sides(source)
    sample = slice(None, None, max(1, n // _SAMPLE))
    base = _base_cell(sides[sample][has_area[sample]])
    keys, longest, extents = _cell_keys(source, sides, has_area, base)
    order, ordered_keys = ascending(keys.view(np.uint64))
    keys = ordered_keys.view(np.int64)
    flags = read_only(detections.fragment if borders else np.zeros(n, np.uint8))
    # Large arrays are allocated by numpy, which asks for large memory pages; numba does not, which costs time.
    boxes, labels, fragment = np.empty((n, 4)), np.empty(n, np.int32), np.empty(n, np.uint8)
    _gather(order, source, read_only(detections.labels), flags, boxes, labels, fragment)
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
        group=None if group is None else group[order],
    )


def places_of(index: Index, rows: IntArray) -> IntArray:
    """(M,) int64, the places of rows of the detections."""
    places = np.empty(len(rows), np.int64)
    _places_of(index.order, rows, np.empty(len(index.order), index.skip.dtype), places)
    return places


def restore(index: Index, present: BoolArray) -> None:
    """Put boxes back into the index, and remove all others.

    Args:
        index: the boxes.
        present: (N,) bool by place, True for boxes to be in the index.
    """
    _restore(index.skip, present)


@lean_kernel
def _places_of(order: IntArray, rows: IntArray, place: npt.NDArray[Any], places: IntArray) -> None:
    for k in range(len(order)):
        place[order[k]] = k
    for k in range(len(rows)):
        places[k] = place[rows[k]]


@lean_kernel
def _restore(skip: npt.NDArray[Any], present: BoolArray) -> None:
    for place in range(len(present)):
        skip[place] = place if present[place] else place + 1


def _base_cell(sides: FloatArray) -> float:
    """Cell size of the finest level: twice a low percentile of the sides, so that tiny outliers do not matter."""
    return float(np.quantile(sides, 0.05)) * 2 if len(sides) else 1.0


@lean_kernel
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
    sides, has_area = np.empty(n), np.empty(n, np.bool_)
    for i in range(n):
        width, height = boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1]
        sides[i] = max(width, height)
        has_area[i] = width * height > 0
    return sides, has_area


@lean_kernel
def _cell(value: float, size: float) -> np.int64:
    """Column or row of a coordinate, clamped to the outermost one, so that the order of coordinates is kept."""
    return np.int64(min(max(np.floor(value / size), -_HALF), _HALF - 1)) + _HALF


@lean_kernel
def _row(key: int) -> Any:
    """Row of a cell, from its key."""
    return (key >> _BITS) & _LOW


@kernel
def _cell_keys(
    boxes: FloatArray, sides: FloatArray, has_area: BoolArray, base: float
) -> tuple[IntArray, FloatArray, IntArray]:
    """Key of each box; longest side, and first and last row and column, of each level."""
    keys, longest, extents = np.empty(len(boxes), np.int64), np.zeros(_LEVELS), np.zeros((_LEVELS, 4), np.int64)
    extents[:, 0::2] = 2 * _HALF
    for i in range(len(boxes)):
        if not has_area[i]:
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
    """(L, 2) int64, see `Index.tables`: a level gets a table if that is not much larger than its boxes."""
    cells = (levels[:, 4] - levels[:, 3] + 1) * (levels[:, 6] - levels[:, 5] + 1) + 1
    ends = np.cumsum(np.where(cells <= 4 * (levels[:, 2] - levels[:, 1]) + 1024, cells, 0), dtype=np.int64)
    return np.column_stack([np.append(0, ends)[:-1], ends]).astype(np.int64)


@lean_kernel
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


@lean_kernel
def lower_bound(keys: IntArray, key: int, low: int, high: int) -> int:
    """First position in ``[low, high)`` of ascending keys that is not less than `key`, else `high`."""
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


@lean_kernel
def next_of(skip: npt.NDArray[Any], place: int) -> Any:
    """First place from `place` on whose box is in the index; shortens the path for later calls."""
    while skip[place] != place:
        skip[place] = skip[skip[place]]
        place = skip[place]
    return place


@lean_kernel
def run_of(index: Index, k: int, row: int, col_low: int, col_high: int) -> Any:
    """The run of places in a row of cells.

    Args:
        index: the boxes.
        k: the level's position in `Index.levels`.
        row: a row of the level.
        col_low: first column, within those of the level.
        col_high: last column, within those of the level.

    Returns:
        First place, end of the places, and the next row that may hold boxes.
    """
    levels, tables, keys = index.levels, index.tables, index.keys
    if tables[k, 0] < tables[k, 1]:
        start = tables[k, 0] + (row - levels[k, 3]) * (levels[k, 6] - levels[k, 5] + 1) - levels[k, 5]
        return np.int64(index.table[start + col_low]), np.int64(index.table[start + col_high + 1]), row + 1
    key = ((levels[k, 0] << _BITS) | row) << _BITS
    place = lower_bound(keys, key | col_low, levels[k, 1], levels[k, 2])
    end = lower_bound(keys, (key | col_high) + 1, place, levels[k, 2])
    if place == end:
        # There can be far more rows without boxes than boxes.
        row = max(row, _row(keys[place]) - 1) if place < levels[k, 2] else levels[k, 4]
    return place, end, row + 1


@lean_kernel
def cells_of(index: Index, k: int, x0: float, y0: float, x1: float, y1: float) -> Any:
    """First and last row, first and last column of the cells of a level whose boxes may overlap a box."""
    size, longest, levels = index.sizes[k, 0], index.sizes[k, 1], index.levels
    # A box that overlaps this one starts at most `longest` before it, plus rounding errors.
    left = x0 - longest - _ULPS * (abs(x0) + longest)
    top = y0 - longest - _ULPS * (abs(y0) + longest)
    row_low, row_high = max(_cell(top, size), levels[k, 3]), min(_cell(y1, size), levels[k, 4])
    col_low, col_high = max(_cell(left, size), levels[k, 5]), min(_cell(x1, size), levels[k, 6])
    return row_low, row_high, col_low, col_high
