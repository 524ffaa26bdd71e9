"""When two boxes are connected: the edges of the graphs that merging acts along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from geosod.merging.index import Index, lower_bound
from geosod.merging.kernel import kernel
from geosod.types import FloatArray, IntArray

if TYPE_CHECKING:
    from geosod.merging.rule import MergeRule

#: Halvings after which two boxes count as linked.
_HALVINGS = 200


class Match(NamedTuple):
    """The edges of the match graph.

    Two boxes match if their classes agree, their intersection has a positive area, and the metric is at
    least the threshold of both their classes. The metric is intersection over the fragment's area where one
    of the two is a fragment, over the smaller area where both are or `ios` is set, else over the union. A box
    without area matches nothing, not even its own copy.

    Attributes:
        ios: whether whole boxes are measured by the smaller area.
        threshold: of classes that have no own one; 0 makes every positive overlap an edge.
        class_agnostic: whether boxes of different classes may match.
        labels: (K,) int64, ascending, classes with a threshold of their own.
        thresholds: (K,) float64, theirs.
    """

    ios: bool
    threshold: float
    class_agnostic: bool
    labels: IntArray
    thresholds: FloatArray


def edges(rule: MergeRule, *, any_overlap: bool = False) -> Match:
    """The match graph of a rule, or that of all positive overlaps."""
    own = () if any_overlap else rule.per_class
    labels, thresholds = np.array([k for k, _ in own], np.int64), np.array([t for _, t in own], np.float64)
    threshold = 0.0 if any_overlap else float(rule.threshold)
    return Match(rule.metric == "ios", threshold, bool(rule.class_agnostic), labels, thresholds)


@kernel
def limit_of(match: Match, label: int) -> float:
    """Threshold of a class."""
    labels = match.labels
    place = lower_bound(labels, label, 0, len(labels))
    return match.thresholds[place] if place < len(labels) and labels[place] == label else match.threshold


@kernel
def overlap(index: Index, i: int, j: int, match: Match) -> Any:
    """The metric of the boxes at two places, whatever their classes; 0 where they share no area."""
    a, b = index.boxes[i], index.boxes[j]
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = width * height
    if not (width > 0 and height > 0 and inter > 0):
        return 0.0
    area, other = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    if index.fragment[i] != index.fragment[j]:
        return inter / (area if index.fragment[i] else other)
    return inter / (min(area, other) if match.ios or index.fragment[i] else area + other - inter)


@kernel
def reach_of(near: float) -> float:
    """How far apart, in sides of the smaller one, two boxes may lie that both have an IoU of `near` with a third."""
    return max(0.0, (1 - 2 * near) / near)


@kernel
def measure(a: FloatArray, b: FloatArray, ios: bool) -> Any:
    """IoU of two boxes, or intersection over the smaller area; 0 where they share no area."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = width * height
    if not (width > 0 and height > 0 and inter > 0):
        return 0.0
    area, other = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return inter / (min(area, other) if ios else area + other - inter)


@kernel
def linked(a: FloatArray, b: FloatArray, near: float) -> Any:
    """Whether there may be a box that has an IoU of at least `near` with both of two boxes.

    Such a box can be looked for among those whose every corner lies between those of a and b. The closer a
    corner is to that of a, the greater is the IoU with a, and the same holds for b. So of a range of boxes, the
    one closest to a and the one closest to b bound what any of them can reach; ranges are halved until those
    bounds or an example decide. Where many halvings do not, the answer is yes.
    """
    ranges, corner = np.empty((_HALVINGS + 1, 2, 4)), 0
    ranges[0, 0], ranges[0, 1] = a, b
    middle, top = np.empty(4), 1
    for _ in range(_HALVINGS):
        top -= 1
        low, high = ranges[top, 0], ranges[top, 1]
        if measure(a, low, False) >= near and measure(b, high, False) >= near:
            for k in range(4):
                middle[k] = (low[k] + high[k]) / 2
                corner = k if k == 0 or abs(high[k] - low[k]) > abs(high[corner] - low[corner]) else corner
            if measure(a, middle, False) >= near and measure(b, middle, False) >= near:
                return True
            ranges[top + 1] = ranges[top]
            ranges[top, 1, corner] = ranges[top + 1, 0, corner] = middle[corner]
            top += 2
        if top == 0:
            return False
    return True
