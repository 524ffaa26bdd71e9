"""Soft non-maximum suppression: overlapping boxes lose score instead of being dropped at once."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.detections import Detections
from geosod.merging.blocks import sort_into
from geosod.merging.graph import components, matches_of
from geosod.merging.groups import Outcome
from geosod.merging.index import Index, places_of, restore
from geosod.merging.kernel import lean_kernel
from geosod.merging.match import Graph, Match, edge, match_of
from geosod.merging.rule import MergeRule

#: Comparing all boxes of a component is faster than searching the index if there are no more than this.
_FEW = 64


class _State(NamedTuple):
    """The scores so far, by place, and room to work in.

    Attributes:
        scores: (N,) float64, current scores.
        rank: (N,) int64, rank of the raw box.
        last: (N,) bool, boxes that come after all others.
        kept_index: (N,) int64, the own place of a kept box; the place of the box that lowered another one most, or -1.
        min_factor: (N,) float64, the factor by which that box lowered it.
        sigma: of the Gaussian decay; 0 for linear decay.
        min_score: boxes whose score falls below this value are dropped.
        key: (N,) float64, the scores by which a heap is ordered.
        found: (N,) int64, room for the matches of a box.
        values: (N,) float64, the same for their values.
    """

    scores: FloatArray
    rank: IntArray
    last: BoolArray
    kept_index: IntArray
    min_factor: FloatArray
    sigma: float
    min_score: float
    key: FloatArray
    found: IntArray
    values: FloatArray


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
    n = len(index.order)
    present = np.zeros(n, np.bool_)
    present[places] = True
    label, starts = components(index, match, len(places))
    members = sort_into(label, places, len(starts) - 1)
    restore(index, present)
    rank = np.empty(n, np.int64)
    rank[places] = np.arange(len(places))
    scores = detections.scores[index.order].astype(np.float64)
    sigma = float(rule.sigma) if rule.decay == "gaussian" else 0.0
    room = scores.copy(), np.empty(n, np.int64), np.empty(n)
    state = _State(scores, rank, index.fragment != 0, np.full(n, -1), np.ones(n), sigma, float(rule.min_score), *room)
    _soften(index, members, starts, match, state)
    return Outcome(state.kept_index, {"scores": scores.astype(np.float32)})


@lean_kernel
def _before(i: int, j: int, key: FloatArray, state: _State) -> Any:
    if state.last[i] != state.last[j]:
        return state.last[j]
    return key[i] > key[j] or (key[i] == key[j] and state.rank[i] < state.rank[j])


@lean_kernel
def _lower(i: int, j: int, value: float, state: _State) -> Any:
    """Lower the score of the box at place `j`, which overlaps a kept box; returns whether it remains."""
    factor = math.exp(-(value * value) / state.sigma) if state.sigma else 1 - value
    state.scores[j] *= factor
    if factor < state.min_factor[j]:
        state.min_factor[j], state.kept_index[j] = factor, i
    return state.scores[j] >= state.min_score


@lean_kernel
def _soften(index: Index, members: IntArray, starts: IntArray, match: Match, state: _State) -> None:
    """Decay scores component by component.

    Args:
        members: places of the boxes by component, best first; overwritten.
        starts: where each component starts in `members`, and the end of the last one.
    """
    for component in range(len(starts) - 1):
        part = members[starts[component] : starts[component + 1]]
        if len(part) <= _FEW and index.pairs is None:
            _soften_few(index, part, match, state)
        else:
            _soften_many(index, part, match, state)


@lean_kernel
def _soften_few(index: Index, members: IntArray, match: Match, state: _State) -> None:
    """Take the best box, and compare all others with it while looking for the next one."""
    best, length = 0, len(members)
    while length:
        i = members[best]
        members[best] = members[length - 1]
        kept = state.scores[i] >= state.min_score
        if kept:
            state.kept_index[i] = i
        best, remaining = 0, 0
        for m in range(length - 1):
            j = members[m]
            value = edge(index, i, j, match) if kept else 0.0
            if value > 0 and not _lower(i, j, value, state):
                continue
            if _before(j, members[best], state.scores, state):
                best = remaining
            members[remaining] = j
            remaining += 1
        length = remaining


@lean_kernel
def _soften_many(index: Index, heap: IntArray, match: Match, state: _State) -> None:
    """Keep the boxes in a heap; sorted by rank, they are one. Boxes get their place for a lower score at the top."""
    skip, scores, key, length = index.skip, state.scores, state.key, len(heap)
    while length:
        i = heap[0]
        if skip[i] == i and key[i] != scores[i]:
            key[i] = scores[i]
            _sift(heap, length, state)
            continue
        if skip[i] == i:
            skip[i] = i + 1
            if scores[i] >= state.min_score:
                state.kept_index[i] = i
                count = matches_of(index, i, match, state.found, state.values) if length > 1 else 0
                for f in range(count):
                    j = state.found[f]
                    if not _lower(i, j, state.values[f], state):
                        skip[j] = j + 1
        length -= 1
        heap[0] = heap[length]
        _sift(heap, length, state)


@lean_kernel
def _sift(heap: IntArray, length: int, state: _State) -> None:
    """Restore the heap order after the key of the first entry got worse."""
    key, at, moved = state.key, 0, heap[0]
    while 2 * at + 1 < length:
        child = 2 * at + 1
        if child + 1 < length and _before(heap[child + 1], heap[child], key, state):
            child += 1
        if not _before(heap[child], moved, key, state):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = moved
