"""Soft non-maximum suppression: overlapping boxes lose score instead of being dropped at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.detections import Detections
from geosod.merging.blocks import sort_into
from geosod.merging.graph import components, matches_of
from geosod.merging.groups import Outcome
from geosod.merging.index import Index, places_of, restore
from geosod.merging.kernel import kernel
from geosod.merging.match import Graph, Match, match_of
from geosod.merging.rule import MergeRule


def graph(rule: MergeRule) -> Graph:
    """All positive overlaps for the Gaussian decay, else the match graph."""
    return Graph(match_of(rule, any_overlap=rule.decay == "gaussian"))


def soft_nms(detections: Detections, index: Index, ranking: IntArray, rule: MergeRule) -> Outcome:
    """Keep the best box, lower the scores of the boxes that overlap it, and continue with the best remaining box.

    After Bodla, Singh, Chellappa and Davis, "Soft-NMS: Improving Object Detection With One Line of Code"
    (ICCV 2017). With decay "gaussian", the score of every box with a positive overlap ``o`` is multiplied by
    ``exp(-o**2 / sigma)``; with "linear", that of every match by ``1 - o``. Boxes whose score falls below `min_score`
    are dropped. Boxes in the edge margin of their tile come after the others; otherwise the box with the highest
    current score comes next, and equal scores follow the order of the raw boxes. A box is changed only along the
    edges of the graph, so the result in one component does not depend on the other components.

    Args:
        detections: N boxes.
        index: those of them to merge.
        ranking: (M,) int64, their rows, best first.
        rule: when boxes match, the decay, sigma and min_score.

    Returns:
        Kept boxes and their new scores. A dropped box is represented by the box that lowered its score most, or by
        none if it was below `min_score` from the start and overlaps nothing.
    """
    match, places = graph(rule).match, places_of(index, ranking)
    present = np.zeros(len(index.order), np.bool_)
    present[places] = True
    label, starts = components(index, match, len(places))
    members = sort_into(label, places, len(starts) - 1)
    restore(index, present)
    rank = np.empty(len(present), np.int64)
    rank[places] = np.arange(len(places))
    last = index.fragment != 0
    scores = detections.scores[index.order].astype(np.float64)
    sigma = float(rule.sigma) if rule.decay == "gaussian" else 0.0
    kept_index = _soften(index, members, starts, rank, last, scores, match, sigma, float(rule.min_score))
    return Outcome(kept_index, {"scores": scores.astype(np.float32)})


@kernel
def _before(i: int, j: int, key: FloatArray, rank: IntArray, last: BoolArray) -> Any:
    if last[i] != last[j]:
        return last[j]
    return key[i] > key[j] or (key[i] == key[j] and rank[i] < rank[j])


@kernel
def _sift(heap: IntArray, at: int, length: int, key: FloatArray, rank: IntArray, last: BoolArray) -> None:
    """Restore the heap order after the key of the entry at `at` got worse."""
    moved = heap[at]
    while 2 * at + 1 < length:
        child = 2 * at + 1
        if child + 1 < length and _before(heap[child + 1], heap[child], key, rank, last):
            child += 1
        if not _before(heap[child], moved, key, rank, last):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = moved


@kernel
def _soften(
    index: Index,
    members: IntArray,
    starts: IntArray,
    rank: IntArray,
    last: BoolArray,
    scores: FloatArray,
    match: Match,
    sigma: float,
    min_score: float,
) -> IntArray:
    """Decay `scores`, by place, in place; linearly if `sigma` is 0.

    Returns:
        (N,) int64, the own place of a kept box; the place of the box that lowered a dropped one most, or -1.
    """
    n, skip = len(index.boxes), index.skip
    found, values = np.empty(n, np.int64), np.empty(n)
    kept_index, min_factor, key = np.full(n, -1, np.int64), np.ones(n), scores.copy()
    for component in range(len(starts) - 1):
        # Members are sorted by rank, which is a valid heap.
        heap = members[starts[component] : starts[component + 1]]
        length = len(heap)
        while length:
            i = heap[0]
            if skip[i] == i and key[i] != scores[i]:
                key[i] = scores[i]
                _sift(heap, 0, length, key, rank, last)
                continue
            if skip[i] == i:
                skip[i] = i + 1
                if scores[i] >= min_score:
                    kept_index[i] = i
                    count = matches_of(index, i, match, found, values) if length > 1 else 0
                    for f in range(count):
                        j, value = found[f], values[f]
                        factor = math.exp(-(value * value) / sigma) if sigma else 1 - value
                        scores[j] *= factor
                        if factor < min_factor[j]:
                            min_factor[j], kept_index[j] = factor, i
                        if scores[j] < min_score:
                            skip[j] = j + 1
            length -= 1
            heap[0] = heap[length]
            if length:
                _sift(heap, 0, length, key, rank, last)
    return kept_index
