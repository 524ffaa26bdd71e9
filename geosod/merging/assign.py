"""Which box represents each box: the steps that merging boxes and merging polygons have in common."""

from __future__ import annotations

import numpy as np

from geosod.arrays import BoolArray, IntArray
from geosod.detections import EXCLUDED, SIDES, Detections
from geosod.merging.borders import add_fragments
from geosod.merging.groups import Outcome, group_sums
from geosod.merging.index import Index, places_of, restore
from geosod.merging.match import match_of
from geosod.merging.methods import method_of
from geosod.merging.order import canonical_order
from geosod.merging.rule import MergeRule


def assign(detections: Detections, index: Index, pending: BoolArray, rule: MergeRule) -> Outcome:
    """Merge the boxes of an index: whole boxes by the method of the rule, then fragments.

    With borders, whole boxes rank before boxes in the edge margin of their tile and before fragments. Otherwise boxes
    rank by descending score, then by the remaining columns as in `Detections.canonical_order`.

    Args:
        detections: N boxes.
        index: these boxes, without the pending ones; emptied by merging.
        pending: (N,) bool, by row, boxes that are not to be merged yet.
        rule: how to merge.

    Returns:
        The kept box of each box, and new columns, by place in the index.
    """
    method = method_of(rule)
    ranking = canonical_order(detections, fragments_last=rule.borders)
    ranking = ranking[~pending[ranking]] if pending.any() else ranking
    fragment = detections.fragment if rule.borders else np.zeros(len(detections), np.uint8)
    separate = fragment & (SIDES | EXCLUDED) > 0
    any_separate = bool(separate.any())
    ordinary = ranking[~separate[ranking]] if any_separate else ranking
    if any_separate or method.graph(rule).near:
        restore(index, ~(pending | separate)[index.order])
    outcome = method.run(detections, index, ordinary, rule)
    if any_separate:
        outcome = add_fragments(outcome, detections[index.order], index, places_of(index, ranking), match_of(rule))
    return outcome


def kept_boxes(detections: Detections, index: Index, outcome: Outcome) -> tuple[Detections, IntArray]:
    """The boxes that are left after merging, with `n_merged` summed over the boxes that each represents.

    Returns:
        M boxes in the order of the index, and (M,) int64, their rows in `detections`.
    """
    kept_index = outcome.kept_index
    kept = np.flatnonzero(kept_index == np.arange(len(kept_index)))
    rows = index.order[kept]
    # Columns that the index has are read in its order, which is faster.
    columns = {name: getattr(detections, name).take(rows) for name in ("scores", "truncated", "fragment", "level")}
    columns |= {"boxes": index.boxes.take(kept, axis=0), "labels": index.labels.take(kept)}
    columns |= {name: column.take(kept, axis=0) for name, column in outcome.columns.items()}
    columns["n_merged"] = group_sums(kept_index, detections.n_merged.take(index.order)).take(kept)
    return Detections(**columns), rows
