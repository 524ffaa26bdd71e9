"""Boxes across tile borders: which stand for one object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from geosod.detections import Detections
from geosod.merging.components import Settled, merge_group, settle
from geosod.merging.rule import METHODS, Decay, MergeRule, Metric, PerClass
from geosod.scene import Window

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Polygons = npt.NDArray[np.object_]

__all__ = ["METHODS", "Decay", "MergeRule", "Metric", "PerClass", "Settled", "merge", "merge_group", "settle"]


@overload
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
    geometry: None = None,
) -> Detections: ...


@overload
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
    geometry: Polygons,
) -> tuple[Detections, Polygons]: ...


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
    geometry: Polygons | None = None,
) -> Detections | tuple[Detections, Polygons]:
    """Merge boxes that stand for one object.

    Two boxes match if their classes agree (or `class_agnostic`), their intersection has a positive area,
    and the metric is at least `threshold`. A box without area matches nothing, not even its own copy. Boxes are
    ranked by score, then x0, y0, x1, y1, label and the remaining columns, so the result does not depend on the
    order of the input.

    Fragments, boxes that touch an edge of their tile (`Detections.fragment`), are dealt with apart. One of which
    a share of at least `threshold` lies in a whole object is counted to that one; those that remain are united
    where they agree, to that share of the smaller, on the ground that both their tiles show.

    Args:
        detections: boxes in any order and any one frame.
        method: "nms" keeps the best box and drops its matches; "greedy_nmm" unites the two; "nmm" unites
            with the matches of matches, down the ranking; "soft_nms" lowers scores of what overlaps a better
            box (Bodla et al. 2017); "wbf" averages boxes weighted by score (Solovyev et al. 2021).
        metric: "iou", intersection over union, or "ios", intersection over the smaller area.
        threshold: in (0, 1].
        class_agnostic: whether boxes of different classes may match.
        sigma: width of soft_nms's Gaussian decay.
        min_score: score below which soft_nms drops a box.
        per_class: thresholds of classes that have their own, by label id. Boxes of two classes must reach both.
        decay: "gaussian", at every overlap, or "linear", of matches.
        borders: False treats fragments as boxes like all others.
        margin: pixels by which fragments may end before the edge of their tile, and stand out of the whole object.
        gap: pixels between fragments on both sides of an edge that tiles share, below which they may be one object;
            for tiles that do not overlap, or by no more than twice the margin.
        geometry: (N,) polygons of shapely, one per box and valid, to be merged in place of the boxes, which
            are then computed from them; None merges the boxes. "nmm" and "greedy_nmm" give the union of the
            polygons of a group; "wbf", `margin` and `gap` are
            for boxes only.

    Returns:
        The boxes in canonical order, with `n_merged` summed over those they stand for. With `geometry`, also
        (M,) polygons in the same order.

    Raises:
        ConfigError: an argument has an unusable value, a box or score is not finite, a box is inverted, or a
            geometry is not a valid polygon.
    """
    own: Any = () if per_class is None else per_class
    rule = MergeRule(method, metric, threshold, class_agnostic, sigma, min_score, own, decay, borders, margin, gap)
    if geometry is not None:
        from geosod.merging.polygons import merge_polygons

        return merge_polygons(detections, geometry, rule)
    return settle(detections, Window(0, 0, 0, 0), rule, whole=True).final
