"""Non-maximum merging: boxes of one object become the smallest box around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.detections import Detections
from geosod.merging.blocks import by_block
from geosod.merging.graph import suppress
from geosod.merging.index import Index
from geosod.merging.kernel import kernel
from geosod.merging.match import edges
from geosod.merging.order import Outcome

if TYPE_CHECKING:
    from geosod.merging.rule import MergeRule


def greedy_nmm(detections: Detections, index: Index, ranking: IntArray, rule: MergeRule) -> Outcome:
    """Groups are those of `nms`: the best box and its matches, then the best of the rest and its matches.

    Overlap is always measured between raw boxes, never with what has been merged so far, as in SAHI's
    ``sahi.postprocess.combine.greedy_nmm``; so the outcome in one component of the match graph depends on
    nothing outside it.

    Args:
        detections: N boxes.
        index: those of them that are to be merged.
        ranking: their rows, best first.
        rule: the match graph.

    Returns:
        The best-ranked member of each box's group. A group's box is the smallest around its members and its score
        their highest; it is `cut` if a member is.
    """
    return _merge(detections, index, ranking, rule, chained=False)


def nmm(detections: Detections, index: Index, ranking: IntArray, rule: MergeRule) -> Outcome:
    """As `greedy_nmm`, but members of a group also bring in their own matches, in order of rank.

    A match of two groups stays with the one that came to it first, as in SAHI's
    ``sahi.postprocess.combine.nmm``. There, of two boxes with equal scores neither brings in the other
    unless their corners are equal, too; here the ranking decides, as for all others.
    """
    return _merge(detections, index, ranking, rule, chained=True)


def _merge(detections: Detections, index: Index, ranking: IntArray, rule: MergeRule, *, chained: bool) -> Outcome:
    match = edges(rule)
    owner = suppress(index, by_block(index, ranking, match), match, chained=chained)
    return Outcome(owner, united(index.boxes, detections.scores[index.order], detections.truncated[index.order], owner))


def united(boxes: FloatArray, scores: npt.NDArray[np.float32], cut: BoolArray, owner: IntArray) -> dict[str, Any]:
    """Columns of the smallest box around each group, its highest score, and whether any of it is cut.

    Args:
        boxes: (N, 4) float64, left as it is.
        scores: (N,) float32, written to.
        cut: (N,) bool, written to.
        owner: (N,) int64, which box stands for each, or -1; values count where a box stands for itself.
    """
    boxes = boxes.copy()
    _unite(boxes, scores, cut, owner)
    return {"boxes": boxes, "scores": scores, "truncated": cut}


@kernel
def _unite(boxes: FloatArray, scores: Any, cut: BoolArray, owner: IntArray) -> None:
    for i in range(len(owner)):
        mine = owner[i]
        if mine < 0 or mine == i:
            continue
        for axis in range(2):
            boxes[mine, axis] = min(boxes[mine, axis], boxes[i, axis])
            boxes[mine, axis + 2] = max(boxes[mine, axis + 2], boxes[i, axis + 2])
        scores[mine] = max(scores[mine], scores[i])
        cut[mine] = cut[mine] or cut[i]
