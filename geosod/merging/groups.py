"""What a method returns: which box represents each box, and the columns of the merged boxes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.merging.kernel import kernel, lean_kernel


class Outcome(NamedTuple):
    """The result of merging, by place in the index.

    Boxes with the same kept index form a *group*; the kept box represents it.

    Attributes:
        kept_index: (N,) int64, for each box the place of the kept box that represents it: its own place for a kept
            box, -1 for a box that was not merged or was dropped without a kept box.
        columns: new values of columns of `Detections`, (N, …) each; only the values of kept boxes are used.
    """

    kept_index: IntArray
    columns: dict[str, npt.NDArray[Any]]


def enclosing(
    boxes: FloatArray, scores: npt.NDArray[np.float32], truncated: BoolArray, kept_index: IntArray
) -> dict[str, Any]:
    """Columns of each group's smallest enclosing box, with the highest score; truncated if any member is.

    Args:
        boxes: (N, 4) float64 ``x0, y0, x1, y1``, not changed.
        scores: (N,) float32, overwritten.
        truncated: (N,) bool, overwritten.
        kept_index: (N,) int64, see `Outcome`; only the values at kept boxes are meaningful in the result.
    """
    boxes = boxes.copy()
    _enclose(boxes, scores, truncated, kept_index)
    return {"boxes": boxes, "scores": scores, "truncated": truncated}


@kernel
def group_sums(kept_index: IntArray, values: npt.NDArray[Any]) -> IntArray:
    """(N,) int64, at each kept box the sum of `values` over its group."""
    sums = np.zeros(len(kept_index), np.int64)
    for i in range(len(kept_index)):
        if kept_index[i] >= 0:
            sums[kept_index[i]] += values[i]
    return sums


@lean_kernel
def _enclose(boxes: FloatArray, scores: Any, truncated: BoolArray, kept_index: IntArray) -> None:
    for i in range(len(kept_index)):
        kept = kept_index[i]
        if kept < 0 or kept == i:
            continue
        for axis in range(2):
            boxes[kept, axis] = min(boxes[kept, axis], boxes[i, axis])
            boxes[kept, axis + 2] = max(boxes[kept, axis + 2], boxes[i, axis + 2])
        scores[kept] = max(scores[kept], scores[i])
        truncated[kept] = truncated[kept] or truncated[i]
