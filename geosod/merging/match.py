"""When two boxes match: the edges of the graphs that the methods work on."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from geosod.arrays import FloatArray, IntArray
from geosod.detections import EXCLUDED, SIDES
from geosod.merging.index import Index, lower_bound
from geosod.merging.kernel import kernel, lean_kernel
from geosod.merging.rule import MergeRule

#: Bisections after which `linked` gives up and says yes.
_BISECTIONS = 200
#: The minimum share of a fragment that must lie in a whole object.
MIN_INSIDE = 0.5
#: The minimum share of the larger of two fragments that both must have in common, where both tiles see. Fragments of
#: one round object differ in height by no more, unless a tile shows only its outermost strip; neighbouring objects
#: whose boxes overlap differ by more.
MIN_AGREEMENT = 0.7


class Match(NamedTuple):
    """When two boxes match: the edges of the match graph.

    Two boxes match if their classes agree, their intersection has a positive area, and the metric is at least the
    threshold of both classes. The metric is intersection over union, or over the smaller area if `ios` is set, or
    that of `fragment_overlap` if one of the two is a fragment. A box without area matches nothing, not even its own
    copy. Boxes of one group of the index do not match each other.

    Attributes:
        ios: whether whole boxes are compared by intersection over the smaller area.
        threshold: of classes without a threshold of their own; 0 makes every positive overlap an edge.
        class_agnostic: whether boxes of different classes may match.
        labels: (K,) int64, ascending, the classes that have their own threshold.
        thresholds: (K,) float64, the thresholds of these classes.
        margin: pixels by which a fragment is extended where it touches its tile's edge, and a whole object on all
            sides, before the two are compared.
        gap: pixels below which two fragments that touch one edge from either side are compared across it.
    """

    ios: bool
    threshold: float
    class_agnostic: bool
    labels: IntArray
    thresholds: FloatArray
    margin: float
    gap: float


class Graph(NamedTuple):
    """The graph whose connected components a method merges independently.

    Attributes:
        match: the edges.
        near: if not 0, boxes that touch no edge of a tile are connected by `linked` with this threshold instead.
        reach: how far from a box others may lie that affect it, in sides of the box; 0 if only boxes that share some
            area do.
    """

    match: Match
    near: float = 0.0
    reach: float = 0.0


def match_of(rule: MergeRule, *, any_overlap: bool = False) -> Match:
    """The match graph of a rule, or that of all positive overlaps."""
    per_class = () if any_overlap else rule.per_class
    labels = np.array([k for k, _ in per_class], np.int64)
    thresholds = np.array([t for _, t in per_class], np.float64)
    threshold = 0.0 if any_overlap else float(rule.threshold)
    margin, gap = (rule.margin, rule.gap) if rule.borders else (0.0, 0.0)
    return Match(rule.metric == "ios", threshold, bool(rule.class_agnostic), labels, thresholds, margin, gap)


@lean_kernel
def limit_of(match: Match, label: int) -> float:
    """Threshold of a class."""
    labels = match.labels
    place = lower_bound(labels, label, 0, len(labels))
    return match.thresholds[place] if place < len(labels) and labels[place] == label else match.threshold


@lean_kernel
def overlap(index: Index, i: int, j: int, match: Match) -> Any:
    """The metric of the boxes at two places, whatever their classes; 0 where they share no area."""
    if index.fragment[i] or index.fragment[j]:
        return fragment_overlap(index.boxes[i], index.boxes[j], index.fragment[i], index.fragment[j], match)
    return measure(index.boxes[i], index.boxes[j], match.ios)


@lean_kernel
def _kept_apart(group: npt.NDArray[np.uint8] | None, i: int, j: int) -> Any:
    """Whether two boxes are of one group of `Index.group`."""
    if group is None:
        return False
    return i != j and group[i] == group[j]


@lean_kernel
def edge(index: Index, i: int, j: int, match: Match) -> Any:
    """The metric of the boxes at two places if they match, else 0."""
    label, other_label = index.labels[i], index.labels[j]
    if label != other_label and not match.class_agnostic:
        return 0.0
    if _kept_apart(index.group, i, j):
        return 0.0
    value = overlap(index, i, j, match)
    matched = value > 0 and value >= max(limit_of(match, label), limit_of(match, other_label))
    return value if matched else 0.0


@lean_kernel
def fragment_overlap(a: FloatArray, b: FloatArray, flags: int, other_flags: int, match: Match) -> Any:
    """The metric of two boxes of which at least one is a fragment, in the edge margin, or excluded.

    A fragment and any other box: 1 if the other contains it, else 0. Two fragments: 1 if they agree, else 0. A
    box in the edge margin and a whole one: the intersection over the area of the former. An excluded box overlaps
    nothing but fragments.

    Args:
        a, b: (4,) float64 ``x0, y0, x1, y1``.
        flags, other_flags: `Detections.fragment` of a and of b.
        match: margin, gap and metric.
    """
    if (flags | other_flags) & SIDES:
        return 1.0 if _belong_together(a, b, flags, other_flags, match) else 0.0
    if (flags | other_flags) & EXCLUDED:
        return 0.0
    if flags and other_flags:
        return measure(a, b, match.ios)
    inter = _intersection(a, b)
    return inter / (_area(a) if flags else _area(b)) if inter > 0 else 0.0


@lean_kernel
def _belong_together(a: FloatArray, b: FloatArray, flags: int, other_flags: int, match: Match) -> Any:
    if flags & SIDES and other_flags & SIDES:
        return _agree(a, b, flags, other_flags, match.margin, match.gap)
    if flags & SIDES:
        return _contained(a, b, flags, match.margin)
    return _contained(b, a, other_flags, match.margin)


@lean_kernel
def _agree(a: FloatArray, b: FloatArray, flags: int, other_flags: int, margin: float, gap: float) -> Any:
    """Whether two fragments agree on the ground that both tiles show.

    A tile cannot show what lies beyond a side that touches its edge. On the remaining ground, the intersection must
    be a large enough share of the larger fragment. Differences of up to twice the margin along an axis are ignored.
    """
    inter, area, other, separation = 1.0, 1.0, 1.0, 0
    for axis in range(2):
        low_bit, high_bit = 1 << axis, 4 << axis
        width = min(a[axis + 2], b[axis + 2]) - max(a[axis], b[axis])
        if width > 0:
            low, high = -np.inf, np.inf
            if flags & low_bit:
                low = a[axis]
            if flags & high_bit:
                high = a[axis + 2]
            if other_flags & low_bit:
                low = max(low, b[axis])
            if other_flags & high_bit:
                high = min(high, b[axis + 2])
            inter *= width
            area *= max(width, min(a[axis + 2], high) - max(a[axis], low) - 2 * margin)
            other *= max(width, min(b[axis + 2], high) - max(b[axis], low) - 2 * margin)
        else:
            first, second = (flags, other_flags) if a[axis] < b[axis] else (other_flags, flags)
            facing = first & high_bit and second & low_bit
            separation += 1 if facing and width > -gap else 2
    if separation > 1 or not (inter > 0 and _area(a) > 0 and _area(b) > 0):
        return False
    return inter >= MIN_AGREEMENT * max(area, other)


@lean_kernel
def _area(box: FloatArray) -> Any:
    return (box[2] - box[0]) * (box[3] - box[1])


@lean_kernel
def _intersection(a: FloatArray, b: FloatArray) -> Any:
    """The area that two boxes share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


