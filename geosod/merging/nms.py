"""Greedy non-maximum suppression."""

from __future__ import annotations

from geosod.arrays import IntArray
from geosod.detections import Detections
from geosod.merging.blocks import by_block
from geosod.merging.graph import suppress
from geosod.merging.groups import Outcome
from geosod.merging.index import Index
from geosod.merging.match import match_of
from geosod.merging.rule import MergeRule


def nms(_: Detections, index: Index, ranking: IntArray, rule: MergeRule) -> Outcome:
    """Keep the best box, drop all boxes that match it, and continue with the best remaining box.

    A box acts only on the boxes that match it, so the result in one connected component of the match graph does not
    depend on the other components.

    Args:
        index: the boxes to merge.
        ranking: (M,) int64, their rows, best first.
        rule: when boxes match.

    Returns:
        The kept box of each box.
    """
    match = match_of(rule)
    return Outcome(suppress(index, by_block(index, ranking, match), match), {})
