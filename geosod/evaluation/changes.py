"""How average precision changes where a model is run in another way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from geosod.datasets.labels import Labels
from geosod.evaluation.average_precision import COCO_THRESHOLDS
from geosod.evaluation.found_scenes import FoundScene
from geosod.evaluation.intervals import Statistic, bootstrap, mean_average_precision
from geosod.evaluation.join import join
from geosod.evaluation.overlaps import overlaps_of

_Way = TypeVar("_Way")


@dataclass(frozen=True, slots=True)
class Change:
    """Average precision of one way, and how it differs from that of the reference.

    Attributes:
        ap, ap50: COCO's.
        ap50_change: AP50 less that of the reference.
        interval: 95 % interval of the change over images, the same drawn for both; None with fewer than five.
    """

    ap: float
    ap50: float
    ap50_change: float
    interval: tuple[float, float] | None


def changes(
    labels: Labels, found: Mapping[_Way, Sequence[FoundScene]], reference: _Way, *, max_detections: int | None = 500
) -> dict[_Way, Change]:
    """Compare ways of running a model on the same labelled images.

    Args:
        labels: labels, with classes named as those of the model.
        found: what each way found.
        reference: the way that the others are compared with.
        max_detections: as in `average_precision`.

    Raises:
        ConfigError: labels and results do not belong together.
    """
    images = 0
    ap: dict[_Way, Statistic] = {}
    ap50: dict[_Way, Statistic] = {}
    for way, scenes in found.items():
        comparison = join(labels, scenes).comparison
        overlaps, images = overlaps_of(comparison), len(comparison.truth.images)
        for thresholds, statistics in ((COCO_THRESHOLDS, ap), ((0.5,), ap50)):
            statistics[way] = mean_average_precision(
                comparison, overlaps, thresholds=thresholds, groups=np.arange(images), max_detections=max_detections
            )
    all_images, base = np.ones(images), ap50[reference]
    return {
        way: Change(
            ap[way](all_images),
            statistic(all_images),
            statistic(all_images) - base(all_images),
            None if way == reference else bootstrap(_difference(statistic, base), images),
        )
        for way, statistic in ap50.items()
    }


def _difference(one: Statistic, other: Statistic) -> Statistic:
    return lambda weights: one(weights) - other(weights)
