"""Confidence intervals of metrics, by resampling images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.errors import ConfigError
from geosod.evaluation.average_precision import RECALLS
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.matching import match_at
from geosod.evaluation.overlaps import Overlaps
from geosod.merging.kernel import kernel

#: A statistic of a sample: weights (G,) float64, how often each group is in it, to one number, nan where undefined.
Statistic = Callable[[FloatArray], float]


def bootstrap(
    statistic: Statistic, groups: int, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """The interval of a statistic under resampling of groups: bias-corrected and accelerated (Efron 1987).

    Args:
        statistic: the statistic.
        groups: number of images, or of groups of images that belong together, such as cities.
        level: the rate at which the interval contains the true value, if groups are a random sample.
        resamples: number of samples drawn.
        seed: seed of the draws.

    Returns:
        Its lower and upper end; None with fewer than 5 groups, which say nothing about others, or where the statistic
        is undefined.

    Raises:
        ConfigError: the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level={level}: the rate of an interval is between 0 and 1, such as 0.95")
    whole = statistic(np.ones(groups)) if groups >= 5 else np.nan
    if np.isnan(whole):
        return None
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(groups, np.full(groups, 1 / groups), size=resamples).astype(np.float64)
    values = np.array([statistic(weights) for weights in draws])
    values = np.sort(values[~np.isnan(values)])
    without = np.array([statistic(weights) for weights in 1 - np.eye(groups)])
    if len(values) < resamples / 2:
        return None
    normal = NormalDist()
    below = ((values < whole).sum() + 0.5 * (values == whole).sum()) / len(values)
    bias = normal.inv_cdf(float(np.clip(below, 0.5 / len(values), 1 - 0.5 / len(values))))
    away = np.nanmean(without) - without[~np.isnan(without)]
    spread = float((away**2).sum())
    acceleration = float((away**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    ends = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        z = bias + normal.inv_cdf(share)
        ends.append(float(np.quantile(values, normal.cdf(bias + z / (1 - acceleration * z)))))
    return ends[0], ends[1]


def ratio(numerator: FloatArray | IntArray, denominator: FloatArray | IntArray) -> Statistic:
    """A statistic that is a sum over groups divided by another, such as precision, recall or F-score.

    Args:
        numerator, denominator: (G,), of each group.
    """
    above, below = numerator.astype(np.float64), denominator.astype(np.float64)

    def statistic(weights: FloatArray) -> float:
        total = float(weights @ below)
        return float(weights @ above) / total if total > 0 else float("nan")

    return statistic


def mean_average_precision(
    comparison: Comparison,
    overlaps: Overlaps,
    *,
    thresholds: Sequence[float],
    groups: IntArray,
    max_detections: int | None = 500,
) -> Statistic:
    """Mean AP of COCO over thresholds and classes, as a statistic of the images drawn.

    Args:
        comparison: labels and detections.
        overlaps: their pairs.
        thresholds: IoU thresholds.
        groups: (I,) int64, the group of each image, from 0 on.
        max_detections: detections of an image and class that take part.
    """
    truth, found = comparison.truth, comparison.found
    kept = np.flatnonzero(comparison.rank < (max_detections or len(found) + 1))
    kept = kept[np.lexsort((comparison.rank[kept], comparison.image[kept], -found.scores[kept]))]
    cases: list[tuple[IntArray, BoolArray, FloatArray]] = []
    for matches in match_at(comparison, overlaps, thresholds=thresholds):
        rows = kept[~matches.ignored[kept]]
        for k in range(len(truth.classes)):
            own = rows[found.labels[rows] == k]
            objects = groups[truth.image[matches.objects & (truth.labels == k)]]
            if len(objects):
                counts = np.bincount(objects, minlength=int(groups.max()) + 1).astype(np.float64)
                cases.append((groups[comparison.image[own]], matches.hit[own], counts))

    def statistic(weights: FloatArray) -> float:
        values = [_weighted(group, hit, counts @ weights, weights, RECALLS) for group, hit, counts in cases]
        known = [value for value in values if value >= 0]
        return float(np.mean(known)) if known else float("nan")

    return statistic


@kernel
def _weighted(group: IntArray, hits: BoolArray, objects: float, weights: FloatArray, recalls: FloatArray) -> float:
    """`average_precision.interpolated` where the detections of a group count with its weight; -1 without objects."""
    if objects <= 0:
        return -1.0
    n = len(hits)
    recall, precision = np.empty(n), np.empty(n)
    right, count = 0.0, 0.0
    for i in range(n):
        weight = weights[group[i]]
        count += weight
        right += weight if hits[i] else 0.0
        recall[i], precision[i] = right / objects, right / count if count > 0 else 0.0
    for i in range(n - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    total, i = 0.0, 0
    for r in range(len(recalls)):
        while i < n and recall[i] < recalls[r]:
            i += 1
        if i < n:
            total += precision[i]
    return total / len(recalls)
