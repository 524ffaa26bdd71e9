"""Non-maximum merging: boxes of one object become the smallest box around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geosod.merging.blocks import by_block
from geosod.merging.graph import flood, remaining, suppress
from geosod.merging.index import build_index
from geosod.merging.kernel import kernel
from geosod.merging.match import edges
from geosod.merging.order import canonical_order, in_order
from geosod.types import BoolArray, Detections, FloatArray, IntArray

if TYPE_CHECKING:
    from geosod.merging.rule import MergeRule


def greedy_nmm(detections: Detections, leaving: BoolArray, rule: MergeRule) -> tuple[Detections, BoolArray]:
    """Groups are those of `nms`: the best box and its matches, then the best of the rest and its matches.

    Overlap is always measured between raw boxes, never with what has been merged so far, as in SAHI's
    ``sahi.postprocess.combine.greedy_nmm``; so the outcome in one component of the match graph depends on
    nothing outside it.

    Args:
        detections: N boxes.
        leaving: (N,) bool, True where a box may match boxes that are not at hand.
        rule: the match graph.

    Returns:
        ``(merged, open)``: a box for each group in the components without a leaving box, in canonical
        order; and (N,) bool, True for the boxes of the other components. A group's box is the smallest
        around its members and its score their highest; `n_merged` is summed; it is `cut` if a member is;
        label, level and fragment are those of its best-ranked member.
    """
    return _merge(detections, leaving, rule, chained=False)


def nmm(detections: Detections, leaving: BoolArray, rule: MergeRule) -> tuple[Detections, BoolArray]:
    """As `greedy_nmm`, but members of a group also bring in their own matches, in order of rank.

    A match of two groups stays with the one that came to it first, as in SAHI's
    ``sahi.postprocess.combine.nmm``. There, of two boxes with equal scores neither brings in the other
    unless their corners are equal, too; here the ranking decides, as for all others.
    """
    return _merge(detections, leaving, rule, chained=True)


def _merge(
    detections: Detections, leaving: BoolArray, rule: MergeRule, *, chained: bool
) -> tuple[Detections, BoolArray]:
    match, index = edges(rule), build_index(detections)
    is_open = flood(index, leaving, match)
    ranking = canonical_order(detections, fragments_last=True)
    ordered = by_block(index, remaining(ranking, is_open), match)
    owner = suppress(index, ordered, match, chained=chained)
    return in_order(unite(detections, owner)), is_open


def unite(detections: Detections, owner: IntArray) -> Detections:
    """One box for every group; `owner` is (N,) int64, the row that stands for each box, or -1."""
    boxes, scores = detections.boxes.copy(), detections.scores.copy()
    cut, n_merged = detections.cut.copy(), detections.n_merged.copy()
    _unite(boxes, scores, cut, n_merged, owner)
    rows = np.flatnonzero(owner == np.arange(len(owner)))
    return detections[rows].with_columns(boxes=boxes[rows], scores=scores[rows], cut=cut[rows], n_merged=n_merged[rows])


@kernel
def _unite(boxes: FloatArray, scores: Any, cut: BoolArray, n_merged: Any, owner: IntArray) -> None:
    for i in range(len(owner)):
        mine = owner[i]
        if mine < 0 or mine == i:
            continue
        for axis in range(2):
            boxes[mine, axis] = min(boxes[mine, axis], boxes[i, axis])
            boxes[mine, axis + 2] = max(boxes[mine, axis + 2], boxes[i, axis + 2])
        scores[mine] = max(scores[mine], scores[i])
        cut[mine] = cut[mine] or cut[i]
        n_merged[mine] += n_merged[i]
