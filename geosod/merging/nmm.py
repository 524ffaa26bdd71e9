"""Non-maximum merging: boxes of one object become their smallest enclosing box."""

from __future__ import annotations

from geosod.arrays import IntArray
from geosod.detections import Detections
from geosod.merging.blocks import by_block
from geosod.merging.graph import suppress
from geosod.merging.groups import Outcome, enclosing
from geosod.merging.index import Index
from geosod.merging.match import match_of
from geosod.merging.rule import MergeRule


def greedy_nmm(detections: Detections, index: Index, ranking: IntArray, rule: MergeRule) -> Outcome:
    """Form the groups of `nms`, the best box and the boxes that match it, and merge each group into one box.

    Overlap is measured between raw boxes, never with a box that was merged already, as in SAHI's
    ``sahi.postprocess.combine.greedy_nmm``. The result in one connected component of the match graph therefore does
    not depend on the other components.

    Args:
        detections: N boxes.
        index: those of them to merge.
        ranking: (M,) int64, their rows, best first.
        rule: when boxes match.

    Returns:
        The best-ranked member of each box's group. The box of a group is the smallest that encloses its members, the
        score is their highest score, and `truncated` is set if it is for any member.
    """
    return _merge(detections, index, ranking, rule, chained=False)


def nmm(detections: Detections, index: Index, ranking: IntArray, rule: MergeRule) -> Outcome:
    """As `greedy_nmm`, but members of a group also add the boxes that match them, in order of rank.

    A box that matches members of two groups joins the group that reaches it first, as in SAHI's
    ``sahi.postprocess.combine.nmm``. SAHI never lets one of two boxes with equal scores add the other unless
    their corners are equal, too; here the ranking decides, as for all other boxes.
    """
    return _merge(detections, index, ranking, rule, chained=True)


def _merge(detections: Detections, index: Index, ranking: IntArray, rule: MergeRule, *, chained: bool) -> Outcome:
    match = match_of(rule)
    kept_index = suppress(index, by_block(index, ranking, match), match, chained=chained)
    scores, truncated = detections.scores[index.order], detections.truncated[index.order]
    return Outcome(kept_index, enclosing(index.boxes, scores, truncated, kept_index))
