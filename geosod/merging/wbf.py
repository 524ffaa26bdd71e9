"""Weighted boxes fusion: boxes of one object become their average."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from geosod.errors import ConfigError
from geosod.merging.blocks import by_block
from geosod.merging.graph import flood, places_of, remaining, rows_of, take, tally
from geosod.merging.index import Index, build_index, cells_of, restore, run_of
from geosod.merging.kernel import kernel
from geosod.merging.match import Match, edges, limit_of, measure, reach_of
from geosod.merging.order import canonical_order, in_order
from geosod.types import BoolArray, Detections, FloatArray, IntArray

if TYPE_CHECKING:
    from geosod.merging.rule import MergeRule

#: More than rounding can make of a metric, relatively.
_SLACK = 1e-9


def reach(rule: MergeRule) -> float:
    """How far apart two boxes may lie that can meet in one cluster, in sides of the smaller one.

    A fused box matches the last box that joined it, since averaging moved it towards that one. So boxes meet
    only through a fused box that both match. With "ios" there is no limit to how far that one stretches.
    """
    return math.inf if rule.metric == "ios" else float(reach_of(_near(rule)))


def _near(rule: MergeRule) -> float:
    return rule.least_threshold * (1 - _SLACK)


def wbf(detections: Detections, leaving: BoolArray, rule: MergeRule) -> tuple[Detections, BoolArray]:
    """Let each box, best first, join the cluster whose fused box it matches best, or begin a new one.

    After Solovyev, Wang and Gabruseva, "Weighted boxes fusion: Ensembling boxes from different object
    detection models" (Image and Vision Computing 2021), with one model: a fused box is the mean of its
    cluster's boxes weighted by their scores, and its score is the mean of theirs. Where two fused boxes match
    equally well, the older cluster is joined.

    Fragments are not averaged, since they are not estimates of the whole. One that matches a whole box is
    counted to the cluster of the best-ranked such box; the others are merged among themselves as by `nms`.

    Args:
        detections: N boxes with scores of at least 0.
        leaving: (N,) bool, True where a box may be linked to boxes that are not at hand, see `reach`.
        rule: when a box matches.

    Returns:
        ``(fused, open)``: fused boxes and fragments of the components without a leaving box, in canonical
        order; and (N,) bool, True for the boxes of the other components. `n_merged` is summed; a fused box is
        `cut` if one of its cluster is; label and level are those of its best-ranked box.

    Raises:
        ConfigError: a score is negative.
    """
    negative = np.count_nonzero(detections.scores < 0)
    if negative:
        raise ConfigError(f"wbf weighs boxes by their scores, and {negative} of {len(detections)} are negative.")
    match, index, far = edges(rule), build_index(detections), reach(rule)
    ranking = canonical_order(detections, fragments_last=True)
    if math.isfinite(far):
        is_open = flood(index, leaving, match, _near(rule))
        restore(index, ~is_open[index.order])
        places = by_block(index, remaining(ranking, is_open), match, _near(rule))
    else:
        is_open = np.full(len(leaving), leaving.any())
        places = places_of(index, remaining(ranking, is_open))
    restore(index, ~is_open[index.order])
    owner, fused, means = _fuse(index, places, detections.scores[index.order].astype(np.float64), match, far)
    owner = rows_of(index, owner)
    by_row = np.empty(len(owner), np.int64)
    by_row[index.order] = np.arange(len(owner))
    rows = np.flatnonzero(owner == np.arange(len(owner)))
    averaged = ~detections.fragment | (owner == np.arange(len(owner)))
    cut = tally(owner, detections.cut & averaged)[rows] > 0
    result = detections[rows].with_columns(
        boxes=fused[by_row[rows]],
        scores=means[by_row[rows]],
        n_merged=tally(owner, detections.n_merged)[rows],
        cut=cut,
    )
    return in_order(result), is_open


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
def _absorb(index: Index, ranking: IntArray, match: Match, owner: IntArray) -> None:
    """Give fragments, the only boxes left in the index, to whole boxes that they match, or to each other."""
    found = np.empty(len(owner), np.int64)
    for i in ranking:
        if owner[i] < 0:
            owner[i] = i
        if owner[i] == i or not index.fragment[i]:
            for f in range(take(index, i, match, found)):
                if owner[found[f]] < 0:
                    owner[found[f]] = owner[i]


@kernel
def _fuse(
    index: Index, ranking: IntArray, scores: FloatArray, match: Match, reach: float
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Owner, fused box and mean score, all by place; the last two count where a box owns itself."""
    n, boxes, skip = len(scores), index.boxes, index.skip
    ends = _ends(index)
    firsts = _firsts(ends)
    head, after, before = np.full(n, -1, np.int64), np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    cluster, age, count = np.full(n, -1, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    fused, weight, last = boxes.copy(), np.zeros(n), np.zeros(n, np.int64)
    fragments = False
    for turn in range(len(ranking)):
        i = ranking[turn]
        if index.fragment[i]:
            fragments = True
            continue
        skip[i] = i + 1
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
    if fragments:
        _absorb(index, ranking, match, cluster)
    means = scores.copy()
    for i in range(n):
        if count[i] > 1:
            means[i] = weight[i] / count[i]
    return cluster, fused, means
