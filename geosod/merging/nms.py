"""Greedy non-maximum suppression."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geosod.arrays import IntArray
from geosod.detections import Detections
from geosod.merging.blocks import by_block
from geosod.merging.graph import suppress
from geosod.merging.index import Index
from geosod.merging.match import edges
from geosod.merging.order import Outcome

if TYPE_CHECKING:
    from geosod.merging.rule import MergeRule


def nms(_: Detections, index: Index, ranking: IntArray, rule: MergeRule) -> Outcome:
    """Keep the best box, suppress all its matches, go on with the best of the rest.

    Since a box only ever acts on its matches, the outcome in one connected component of the match graph depends
    on nothing outside it.

    Args:
        index: the boxes that are to be merged.
        ranking: their rows, best first.
        rule: the match graph.

    Returns:
        The kept box that stands for each.
    """
    match = edges(rule)
    return Outcome(suppress(index, by_block(index, ranking, match), match), {})
