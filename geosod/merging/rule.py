"""What counts as the same object, and the methods that act on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from geosod.errors import ConfigError
from geosod.merging.nms import nms
from geosod.types import BoolArray, Detections

Metric = Literal["iou", "ios"]


@dataclass(frozen=True, slots=True)
class MergeRule:
    """When two boxes stand for one object, and what becomes of them.

    Attributes:
        method: name of an entry of `METHODS`.
        metric: "iou", intersection over union, or "ios", intersection over the smaller area. A whole object and
            a fragment are always measured by their intersection over the fragment, two fragments by "ios".
        threshold: boxes match where the metric reaches this value, in (0, 1].
        class_agnostic: whether boxes of different classes may match.

    Raises:
        ConfigError: a field has an unusable value.
    """

    method: str = "nms"
    metric: Metric = "iou"
    threshold: float = 0.5
    class_agnostic: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"Unknown merging method {self.method!r}; choose one of {', '.join(METHODS)}.")
        if self.metric not in ("iou", "ios"):
            raise ConfigError(f"Unknown merging metric {self.metric!r}; choose one of iou, ios.")
        if not (math.isfinite(self.threshold) and 0 < self.threshold <= 1):
            raise ConfigError(f"Merging threshold {self.threshold} must be greater than 0 and at most 1, such as 0.5.")


#: ``method(detections, leaving, rule) -> (merged, open)``. `leaving` is (N,) bool, True where a box may
#: meet boxes that are not at hand. `open` is (N,) bool, True for every box that those could influence;
#: `merged` is what the others come to, in canonical order, and must not depend on the open ones.
Method: TypeAlias = Callable[[Detections, BoolArray, MergeRule], tuple[Detections, BoolArray]]

METHODS: dict[str, Method] = {"nms": nms}
