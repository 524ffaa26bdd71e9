"""Boxes across tile borders: which stand for one object."""

from geosod.merging.components import Settled, merge_group, settle
from geosod.merging.rule import METHODS, MergeRule, Metric
from geosod.types import Detections, Window

__all__ = ["METHODS", "MergeRule", "Metric", "Settled", "merge", "merge_group", "settle"]


def merge(
    detections: Detections,
    *,
    method: str = "nms",
    metric: Metric = "iou",
    threshold: float = 0.5,
    class_agnostic: bool = False,
) -> Detections:
    """Merge boxes that stand for one object.

    Two boxes match if their classes agree (or `class_agnostic`), their intersection has a positive area,
    and the metric is at least `threshold`. Pairs in which either box is a fragment are measured by "ios",
    whatever the metric. A box without area matches nothing, not even its own copy.

    Args:
        detections: boxes in any order and any one frame; the result does not depend on the order.
        method: "nms", greedy non-maximum suppression, in which fragments come after all whole objects.
        metric: "iou", intersection over union, or "ios", intersection over the smaller area.
        threshold: in (0, 1].
        class_agnostic: whether boxes of different classes may match.

    Returns:
        The kept boxes in canonical order, with `n_merged` summed over themselves and those they suppressed.

    Raises:
        ConfigError: an argument has an unusable value, a box or score is not finite, or a box is inverted.
    """
    rule = MergeRule(method, metric, threshold, class_agnostic)
    return settle(detections, Window(0, 0, 0, 0), rule, whole=True).settled
