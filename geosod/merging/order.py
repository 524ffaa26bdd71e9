"""Orders of boxes that do not depend on where the boxes came from, quickly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from geosod.types import Detections, IntArray


def canonical_order(detections: Detections, *, fragments_last: bool = False) -> IntArray:
    """(N,) int64, the order of `Detections.canonical_order`, optionally with all fragments after the rest.

    A radix of the score and the leading bits of x0 in one integer is sorted first; only boxes that tie in
    it are compared column by column. Scores and boxes must be finite.
    """
    key = _leading_key(detections)
    if fragments_last:
        key |= detections.fragment.astype(np.uint64) << np.uint64(63)
    order = np.argsort(key)
    same = np.zeros(len(key) + 1, np.bool_)
    ranked = key[order]
    same[1:-1] = ranked[1:] == ranked[:-1]
    tied = np.flatnonzero(same[1:] | same[:-1])
    if len(tied):
        run = np.cumsum(~same[:-1], dtype=np.int64)[tied]
        order[tied] = _within_runs(detections, order[tied], run)
    return order.astype(np.int64, copy=False)


def _leading_key(detections: Detections) -> npt.NDArray[np.uint64]:
    """(N,) uint64 below 2**63 that ascends as the score descends, then as x0 ascends to 19 bits of mantissa."""
    # Bits of a float ascend with its value once negative ones are inverted; adding 0.0 makes -0.0 zero.
    score = (detections.scores + np.float32(0)).view(np.uint32)
    descending = np.where(score >> 31, score, ~score & np.uint32(0x7FFFFFFF))
    x0 = (detections.boxes[:, 0] + 0.0).view(np.uint64)
    x0 = np.where(x0 >> np.uint64(63), ~x0, x0 | np.uint64(1 << 63))
    return (descending.astype(np.uint64) << np.uint64(31)) | (x0 >> np.uint64(33))


def _within_runs(detections: Detections, rows: IntArray, run: IntArray) -> IntArray:
    x0, y0, x1, y1 = detections.boxes[rows].T
    columns = (detections.level, detections.n_merged, detections.fragment, detections.cut, detections.labels)
    return rows[np.lexsort((*(column[rows] for column in columns), y1, x1, y0, x0, run))]
