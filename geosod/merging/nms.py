"""Greedy non-maximum suppression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geosod.merging.index import Match, build_index, flood, suppress
from geosod.merging.order import canonical_order
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
    match = Match(rule.metric == "ios", float(rule.threshold), bool(rule.class_agnostic))
    index = build_index(detections)
    is_open = flood(index, leaving, match)
    ranking = canonical_order(detections, fragments_last=True)
    owner = suppress(index, ranking[~is_open[ranking]], match)
    merged = np.bincount(owner[~is_open], weights=detections.n_merged[~is_open], minlength=len(owner))
    kept_rows = np.flatnonzero(owner == np.arange(len(owner)))
    kept = detections[kept_rows].with_columns(n_merged=merged[kept_rows].astype(np.int32))
    return kept[canonical_order(kept)], is_open
