"""Greedy non-maximum suppression."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geosod.merging.blocks import by_block
from geosod.merging.graph import flood, remaining, suppress, tally
from geosod.merging.index import build_index
from geosod.merging.match import edges
from geosod.merging.order import canonical_order, in_order
from geosod.types import BoolArray, Detections

if TYPE_CHECKING:
    from geosod.merging.rule import MergeRule


def nms(detections: Detections, leaving: BoolArray, rule: MergeRule) -> tuple[Detections, BoolArray]:
    """Keep the best box, suppress all its matches, go on with the best of the rest.

    Best first means: whole objects before fragments, then by descending score, then by the remaining
    columns as in `Detections.canonical_order`. Since a box only ever acts on its matches, the outcome in
    one connected component of the match graph depends on nothing outside it.

    Args:
        detections: N boxes.
        leaving: (N,) bool, True where a box may match boxes that are not at hand.
        rule: the match graph.

    Returns:
        ``(kept, open)``: the kept boxes of the components without a leaving box, in canonical order, with
        `n_merged` summed over themselves and the boxes they suppressed; and (N,) bool, True for the boxes
        of the other components.
    """
    match, index = edges(rule), build_index(detections)
    is_open = flood(index, leaving, match)
    ranking = canonical_order(detections, fragments_last=True)
    ordered = by_block(index, remaining(ranking, is_open), match)
    owner = suppress(index, ordered, match)
    kept_rows = ranking[owner[ranking] == ranking]
    counts = tally(owner, detections.n_merged)[kept_rows]
    return in_order(detections[kept_rows].with_columns(n_merged=counts)), is_open
