"""Soft non-maximum suppression: overlapping boxes lose score instead of being dropped at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from geosod.merging.blocks import sort_into
from geosod.merging.graph import components, flood, places_of, remaining, rows_of, tally
from geosod.merging.index import Index, build_index, cells_of, next_of, restore, run_of
from geosod.merging.kernel import kernel
from geosod.merging.match import Match, edges, limit_of, overlap
from geosod.merging.order import canonical_order, in_order
from geosod.types import BoolArray, Detections, FloatArray, IntArray

if TYPE_CHECKING:
    from geosod.merging.rule import MergeRule


def soft_nms(detections: Detections, leaving: BoolArray, rule: MergeRule) -> tuple[Detections, BoolArray]:
    """Keep the best box, lower the scores of those that overlap it, go on with the best of the rest.

    After Bodla, Singh, Chellappa and Davis, "Soft-NMS: Improving Object Detection With One Line of Code"
    (ICCV 2017). With decay "gaussian" every box of positive overlap ``o`` has its score multiplied by
    ``exp(-o**2 / sigma)``; with "linear" every match by ``1 - o``. Boxes whose score falls below `min_score`
    are dropped. Whole objects come before fragments; then the highest score at the time comes first, then
    the order of the raw boxes. A box is only touched along the edges of the graph, all positive overlaps
    or the match graph, so the outcome in one component depends on nothing outside it.

    Args:
        detections: N boxes.
        leaving: (N,) bool, True where a box may overlap boxes that are not at hand.
        rule: the graph, the decay, sigma and min_score.

    Returns:
        ``(kept, open)``: the kept boxes of the components without a leaving box with their new scores, in
        canonical order; and (N,) bool, True for the boxes of the other components. `n_merged` is summed over
        a box and the dropped ones that it lowered more than any other did; a box that was below `min_score`
        from the start and overlaps nothing is in no sum.
    """
    gaussian = rule.decay == "gaussian"
    match, index = edges(rule, any_overlap=gaussian), build_index(detections)
    is_open = flood(index, leaving, match)
    ranking = canonical_order(detections, fragments_last=True)
    ranking = places_of(index, remaining(ranking, is_open))
    label, starts = components(index, match, len(ranking))
    members = sort_into(label, ranking, len(starts) - 1)
    restore(index, ~is_open[index.order])
    rank = np.empty(len(index.order), np.int64)
    rank[ranking] = np.arange(len(ranking))
    scores = detections.scores[index.order].astype(np.float64)
    floor, sigma = float(rule.min_score), float(rule.sigma)
    owner = rows_of(index, _soften(index, members, starts, rank, scores, match, gaussian, sigma, floor))
    softened = np.empty(len(owner), np.float32)
    softened[index.order] = scores
    rows = np.flatnonzero(owner == np.arange(len(owner)))
    kept = detections[rows].with_columns(scores=softened[rows], n_merged=tally(owner, detections.n_merged)[rows])
    return in_order(kept), is_open


@kernel
def _before(i: int, j: int, key: FloatArray, rank: IntArray, fragment: BoolArray) -> Any:
    if fragment[i] != fragment[j]:
        return fragment[j]
    return key[i] > key[j] or (key[i] == key[j] and rank[i] < rank[j])


@kernel
def sift(heap: IntArray, at: int, length: int, key: FloatArray, rank: IntArray, fragment: BoolArray) -> None:
    """Let an entry of the heap sink to where it belongs."""
    moved = heap[at]
    while 2 * at + 1 < length:
        child = 2 * at + 1
        if child + 1 < length and _before(heap[child + 1], heap[child], key, rank, fragment):
            child += 1
        if not _before(heap[child], moved, key, rank, fragment):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = moved


@kernel
def _decay(
    index: Index,
    i: int,
    match: Match,
    gaussian: bool,
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
                    factor = math.exp(-(value * value) / sigma) if gaussian else 1 - value
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
    scores: FloatArray,
    match: Match,
    gaussian: bool,
    sigma: float,
    floor: float,
) -> IntArray:
    """Decay `scores`, by place, in place.

    Returns:
        (N,) int64, the own place of a kept box; the place of the box that lowered a dropped one most, or -1.
    """
    n, skip, fragment = len(index.boxes), index.skip, index.fragment
    owner, least, key = np.full(n, -1, np.int64), np.ones(n), scores.copy()
    for component in range(len(starts) - 1):
        # Members come in order of rank, which is a heap.
        heap = members[starts[component] : starts[component + 1]]
        length = len(heap)
        while length:
            i = heap[0]
            if skip[i] == i and key[i] != scores[i]:
                key[i] = scores[i]
                sift(heap, 0, length, key, rank, fragment)
                continue
            if skip[i] == i:
                skip[i] = i + 1
                if scores[i] >= floor:
                    owner[i] = i
                if scores[i] >= floor and length > 1:
                    _decay(index, i, match, gaussian, sigma, floor, scores, least, owner)
            length -= 1
            heap[0] = heap[length]
            if length:
                sift(heap, 0, length, key, rank, fragment)
    return owner
