"""Checks of boxes and class thresholds before merging."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from geosod.arrays import FloatArray
from geosod.detections import Detections
from geosod.errors import ConfigError
from geosod.merging.kernel import lean_kernel, read_only
from geosod.merging.rule import MergeRule

#: How many label ids an error message lists.
_MAX_LISTED = 20


def check_boxes(detections: Detections) -> Detections:
    """Refuse what is no `Detections`, and boxes that cannot be merged.

    Returns:
        The boxes, with 0.0 for -0.0. The two are equal in every comparison, but differ in their bits, and so would
        the results.

    Raises:
        ConfigError: it is something else; a coordinate or score is NaN or infinite, or a box is inverted.
    """
    if not isinstance(detections, Detections):
        raise ConfigError(
            f"merge takes geosod.Detections, not {type(detections).__name__}; make them of arrays with "
            "Detections(boxes=, scores=, labels=), and join several with Detections.concat"
        )
    not_finite, no_score, inverted, negative_zeros = _count(read_only(detections.boxes), read_only(detections.scores))
    if not_finite or no_score or inverted:
        raise ConfigError(
            f"Of {len(detections)} boxes, {not_finite} have NaN or infinite coordinates, {no_score} have NaN or "
            f"infinite scores, and {inverted} are inverted (x1 < x0 or y1 < y0). Drop or fix them before merging."
        )
    if not negative_zeros:
        return detections
    return detections.with_columns(boxes=detections.boxes + 0.0, scores=detections.scores + np.float32(0))


def check_per_class(rule: MergeRule, detections: Detections) -> None:
    """Refuse class thresholds of label ids that no box has. Without boxes, only negative ids are refused.

    Raises:
        ConfigError: a label id is negative or unknown.
    """
    negative = [label for label, _ in rule.per_class if label < 0]
    if negative:
        raise ConfigError(f"per_class has negative label ids {_listed(negative)}; label ids start at 0.")
    if not len(detections):
        return
    unknown = [label for label, _ in rule.per_class if not (detections.labels == label).any()]
    if unknown:
        present = np.unique(detections.labels).tolist()
        raise ConfigError(
            f"per_class has label ids {_listed(unknown)}, but the boxes have only {_listed(present)}. Remove these "
            "thresholds or correct their ids."
        )


def _listed(labels: list[int]) -> str:
    text = ", ".join(map(str, labels[:_MAX_LISTED]))
    return f"{text}, … ({len(labels)} in total)" if len(labels) > _MAX_LISTED else text


@lean_kernel
def _count(boxes: FloatArray, scores: npt.NDArray[np.float32]) -> Any:
    """Numbers of boxes with coordinates that are not finite, with such scores, inverted ones, with a negative zero."""
    not_finite = no_score = inverted = negative_zeros = 0
    for i in range(len(boxes)):
        finite, zero = True, scores[i] == 0 and np.signbit(scores[i])
        for corner in range(4):
            finite = finite and np.isfinite(boxes[i, corner])
            zero = zero or (boxes[i, corner] == 0 and np.signbit(boxes[i, corner]))
        not_finite += not finite
        no_score += not np.isfinite(scores[i])
        inverted += boxes[i, 2] < boxes[i, 0] or boxes[i, 3] < boxes[i, 1]
        negative_zeros += zero
    return not_finite, no_score, inverted, negative_zeros