@lean_kernel
def _contained(fragment: FloatArray, whole: FloatArray, flags: int, margin: float) -> Any:
    """Whether a fragment belongs to a whole object.

    Enough of the fragment must lie in the object, and the object must continue where the fragment's tile ends.
    """
    inter, area = 1.0, 1.0
    for axis in range(2):
        touches_low, touches_high = flags & (1 << axis), flags & (4 << axis)
        if touches_low and whole[axis] > fragment[axis] + 2 * margin:
            return False
        if touches_high and whole[axis + 2] < fragment[axis + 2] - 2 * margin:
            return False
        low = fragment[axis] - (margin if touches_low else 0.0)
        high = fragment[axis + 2] + (margin if touches_high else 0.0)
        width = min(high, whole[axis + 2] + margin) - max(low, whole[axis] - margin)
        if not width > 0:
            return False
        inter *= width
        area *= high - low
    return inter > 0 and inter >= MIN_INSIDE * area and _area(fragment) > 0 and _area(whole) > 0


@lean_kernel
def search_margin(match: Match) -> float:
    """Pixels around a box within which the boxes lie for which `fragment_overlap` may not be 0."""
    return max(2 * match.margin, match.gap)


@lean_kernel
def reach_of(near: float) -> float:
    """The maximum gap between two boxes that both have an IoU of `near` with a third, in sides of the smaller one."""
    return max(0.0, (1 - 2 * near) / near)


@lean_kernel
def measure(a: FloatArray, b: FloatArray, ios: bool) -> Any:
    """IoU of two boxes, or intersection over the smaller area; 0 where they share no area."""
    inter, area, other = _intersection(a, b), _area(a), _area(b)
    return inter / (min(area, other) if ios else area + other - inter) if inter > 0 else 0.0


@kernel
def linked(a: FloatArray, b: FloatArray, near: float) -> Any:
    """Whether there may be a box that has an IoU of at least `near` with both of two boxes.

    It is enough to search the boxes whose corners all lie between those of a and b. The closer a corner is to that
    of a, the higher is the IoU with a, and the same holds for b. So in any range of such boxes, the one closest to a
    and the one closest to b bound what the range can reach. Ranges are bisected until those bounds or an example
    decide. If they have not after many bisections, the answer is yes.
    """
    ranges, corner = np.empty((_BISECTIONS + 1, 2, 4)), 0
    ranges[0, 0], ranges[0, 1] = a, b
    middle, top = np.empty(4), 1
    for _ in range(_BISECTIONS):
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
