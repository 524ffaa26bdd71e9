"""The loops over features and their points that make tiles."""

from __future__ import annotations

from typing import Any

import numpy as np

from geosod.compiled import njit

Array = Any


@njit(nogil=True)
def _put_number(out: Array, at: int, value: int) -> int:
    while value > 127:
        out[at] = value & 127 | 128
        value >>= 7
        at += 1
    out[at] = value
    return at + 1


@njit(nogil=True)
def _put_signed(out: Array, at: int, value: int) -> int:
    return _put_number(out, at, value << 1 ^ value >> 63)


@njit(nogil=True)
def _put_part(out: Array, at: int, field: int, content: Array, size: int) -> int:
    """A field that is `size` bytes of `content`; plain loops are faster than slices for so few."""
    out[at] = field
    at = _put_number(out, at + 1, size)
    for k in range(size):
        out[at + k] = content[k]
    return at + size


@njit(nogil=True)
def _ring(xy: Array, begin: int, end: int, origin: Array, shift: int, least: int, points: Array) -> int:
    """A ring in units of a tile without points that repeat, clockwise as seen; returns the number of its points.

    One that is smaller than `least` on both sides, or without area, becomes a rectangle.
    """
    half = (1 << shift) >> 1
    n, area = 0, 0
    for k in range(begin, end):
        x = ((xy[k, 0] + half) >> shift) - origin[0]
        y = ((xy[k, 1] + half) >> shift) - origin[1]
        if n == 0:
            x0, x1, y0, y1 = x, x, y, y
        elif x == points[n - 1, 0] and y == points[n - 1, 1]:
            continue
        x0, x1, y0, y1 = min(x0, x), max(x1, x), min(y0, y), max(y1, y)
        points[n, 0], points[n, 1] = x, y
        n += 1
    while n > 1 and points[n - 1, 0] == points[0, 0] and points[n - 1, 1] == points[0, 1]:
        n -= 1
    for k in range(n):
        after = k + 1 if k + 1 < n else 0
        area += points[k, 0] * points[after, 1] - points[after, 0] * points[k, 1]
    if (x1 - x0 < least and y1 - y0 < least) or area == 0:
        width, height = max(x1 - x0, least), max(y1 - y0, least)
        left, top = (x0 + x1 - width) // 2, (y0 + y1 - height) // 2
        points[0, 0], points[0, 1], points[1, 0], points[1, 1] = left, top, left + width, top
        points[2, 0], points[2, 1], points[3, 0], points[3, 1] = left + width, top + height, left, top + height
        return 4
    if area < 0:
        for k in range(n // 2):
            for axis in range(2):
                points[k, axis], points[n - 1 - k, axis] = points[n - 1 - k, axis], points[k, axis]
    return n


@njit(nogil=True)
def _put_geometry(out: Array, points: Array, n: int) -> int:
    """MoveTo, LineTo and ClosePath; returns their number of bytes."""
    at = _put_number(out, 0, 1 << 3 | 1)
    x = y = 0
    for k in range(n):
        if k == 1:
            at = _put_number(out, at, n - 1 << 3 | 2)
        at = _put_signed(out, at, points[k, 0] - x)
        at = _put_signed(out, at, points[k, 1] - y)
        x, y = points[k, 0], points[k, 1]
    return _put_number(out, at, 1 << 3 | 7)


@njit(nogil=True)
def encode(
    first: Array, origins: Array, row: Array, offsets: Array, xy: Array, codes: Array, content: Array,
    value_offsets: Array, head: Array, shift: int, least: int, out: Array,
) -> Array:  # fmt: skip
    """Write tiles into `out`.

    Args:
        first: (T + 1,) int64, the first ring of each tile.
        origins: (T, 2) int64, the corners of the tiles in units of the level.
        row: (R,) int64, the row of each ring.
        offsets: (R + 1,) int64, where the points of each begin.
        xy: (P, 2) int32 points, units of the last level.
        codes: (K, N) int64, the values of the rows; 0 for none.
        content: uint8, messages of the values.
        value_offsets: (V + 1,) int64, where each begins.
        head: uint8, the part of a layer that all tiles have.
        shift: levels to the last one.
        least: sides of rectangles that smaller rings become.
        out: uint8, has room for all.

    Returns:
        (T, 2) int64, where each tile begins and ends; nothing is between where it has no features.
    """
    tiles, columns = len(first) - 1, len(codes)
    spans = np.zeros((tiles, 2), np.int64)
    seen, local = np.full(len(value_offsets), -1, np.int64), np.empty(len(value_offsets), np.int64)
    used = np.empty(len(value_offsets), np.int64)
    longest = 4
    for ring in range(len(row)):
        longest = max(longest, offsets[ring + 1] - offsets[ring])
    points = np.empty((longest, 2), np.int64)
    tags, geometry = np.empty(20 * columns + 1, np.uint8), np.empty(20 * longest + 20, np.uint8)
    at = 0
    for tile in range(tiles):
        if first[tile] == first[tile + 1]:
            continue
        at += 8  # for the field and the size of the layer, which is not known yet
        start = at
        for k in range(len(head)):
            out[at + k] = head[k]
        at += len(head)
        n_used = 0
        for ring in range(first[tile], first[tile + 1]):
            size = _ring(xy, offsets[ring], offsets[ring + 1], origins[tile], shift, least, points)
            size = _put_geometry(geometry, points, size)
            n_tags = 0
            for column in range(columns):
                value = codes[column, row[ring]]
                if value == 0:
                    continue
                if seen[value] != tile:
                    seen[value], local[value], used[n_used] = tile, n_used, value
                    n_used += 1
                n_tags = _put_number(tags, n_tags, column)
                n_tags = _put_number(tags, n_tags, local[value])
            # The size of what follows: each part has a field, its size and its bytes; the type has two bytes.
            whole = 4 + _put_number(out, at, n_tags) - at + n_tags + _put_number(out, at, size) - at + size
            out[at] = 0x12
            at = _put_number(out, at + 1, whole)
            at = _put_part(out, at, 0x12, tags, n_tags)
            out[at], out[at + 1] = 0x18, 3
            at = _put_part(out, at + 2, 0x22, geometry, size)
        for k in range(n_used):
            for byte in range(value_offsets[used[k]], value_offsets[used[k] + 1]):
                out[at] = content[byte]
                at += 1
        begin = start - 1 - (_put_number(geometry, 0, at - start))
        out[begin] = 0x1A
        _put_number(out, begin + 1, at - start)
        spans[tile, 0], spans[tile, 1] = begin, at
    return spans
