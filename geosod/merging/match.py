"""When two boxes are connected: the edges of the graphs that merging acts along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from geosod.arrays import FloatArray, IntArray
from geosod.detections import EXCLUDED, SIDES
from geosod.merging.index import Index, lower_bound
from geosod.merging.kernel import kernel

if TYPE_CHECKING:
    from geosod.merging.rule import MergeRule

#: Halvings after which two boxes count as linked.
_HALVINGS = 200
#: The share of a fragment that must lie in a whole object.
SHARE = 0.5
#: The share of the larger of two fragments that must be common to both, where both tiles see. Pieces of one round
#: object differ in height by no more, unless a tile shows a mere rim of it; neighbours whose boxes overlap do.
AGREEMENT = 0.7


class Match(NamedTuple):
    """The edges of the match graph.

    Two boxes match if their classes agree, their intersection has a positive area, and the metric is at
    least the threshold of both their classes. The metric is intersection over union, over the smaller area
    where `ios` is set, or as in `shared` where one of the two is a fragment. A box without area matches
    nothing, not even its own copy.

    Attributes:
        ios: whether whole boxes are measured by the smaller area.
        threshold: of classes that have no own one; 0 makes every positive overlap an edge.
        class_agnostic: whether boxes of different classes may match.
        labels: (K,) int64, ascending, classes with a threshold of their own.
        thresholds: (K,) float64, theirs.
        margin: a fragment that is held against a whole object is taken to end this much later where it touches its
            tile's edge, and the whole object on all sides.
        gap: fragments that touch one edge from both sides and are nearer than this agree across it.
    """

    ios: bool
    threshold: float
    class_agnostic: bool
    labels: IntArray
    thresholds: FloatArray
    margin: float
    gap: float


class Graph(NamedTuple):
    """Along what a method acts.

    Attributes:
        match: the edges.
        near: if not 0, boxes that touch no edge of a tile are linked as `linked` says, for this threshold.
        reach: how far from a box others may lie that matter to it, in sides of the box; 0 where only boxes that
            share some area do.
    """

    match: Match
    near: float = 0.0
    reach: float = 0.0


def edges(rule: MergeRule, *, any_overlap: bool = False) -> Match:
    """The match graph of a rule, or that of all positive overlaps."""
    own = () if any_overlap else rule.per_class
    labels, thresholds = np.array([k for k, _ in own], np.int64), np.array([t for _, t in own], np.float64)
    threshold = 0.0 if any_overlap else float(rule.threshold)
    ios, agnostic = rule.metric == "ios", bool(rule.class_agnostic)
    return Match(
        ios, threshold, agnostic, labels, thresholds, *((rule.margin, rule.gap) if rule.borders else (0.0, 0.0))
    )


@kernel
def limit_of(match: Match, label: int) -> float:
    """Threshold of a class."""
    labels = match.labels
    place = lower_bound(labels, label, 0, len(labels))
    return match.thresholds[place] if place < len(labels) and labels[place] == label else match.threshold


@kernel
def overlap(index: Index, i: int, j: int, match: Match) -> Any:
    """The metric of the boxes at two places, whatever their classes; 0 where they share no area."""
    if index.fragment[i] or index.fragment[j]:
        return shared(index.boxes[i], index.boxes[j], index.fragment[i], index.fragment[j], match)
    return measure(index.boxes[i], index.boxes[j], match.ios)


@kernel
def shared(a: FloatArray, b: FloatArray, touched: int, other_touched: int, match: Match) -> Any:
    """The metric of two boxes of which one at least is a fragment, near a rim, or set aside.

    A fragment and any other box: 1 where the other holds it, else 0. Two fragments: 1 where they agree, else 0. A
    box near a rim and a whole one: the intersection over the former. A box that is set aside has nothing in
    common with any but fragments.

    Args:
        a, b: (4,) float64 x0, y0, x1, y1.
        touched, other_touched: values of `Detections.fragment` for the two.
        match: margin, gap and metric.
    """
    if (touched | other_touched) & SIDES:
        return 1.0 if _joined(a, b, touched, other_touched, match) else 0.0
    if (touched | other_touched) & EXCLUDED:
        return 0.0
    if touched and other_touched:
        return measure(a, b, match.ios)
    inter = _common(a, b)
    return inter / (_area(a) if touched else _area(b)) if inter > 0 else 0.0


@kernel
def _joined(a: FloatArray, b: FloatArray, touched: int, other_touched: int, match: Match) -> Any:
    if touched & SIDES and other_touched & SIDES:
        return _agree(a, b, touched, other_touched, match.margin, match.gap)
    if touched & SIDES:
        return _held(a, b, touched, match.margin)
    return _held(b, a, other_touched, match.margin)


@kernel
def _agree(a: FloatArray, b: FloatArray, touched: int, other_touched: int, margin: float, gap: float) -> Any:
    """Whether two fragments show the same on the ground that both their tiles show.

    What lies beyond a side that touches its tile's edge is unknown to that tile. On the rest, the intersection must be
    a large enough share of the larger. Along either axis, twice the margin more or less is no difference.
    """
    inter, area, other, apart = 1.0, 1.0, 1.0, 0
    for axis in range(2):
        low_bit, high_bit = 1 << axis, 4 << axis
        width = min(a[axis + 2], b[axis + 2]) - max(a[axis], b[axis])
        if width > 0:
            low, high = -np.inf, np.inf
            if touched & low_bit:
                low = a[axis]
            if touched & high_bit:
                high = a[axis + 2]
            if other_touched & low_bit:
                low = max(low, b[axis])
            if other_touched & high_bit:
                high = min(high, b[axis + 2])
            inter *= width
            area *= max(width, min(a[axis + 2], high) - max(a[axis], low) - 2 * margin)
            other *= max(width, min(b[axis + 2], high) - max(b[axis], low) - 2 * margin)
        else:
            first, second = (touched, other_touched) if a[axis] < b[axis] else (other_touched, touched)
            facing = first & high_bit and second & low_bit
            apart += 1 if facing and width > -gap else 2
    if apart > 1 or not (inter > 0 and _area(a) > 0 and _area(b) > 0):
        return False
    return inter >= AGREEMENT * max(area, other)


@kernel
def _area(box: FloatArray) -> Any:
    return (box[2] - box[0]) * (box[3] - box[1])


@kernel
def _common(a: FloatArray, b: FloatArray) -> Any:
    """The area that two boxes share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


