"""Do two boxes of different scenes show one object, and which of them is better?

Two boxes *match* if they come from different scenes, have one class, and the metric of their polygons reaches the
threshold. `geosod.deduplication.suppress` describes what happens to matches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geosod.arrays import FloatArray, IntArray
from geosod.deduplication.boxes import Boxes
from geosod.deduplication.overlap import shared_areas
from geosod.errors import ConfigError

#: The metric may fall short of the threshold by this much. Boxes that overlap by exactly one half in pixels do not
#: quite do so after their corners have been projected.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class MatchRule:
    """When boxes of two scenes show one object, and which of them is kept.

    Attributes:
        prefer: "score" keeps the box with the highest score, "newest" that of the latest scene.
        metric: "iou", intersection over union, or "ios", intersection over the smaller area.
        threshold: boxes match if the metric reaches this value, in (0, 1], with a tolerance of 1e-6.
        class_agnostic: whether boxes of different classes may match.

    Raises:
        ConfigError: a field has an invalid value.
    """

    prefer: Literal["score", "newest"] = "score"
    metric: Literal["iou", "ios"] = "iou"
    threshold: float = 0.5
    class_agnostic: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (
            ("prefer", self.prefer, ("score", "newest")),
            ("metric", self.metric, ("iou", "ios")),
        ):
            if value not in known:
                raise ConfigError(f"{name} = {value!r} is not known; choose one of {', '.join(known)}")
        if not (math.isfinite(self.threshold) and 0 < self.threshold <= 1):
            raise ConfigError(f"merge threshold {self.threshold} must be greater than 0 and at most 1, such as 0.5")


def match_values(boxes: Boxes, a: IntArray, b: IntArray, rule: MatchRule, *, full_circle: float | None) -> FloatArray:
    """The metric of pairs of boxes, 0 where they do not match.

    The polygons are compared, not their bounds, in the plane of the CRS. IoU and IoS are the same on every map that is
    affine at the scale of a box. Beyond 80° of latitude, polygons given in degrees are compared on a map about the
    pole. If one of the boxes is truncated by its scene's edge, the metric is intersection over the area of the
    truncated one, since the visible fragment lies within the whole object. If both are, it is intersection over the
    smaller area.

    Args:
        boxes: boxes of any number of scenes.
        a, b: (M,) int64, pairs of boxes of different scenes, of one class unless classes are ignored.
        rule: when they match.
        full_circle: 360° in units of the CRS if it is geographic, else None.

    Returns:
        (M,) float64; a value depends on the two boxes alone, not on their order.
    """
    swap = boxes.scene[a] > boxes.scene[b]
    a, b = np.where(swap, b, a), np.where(swap, a, b)
    shared, first, second = shared_areas(boxes.wkb, a, b, full_circle=full_circle)
    truncated_a, truncated_b = boxes.truncated[a], boxes.truncated[b]
    smaller = np.minimum(first, second)
    whole = first + second - shared if rule.metric == "iou" else smaller
    both = np.where(truncated_a & truncated_b, smaller, whole)
    over = np.where(truncated_a & ~truncated_b, first, np.where(truncated_b & ~truncated_a, second, both))
    value = np.divide(shared, over, out=np.zeros_like(shared), where=over > 0)
    return np.where((shared > 0) & (value >= rule.threshold - ROUNDING), value, 0.0)


def ranking(boxes: Boxes, chosen: IntArray, dates: IntArray, rule: MatchRule) -> IntArray:
    """(K,) int64, some boxes from best to worst: whole ones before truncated ones, then by `MatchRule.prefer`.

    "score": descending score, then descending date. "newest": descending date, then descending score. Ties in both
    are broken by scene id, then detection id.

    Args:
        boxes: the boxes.
        chosen: (K,) int64, those to rank.
        dates: (S,) int64, microseconds since 1970 of each scene; the minimum int64 if unknown, which ranks last.
        rule: what to prefer.
    """
    columns = {
        "truncated": pa.array(boxes.truncated[chosen].astype(np.int8)),
        "score": pa.array(boxes.score[chosen]),
        "date": pa.array(dates[boxes.scene[chosen]]),
        "scene": pa.array(boxes.scene[chosen]),
        "id": boxes.ids.take(pa.array(chosen)),
    }
    values = [("score", "descending"), ("date", "descending")]
    values = values if rule.prefer == "score" else values[::-1]
    keys = [("truncated", "ascending"), *values, ("scene", "ascending"), ("id", "ascending")]
    order: IntArray = chosen[pc.sort_indices(pa.table(columns), sort_keys=keys).to_numpy()]
    return order
