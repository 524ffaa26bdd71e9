"""Soft non-maximum suppression: overlapping boxes lose score instead of being dropped at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.detections import Detections
from geosod.merging.blocks import sort_into
from geosod.merging.graph import components, places_of
from geosod.merging.index import Index, cells_of, next_of, restore, run_of
from geosod.merging.kernel import kernel
from geosod.merging.match import Graph, Match, edges, limit_of, overlap
from geosod.merging.order import Outcome

if TYPE_CHECKING:
    from geosod.merging.rule import MergeRule


def graph(rule: MergeRule) -> Graph:
    """All positive overlaps for the Gaussian decay, else the match graph."""
    return Graph(edges(rule, any_overlap=rule.decay == "gaussian"))


def soft_nms(detections: Detections, index: Index, ranking: IntArray, rule: MergeRule) -> Outcome:
    """Keep the best box, lower the scores of those that overlap it, go on with the best of the rest.

    After Bodla, Singh, Chellappa and Davis, "Soft-NMS: Improving Object Detection With One Line of Code"
    (ICCV 2017). With decay "gaussian" every box of positive overlap ``o`` has its score multiplied by
    ``exp(-o**2 / sigma)``; with "linear" every match by ``1 - o``. Boxes whose score falls below `min_score`
    are dropped. Boxes near the rim of their tile come after the others; then the highest score at the time comes
    first, then the order of the raw boxes. A box is only touched along the edges of the graph, so the outcome in
    one component depends on nothing outside it.

    Args:
        detections: N boxes.
        index: those of them that are to be merged.
        ranking: their rows, best first.
        rule: the graph, the decay, sigma and min_score.

    Returns:
        Kept boxes and their new scores; for a dropped one, the box that lowered it more than any other did, or none
        for one that was below `min_score` from the start and overlaps nothing.
    """
    match, places = graph(rule).match, places_of(index, ranking)
    alive = np.zeros(len(index.order), np.bool_)
    alive[places] = True
    label, starts = components(index, match, len(places))
    members = sort_into(label, places, len(starts) - 1)
    restore(index, alive)
    rank = np.empty(len(alive), np.int64)
    rank[places] = np.arange(len(places))
    last = index.fragment != 0
    scores = detections.scores[index.order].astype(np.float64)
    sigma = float(rule.sigma) if rule.decay == "gaussian" else 0.0
    owner = _soften(index, members, starts, rank, last, scores, match, sigma, float(rule.min_score))
    return Outcome(owner, {"scores": scores.astype(np.float32)})


@kernel
def _before(i: int, j: int, key: FloatArray, rank: IntArray, last: BoolArray) -> Any:
    if last[i] != last[j]:
        return last[j]
    return key[i] > key[j] or (key[i] == key[j] and rank[i] < rank[j])


@kernel
def sift(heap: IntArray, at: int, length: int, key: FloatArray, rank: IntArray, last: BoolArray) -> None:
    """Let an entry of the heap sink to where it belongs."""
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
def _decay(
    index: Index,
    i: int,
    match: Match,
    sigma: float,
    floor: float,
    scores: FloatArray,
    least: FloatArray,
    owner: IntArray,
) -> None:
    """Lower the scores of what overlaps the box at place `i`; take out what falls below `floor`."""
    boxes, labels, skip = index.boxes, index.labels, index.skip
    limit = limit_of(match, labels[i])
    for k in range(len(index.levels)):
        row, row_high, col_low, col_high = cells_of(index, k, boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3])
        while row <= row_high and col_low <= col_high:
            place, end, row = run_of(index, k, row, col_low, col_high)
            place = np.int64(next_of(skip, place))
            while place < end:
                value = 0.0
                if labels[place] == labels[i] or match.class_agnostic:
                    value = overlap(index, i, place, match)
                if value > 0 and value >= max(limit, limit_of(match, labels[place])):
                    factor = math.exp(-(value * value) / sigma) if sigma else 1 - value
                    scores[place] *= factor
                    if factor < least[place]:
                        least[place], owner[place] = factor, i
                    if scores[place] < floor:
                        skip[place] = place + 1
                place = np.int64(next_of(skip, place + 1))


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
    floor: float,
) -> IntArray:
    """Decay `scores`, by place, in place; linearly where `sigma` is 0.

    Returns:
        (N,) int64, the own place of a kept box; the place of the box that lowered a dropped one most, or -1.
    """
    n, skip = len(index.boxes), index.skip
    owner, least, key = np.full(n, -1, np.int64), np.ones(n), scores.copy()
    for component in range(len(starts) - 1):
        # Members come in order of rank, which is a heap.
        heap = members[starts[component] : starts[component + 1]]
        length = len(heap)
        while length:
            i = heap[0]
            if skip[i] == i and key[i] != scores[i]:
                key[i] = scores[i]
                sift(heap, 0, length, key, rank, last)
                continue
            if skip[i] == i:
                skip[i] = i + 1
                if scores[i] >= floor:
                    owner[i] = i
                if scores[i] >= floor and length > 1:
                    _decay(index, i, match, sigma, floor, scores, least, owner)
            length -= 1
            heap[0] = heap[length]
            if length:
                sift(heap, 0, length, key, rank, last)
    return owner
