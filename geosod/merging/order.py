"""Fast sorting of boxes into an order that does not depend on the order of the input."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.detections import Detections
from geosod.merging.kernel import kernel, lean_kernel, read_only

_INT32 = np.iinfo(np.int32).max
#: How many scores are sampled to see whether many are equal.
_SAMPLE = 4096
#: Maximum comparisons per box within runs of equal scores; beyond that, sorting by a longer key is faster.
_MAX_WORK = 4


def canonical_order(detections: Detections, *, fragments_last: bool = False) -> IntArray:
    """(N,) int64, the order of `Detections.canonical_order`.

    Scores are sorted by radix, and boxes of equal score by x0; if many scores are equal, both are sorted by radix.
    Only boxes that are equal in both are compared column by column.

    Args:
        detections: N boxes; scores and coordinates must be finite.
        fragments_last: whether boxes with a flag in `fragment` come after all others.
    """
    n, boxes, scores = len(detections), read_only(detections.boxes), read_only(detections.scores)
    key = np.empty(n, np.uint64)
    bits = scores.view(np.uint32), boxes.view(np.uint64), read_only(detections.fragment)
    distinct = _mostly_distinct(scores)
    _leading_key(*bits, fragments_last, not distinct, key)
    order, ranked = ascending(key)
    same = np.zeros(n + 1, np.bool_)
    if distinct and not _sort_runs(order, ranked, boxes[:, 0], _MAX_WORK * n, same):
        _leading_key(*bits, fragments_last, True, key)
        order, ranked = ascending(key)
        distinct = False
    if not distinct:
        same[1:-1] = ranked[1:] == ranked[:-1]
    tied = np.flatnonzero(same[1:] | same[:-1])
    if len(tied):
        run = np.cumsum(~same[:-1], dtype=np.int64)[tied]
        order[tied] = _within_runs(detections, order[tied], run)
    return order


def _mostly_distinct(scores: npt.NDArray[np.float32]) -> bool:
    """Whether few scores of a sample are equal."""
    sample = scores[:: max(1, len(scores) // _SAMPLE)]
    return len(np.unique(sample)) > 0.9 * len(sample)


@lean_kernel
def _sort_runs(order: IntArray, ranked: npt.NDArray[np.uint64], x0: FloatArray, work: int, same: BoolArray) -> bool:
    """Sort runs of equal keys by x0.

    Args:
        order: (N,) int64, sorted in place.
        ranked: (N,) uint64, the keys in that order.
        x0: (N,) float64, by row.
        work: maximum number of comparisons.
        same: (N + 1,) bool, set where key and x0 equal those of the position before.

    Returns:
        False if the work does not suffice.
    """
    n, start = len(order), 0
    while start < n:
        end = start + 1
        while end < n and ranked[end] == ranked[start]:
            end += 1
        work -= (end - start - 1) * (end - start)
        if work < 0:
            return False
        for i in range(start + 1, end):
            row, k = order[i], i
            while k > start and x0[order[k - 1]] > x0[row]:
                order[k] = order[k - 1]
                k -= 1
            order[k] = row
        for i in range(start + 1, end):
            same[i] = x0[order[i]] == x0[order[i - 1]]
        start = end
    return True


def in_order(detections: Detections) -> Detections:
    """The boxes in canonical order."""
    order = canonical_order(detections)
    return detections if (order[1:] > order[:-1]).all() else detections[order]


def ascending(keys: npt.NDArray[np.uint64]) -> tuple[IntArray, npt.NDArray[np.uint64]]:
    """(N,) int64, the stable order of integers, and (N,) uint64, the integers in that order; overwrites `keys`."""
    if (keys[1:] >= keys[:-1]).all():
        return np.arange(len(keys)), keys
    order = np.arange(len(keys), dtype=np.int32 if len(keys) <= _INT32 else np.int64)
    order, keys = _radix(keys, np.empty_like(keys), order, np.empty_like(order))
    return order.astype(np.int64), keys


@kernel
def _radix(
    keys: npt.NDArray[np.uint64], spare: npt.NDArray[np.uint64], order: npt.NDArray[Any], spare_order: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint64]]:
    """Radix sort by digits of 11 bits, lowest first; skips digits that all keys share. Overwrites all arguments."""
    n, mask = len(keys), np.uint64(2047)
    counts = np.zeros((6, 2048), np.int64)
    for i in range(n):
        for digit in range(6):
            counts[digit, (keys[i] >> np.uint64(11 * digit)) & mask] += 1
    for digit in range(6):
        shift = np.uint64(11 * digit)
        if n == 0 or counts[digit, (keys[0] >> shift) & mask] == n:
            continue
        total = 0
        for value in range(2048):
            count = counts[digit, value]
            counts[digit, value] = total
            total += count
        for i in range(n):
            value = (keys[i] >> shift) & mask
            slot = counts[digit, value]
            counts[digit, value] = slot + 1
            spare[slot], spare_order[slot] = keys[i], order[i]
        keys, spare = spare, keys
        order, spare_order = spare_order, order
    return order, keys


@lean_kernel
def _leading_key(
    scores: npt.NDArray[np.uint32],
    boxes: npt.NDArray[np.uint64],
    fragment: npt.NDArray[np.uint8],
    fragments_last: bool,
    with_x0: bool,
    keys: npt.NDArray[np.uint64],
) -> None:
    """Write sort keys: descending score, then x0 to 19 bits of mantissa if `with_x0`. Takes the bits of the floats."""
    for i in range(len(scores)):
        # The bits of floats sort like their values if those of negative ones are inverted. -0.0 counts as 0.0.
        score, x0 = np.uint64(scores[i]), boxes[i, 0]
        score = np.uint64(0) if score == np.uint64(0x80000000) else score
        x0 = np.uint64(0) if x0 == np.uint64(1 << 63) else x0
        descending = score if score >> np.uint64(31) else np.uint64(0x7FFFFFFF) - score
        ascending_x0 = ~x0 if x0 >> np.uint64(63) else x0 | np.uint64(1 << 63)
        keys[i] = descending << np.uint64(31)
        if with_x0:
            keys[i] |= ascending_x0 >> np.uint64(33)
        if fragments_last and fragment[i]:
            keys[i] |= np.uint64(1 << 63)


def _within_runs(detections: Detections, rows: IntArray, run: IntArray) -> IntArray:
    x0, y0, x1, y1 = detections.boxes[rows].T
    columns = (detections.level, detections.n_merged, detections.fragment, detections.truncated, detections.labels)
    return rows[np.lexsort((*(column[rows] for column in columns), y1, x1, y0, x0, run))]
