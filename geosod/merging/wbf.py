"""Weighted boxes fusion: boxes of one object become their average."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from geosod.arrays import FloatArray, IntArray
from geosod.detections import Detections
from geosod.errors import ConfigError
from geosod.merging.blocks import by_block
from geosod.merging.groups import Outcome, group_sums
from geosod.merging.index import Index, cells_of, places_of, run_of
from geosod.merging.kernel import kernel, lean_kernel
from geosod.merging.match import Graph, Match, limit_of, match_of, measure, reach_of
from geosod.merging.rule import MergeRule

#: A relative tolerance above the rounding error of a metric.
_SLACK = 1e-9


def graph(rule: MergeRule) -> Graph:
    """Two boxes are connected if there may be a third box that matches both.

    A fused box matches the last box that joined it, since averaging moved it towards that box. So two boxes affect
    each other only through a fused box that matches both. With "ios" the size of that fused box is not limited.
    """
    near = rule.min_threshold * (1 - _SLACK)
    return Graph(match_of(rule), near, math.inf if rule.metric == "ios" else float(reach_of(near)))


def _check_scores(detections: Detections) -> None:
    negative = np.count_nonzero(detections.scores < 0)
    if negative:
        raise ConfigError(
            f"wbf weights boxes by their scores, and {negative} of {len(detections)} are negative. Drop these boxes, "
            "or rescale the scores to be at least 0."
        )


def wbf(detections: Detections, index: Index, ranking: IntArray, rule: MergeRule) -> Outcome:
    """Let each box, best first, join the cluster whose fused box it matches best, or start a new cluster.

    After Solovyev, Wang and Gabruseva, "Weighted boxes fusion: Ensembling boxes from different object
    detection models" (Image and Vision Computing 2021), with one model: a fused box is the mean of its
    cluster's boxes weighted by their scores, and its score is the mean of theirs. If two fused boxes match
    equally well, the box joins the older cluster. If only boxes of different levels match, a cluster takes one box of
    each level.

    Args:
        detections: N boxes with scores of at least 0.
        index: those of them to merge.
        ranking: (M,) int64, their rows, best first.
        rule: when boxes match.

    Returns:
        The best-ranked member of each box's cluster, fused boxes and mean scores. A fused box is truncated if any
        member of its cluster is.

    Raises:
        ConfigError: a score is negative.
    """
    _check_scores(detections)
    match, near, reach = graph(rule)
    places = by_block(index, ranking, match, near) if math.isfinite(reach) else places_of(index, ranking)
    kept_index, fused, means = _fuse(index, places, detections.scores[index.order].astype(np.float64), match, reach)
    truncated = detections.truncated[index.order]
    # Boxes that are not merged here keep their flag.
    truncated |= group_sums(kept_index, truncated) > 0
    return Outcome(kept_index, {"boxes": fused, "scores": means.astype(np.float32), "truncated": truncated})


@kernel
def _ends(index: Index) -> IntArray:
    """(N,) int64, at the first place of each cell, the first place of the next cell."""
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


@lean_kernel
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
    taken: IntArray,
) -> Any:
    """The cluster that the box at place `i` joins, or -1. Clusters are found in the cell of their last box."""
    boxes, labels, sizes = index.boxes, index.labels, index.sizes
    chosen, best, limit = -1, 0.0, limit_of(match, labels[i])
    box, longest, own = boxes[i], 0.0, _bit(index.group, i)
    for k in range(len(index.levels)):
        longest = max(longest, sizes[k, 1])
    # A fused box is no longer than the longest box, and overlaps both this box and its last one.
    dx, dy = min(longest, reach * (box[2] - box[0])), min(longest, reach * (box[3] - box[1]))
    for k in range(len(index.levels)):
        row, row_high, col_low, col_high = cells_of(index, k, box[0] - dx, box[1] - dy, box[2] + dx, box[3] + dy)
        while row <= row_high and col_low <= col_high:
            place, end, row = run_of(index, k, row, col_low, col_high)
            while place < end:
                last = head[place]
                while last >= 0:
                    c = cluster[last]
                    if (labels[c] == labels[i] or match.class_agnostic) and not taken[c] & own:
                        value = measure(box, fused[c], match.ios)
                        better = value > best or (value == best and chosen >= 0 and age[c] < age[chosen])
                        if better and value >= max(limit, limit_of(match, labels[c])):
                            chosen, best = c, value
                    last = after[last]
                place = ends[place]
    return chosen


@lean_kernel
def _bit(group: npt.NDArray[np.uint8] | None, i: int) -> Any:
    """The bit of the group of the box at place `i`; 0 without groups."""
    if group is None:
        return np.int64(0)
    return np.int64(1) << np.int64(group[i] - 1)


@lean_kernel
def _link(i: int, first: int, head: IntArray, after: IntArray, before: IntArray) -> None:
    after[i], before[i] = head[first], -1
    if head[first] >= 0:
        before[head[first]] = i
    head[first] = i


@lean_kernel
def _unlink(i: int, first: int, head: IntArray, after: IntArray, before: IntArray) -> None:
    if before[i] >= 0:
        after[before[i]] = after[i]
    else:
        head[first] = after[i]
    if after[i] >= 0:
        before[after[i]] = before[i]


@lean_kernel
def _move(fused: FloatArray, box: FloatArray, share: float) -> None:
    """Move a fused box a share of the way to a box, with rounding clamped between the two."""
    for axis in range(4):
        low, high = min(fused[axis], box[axis]), max(fused[axis], box[axis])
        fused[axis] = min(max(fused[axis] + share * (box[axis] - fused[axis]), low), high)


@kernel
def _fuse(
    index: Index, ranking: IntArray, scores: FloatArray, match: Match, reach: float
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Kept index, fused box and mean score, all by place; the last two are meaningful at kept boxes."""
    n, boxes = len(scores), index.boxes
    ends = _ends(index)
    firsts = _firsts(ends)
    head, after, before = np.full(n, -1, np.int64), np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    cluster, age, count = np.full(n, -1, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    fused, weight, last = boxes.copy(), np.zeros(n), np.zeros(n, np.int64)
    taken = np.zeros(n, np.int64)
    for step in range(len(ranking)):
        i = ranking[step]
        c = _best(index, i, match, reach, ends, head, after, cluster, age, fused, taken)
        if c < 0:
            c, age[i], weight[i] = i, step, scores[i]
        else:
            weight[c] += scores[i]
            share = scores[i] / weight[c] if weight[c] > 0 else 0.0
            _move(fused[c], boxes[i], share)
            _unlink(last[c], firsts[last[c]], head, after, before)
        cluster[i], last[c] = c, i
        taken[c] |= _bit(index.group, i)
        count[c] += 1
        _link(i, firsts[i], head, after, before)
    means = scores.copy()
    for i in range(n):
        if count[i] > 1:
            means[i] = weight[i] / count[i]
    return cluster, fused, means
