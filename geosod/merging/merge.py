"""`geosod.merge`: boxes of overlapping tiles that are in memory."""

from __future__ import annotations

from typing import Any

from geosod.detections import Detections
from geosod.merging.components import settle
from geosod.merging.rule import Decay, MergeRule, Metric, PerClass
from geosod.merging.validate import check_per_class
from geosod.scene import Window


def merge(
    detections: Detections,
    *,
    method: str = "nms",
    metric: Metric = "iou",
    threshold: float = 0.5,
    class_agnostic: bool = False,
    sigma: float = 0.5,
    min_score: float = 0.001,
    per_class: PerClass | None = None,
    decay: Decay = "gaussian",
    borders: bool = True,
    margin: float = 0.0,
    gap: float = 0.0,
    across_levels: bool = False,
) -> Detections:
    """Merge boxes that show the same object.

    Two boxes match if their classes agree (or `class_agnostic` is set), their intersection has a positive area, and
    the metric is at least `threshold`. A box without area matches nothing, not even its own copy. Boxes are ranked by
    score, then by x0, y0, x1, y1, label and the remaining columns, so the result does not depend on the order of the
    input.

    Fragments, boxes that touch an edge of their tile (`Detections.fragment`), are handled separately. A fragment that
    lies mostly in a whole object is assigned to it. The remaining fragments are stitched where they agree on the
    ground that both their tiles show. See docs/merging.md for the exact rules.

    Args:
        detections: N boxes in any order and any one frame.
        method: "nms" keeps the best box and drops its matches; "greedy_nmm" merges the two into their enclosing box;
            "nmm" also adds the matches of matches, down the ranking; "soft_nms" lowers the scores of boxes that
            overlap a better one (Bodla et al. 2017); "wbf" averages boxes weighted by score (Solovyev et al. 2021).
        metric: "iou", intersection over union, or "ios", intersection over the smaller area.
        threshold: boxes match where the metric reaches this value, in (0, 1].
        class_agnostic: whether boxes of different classes may match.
        sigma: width of the Gaussian decay of "soft_nms".
        min_score: "soft_nms" drops boxes whose score falls below this value.
        per_class: thresholds of single classes, by label id, which replace `threshold`. Boxes of two classes must
            reach both thresholds.
        decay: "gaussian", at every overlap, or "linear", of matches only.
        borders: False treats fragments as ordinary boxes.
        margin: pixels by which a fragment may end before the edge of its tile, and by which it may stick out of the
            whole object.
        gap: pixels between two fragments on either side of a shared tile edge below which they may be stitched. For
            tiles that do not overlap, or that overlap by at most twice the margin.
        across_levels: True lets only boxes of different `Detections.level` match, to merge the boxes of several
            scales, each of which was merged before.

    Returns:
        M boxes in canonical order, with `n_merged` summed over the boxes that each represents.

    Raises:
        ConfigError: an argument has an invalid value, `per_class` has a label id that no box has, a box or score is
            not finite, or a box is inverted.
    """
    pairs: Any = per_class
    rule = MergeRule(
        method=method,
        metric=metric,
        threshold=threshold,
        class_agnostic=class_agnostic,
        sigma=sigma,
        min_score=min_score,
        per_class=pairs,
        decay=decay,
        borders=borders,
        margin=margin,
        gap=gap,
        across_levels=across_levels,
    )
    check_per_class(rule, detections)
    return settle(detections, Window(0, 0, 0, 0), rule, whole=True).final
