"""Orders of boxes that do not depend on where the boxes came from, quickly."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from geosod.merging.kernel import kernel
from geosod.types import Detections, IntArray

_INT32 = np.iinfo(np.int32).max


class Outcome(NamedTuple):
    """What merging comes to.

    Attributes:
        owner: (N,) int64, the row of the box that stands for each box, its own for a kept one; -1 for one that
            nothing stands for or that was not merged.
        columns: new values of columns, (N, …) each, which count for kept boxes.
    """

    owner: IntArray
    columns: dict[str, npt.NDArray[Any]]


def canonical_order(detections: Detections, *, fragments_last: bool = False) -> IntArray:
    """(N,) int64, the order of `Detections.canonical_order`, optionally with fragments and rims after the rest.

    A radix of the score and the leading bits of x0 in one integer is sorted first; only boxes that tie in
    it are compared column by column. Scores and boxes must be finite.
    """
    bits = detections.scores.view(np.uint32), detections.boxes.view(np.uint64)
    key = np.empty(len(detections), np.uint64)
    _leading_key(*bits, detections.fragment, fragments_last, key)
    order, ranked = ascending(key)
    same = np.zeros(len(key) + 1, np.bool_)
    same[1:-1] = ranked[1:] == ranked[:-1]
    tied = np.flatnonzero(same[1:] | same[:-1])
    if len(tied):
        run = np.cumsum(~same[:-1], dtype=np.int64)[tied]
        order[tied] = _within_runs(detections, order[tied], run)
    return order


def in_order(detections: Detections) -> Detections:
    """The boxes in canonical order."""
    order = canonical_order(detections)
    return detections if (order[1:] > order[:-1]).all() else detections[order]


def ascending(keys: npt.NDArray[np.uint64]) -> tuple[IntArray, npt.NDArray[np.uint64]]:
    """(N,) int64, the stable order of some integers, and (N,) uint64, the integers in that order; uses them up."""
    if (keys[1:] >= keys[:-1]).all():
        return np.arange(len(keys)), keys
    order = np.arange(len(keys), dtype=np.int32 if len(keys) <= _INT32 else np.int64)
    order, keys = _radix(keys, np.empty_like(keys), order, np.empty_like(order))
    return order.astype(np.int64), keys


@kernel
def _radix(
    keys: npt.NDArray[np.uint64], spare: npt.NDArray[np.uint64], order: npt.NDArray[Any], spare_order: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint64]]:
    """Least digits of 11 bits first; digits that all keys share cost nothing. All arguments are written to."""
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


@kernel
def _leading_key(
    scores: npt.NDArray[np.uint32],
    boxes: npt.NDArray[np.uint64],
    fragment: npt.NDArray[np.uint8],
    fragments_last: bool,
    keys: npt.NDArray[np.uint64],
) -> None:
    """Write keys that ascend as the score descends, then as x0 ascends to 19 bits of mantissa; all from bits."""
    for i in range(len(scores)):
        # Bits of a float ascend with its value once negative ones are inverted. -0.0 is 0.0.
        score, x0 = np.uint64(scores[i]), boxes[i, 0]
        score = np.uint64(0) if score == np.uint64(0x80000000) else score
        x0 = np.uint64(0) if x0 == np.uint64(1 << 63) else x0
        descending = score if score >> np.uint64(31) else np.uint64(0x7FFFFFFF) - score
        ascending_x0 = ~x0 if x0 >> np.uint64(63) else x0 | np.uint64(1 << 63)
        keys[i] = (descending << np.uint64(31)) | (ascending_x0 >> np.uint64(33))
        if fragments_last and fragment[i]:
            keys[i] |= np.uint64(1 << 63)


def _within_runs(detections: Detections, rows: IntArray, run: IntArray) -> IntArray:
    x0, y0, x1, y1 = detections.boxes[rows].T
    columns = (detections.level, detections.n_merged, detections.fragment, detections.cut, detections.labels)
    return rows[np.lexsort((*(column[rows] for column in columns), y1, x1, y0, x0, run))]
