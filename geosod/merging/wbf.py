"""Weighted boxes fusion: boxes of one object become their average."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from geosod.arrays import FloatArray, IntArray
from geosod.detections import Detections
from geosod.errors import ConfigError
from geosod.merging.blocks import by_block
from geosod.merging.graph import places_of, tally
from geosod.merging.index import Index, cells_of, run_of
from geosod.merging.kernel import kernel
from geosod.merging.match import Graph, Match, edges, limit_of, measure, reach_of
from geosod.merging.order import Outcome

if TYPE_CHECKING:
    from geosod.merging.rule import MergeRule

#: More than rounding can make of a metric, relatively.
_SLACK = 1e-9


def graph(rule: MergeRule) -> Graph:
    """Boxes are linked that some third box matches both of.

    A fused box matches the last box that joined it, since averaging moved it towards that one. So boxes meet
    only through a fused box that both match. With "ios" there is no limit to how far that one stretches.
    """
    near = rule.min_threshold * (1 - _SLACK)
    return Graph(edges(rule), near, math.inf if rule.metric == "ios" else float(reach_of(near)))


def check_scores(detections: Detections) -> None:
    """Refuse scores that cannot be weights.

    Raises:
        ConfigError: a score is negative.
    """
    negative = np.count_nonzero(detections.scores < 0)
    if negative:
        raise ConfigError(f"wbf weighs boxes by their scores, and {negative} of {len(detections)} are negative.")


def wbf(detections: Detections, index: Index, ranking: IntArray, rule: MergeRule) -> Outcome:
    """Let each box, best first, join the cluster whose fused box it matches best, or begin a new one.

    After Solovyev, Wang and Gabruseva, "Weighted boxes fusion: Ensembling boxes from different object
    detection models" (Image and Vision Computing 2021), with one model: a fused box is the mean of its
    cluster's boxes weighted by their scores, and its score is the mean of theirs. Where two fused boxes match
    equally well, the older cluster is joined.

    Args:
        detections: N boxes with scores of at least 0.
        index: those of them that are to be merged.
        ranking: their rows, best first.
        rule: when a box matches.

    Returns:
        The best-ranked member of each box's cluster, fused boxes and mean scores. A fused box is `cut` if one of its
        cluster is.

    Raises:
        ConfigError: a score is negative.
    """
    check_scores(detections)
    match, near, far = graph(rule)
    places = by_block(index, ranking, match, near) if math.isfinite(far) else places_of(index, ranking)
    owner, fused, means = _fuse(index, places, detections.scores[index.order].astype(np.float64), match, far)
    cut = tally(owner, detections.truncated[index.order]) > 0
    return Outcome(owner, {"boxes": fused, "scores": means.astype(np.float32), "truncated": cut})


@kernel
def _ends(index: Index) -> IntArray:
    """(N,) int64, for the first place of each cell the first of the next one."""
    keys = index.keys
    n, first = len(keys), 0
    ends = np.zeros(n, np.int64)
    for place in range(1, n + 1):
        if place == n or keys[place] != keys[first]:
            ends[first] = place
            first = place
    return ends


@kernel
def _firsts(ends: IntArray) -> IntArray:
    """(N,) int64, the first place of each place's cell."""
    firsts, first = np.empty(len(ends), np.int64), 0
    while first < len(ends):
        firsts[first : ends[first]] = first
        first = ends[first]
    return firsts


@kernel
def _best(
    index: Index,
    i: int,
    match: Match,
    reach: float,
    ends: IntArray,
    head: IntArray,
    after: IntArray,
    cluster: IntArray,
    age: IntArray,
    fused: FloatArray,
) -> Any:
    """The cluster that the box at place `i` joins, or -1. Clusters lie in the cell of their last box."""
    boxes, labels, sizes = index.boxes, index.labels, index.sizes
    chosen, best, limit = -1, 0.0, limit_of(match, labels[i])
    box, longest = boxes[i], 0.0
    for k in range(len(index.levels)):
        longest = max(longest, sizes[k, 1])
    # A fused box is no longer than the longest box, and meets both this one and its last.
    dx, dy = min(longest, reach * (box[2] - box[0])), min(longest, reach * (box[3] - box[1]))
    for k in range(len(index.levels)):
        row, row_high, col_low, col_high = cells_of(index, k, box[0] - dx, box[1] - dy, box[2] + dx, box[3] + dy)
        while row <= row_high and col_low <= col_high:
            place, end, row = run_of(index, k, row, col_low, col_high)
            while place < end:
                last = head[place]
                while last >= 0:
                    c = cluster[last]
                    if labels[c] == labels[i] or match.class_agnostic:
                        value = measure(box, fused[c], match.ios)
                        better = value > best or (value == best and chosen >= 0 and age[c] < age[chosen])
                        if better and value >= max(limit, limit_of(match, labels[c])):
                            chosen, best = c, value
                    last = after[last]
                place = ends[place]
    return chosen


@kernel
def _link(i: int, first: int, head: IntArray, after: IntArray, before: IntArray) -> None:
    after[i], before[i] = head[first], -1
    if head[first] >= 0:
        before[head[first]] = i
    head[first] = i


@kernel
def _unlink(i: int, first: int, head: IntArray, after: IntArray, before: IntArray) -> None:
    if before[i] >= 0:
        after[before[i]] = after[i]
    else:
        head[first] = after[i]
    if after[i] >= 0:
        before[after[i]] = before[i]


@kernel
def _move(fused: FloatArray, box: FloatArray, share: float) -> None:
    """Move a fused box a share of the way to a box, and not beyond either by rounding."""
    for axis in range(4):
        low, high = min(fused[axis], box[axis]), max(fused[axis], box[axis])
        fused[axis] = min(max(fused[axis] + share * (box[axis] - fused[axis]), low), high)


@kernel
def _fuse(
    index: Index, ranking: IntArray, scores: FloatArray, match: Match, reach: float
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Owner, fused box and mean score, all by place; the last two count where a box owns itself."""
    n, boxes = len(scores), index.boxes
    ends = _ends(index)
    firsts = _firsts(ends)
    head, after, before = np.full(n, -1, np.int64), np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    cluster, age, count = np.full(n, -1, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    fused, weight, last = boxes.copy(), np.zeros(n), np.zeros(n, np.int64)
    for turn in range(len(ranking)):
        i = ranking[turn]
        c = _best(index, i, match, reach, ends, head, after, cluster, age, fused)
        if c < 0:
            c, age[i], weight[i] = i, turn, scores[i]
        else:
            weight[c] += scores[i]
            share = scores[i] / weight[c] if weight[c] > 0 else 0.0
            _move(fused[c], boxes[i], share)
            _unlink(last[c], firsts[last[c]], head, after, before)
        cluster[i], last[c] = c, i
        count[c] += 1
        _link(i, firsts[i], head, after, before)
    means = scores.copy()
    for i in range(n):
        if count[i] > 1:
            means[i] = weight[i] / count[i]
    return cluster, fused, means