@kernel
def _held(piece: FloatArray, whole: FloatArray, touched: int, margin: float) -> Any:
    """Whether a whole object holds a fragment: enough of that lies within, and it goes on where the tile ends."""
    inter, area = 1.0, 1.0
    for axis in range(2):
        cut_low, cut_high = touched & (1 << axis), touched & (4 << axis)
        if cut_low and whole[axis] > piece[axis] + 2 * margin:
            return False
        if cut_high and whole[axis + 2] < piece[axis + 2] - 2 * margin:
            return False
        low = piece[axis] - (margin if cut_low else 0.0)
        high = piece[axis + 2] + (margin if cut_high else 0.0)
        width = min(high, whole[axis + 2] + margin) - max(low, whole[axis] - margin)
        if not width > 0:
            return False
        inter *= width
        area *= high - low
    return inter > 0 and inter >= SHARE * area and _area(piece) > 0 and _area(whole) > 0


@kernel
def around(match: Match) -> float:
    """How far beyond a box others may lie that `shared` does not put at 0."""
    return max(2 * match.margin, match.gap)


@kernel
def reach_of(near: float) -> float:
    """How far apart, in sides of the smaller one, two boxes may lie that both have an IoU of `near` with a third."""
    return max(0.0, (1 - 2 * near) / near)


@kernel
def measure(a: FloatArray, b: FloatArray, ios: bool) -> Any:
    """IoU of two boxes, or intersection over the smaller area; 0 where they share no area."""
    inter, area, other = _common(a, b), _area(a), _area(b)
    return inter / (min(area, other) if ios else area + other - inter) if inter > 0 else 0.0


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
