"""The rule of merging: which boxes count as the same object, and which method merges them."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from geosod.errors import ConfigError, did_you_mean

Metric = Literal["iou", "ios"]
Decay = Literal["gaussian", "linear"]
PerClass = Mapping[int, float] | Iterable[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class MergeRule:
    """When two boxes are the same object, and how they are merged. An immutable, hashable value.

    Attributes:
        method: name of an entry of `geosod.merging.methods.METHODS`; looked up when boxes are merged.
        metric: "iou", intersection over union, or "ios", intersection over the smaller area.
        threshold: boxes match where the metric reaches this value, in (0, 1].
        class_agnostic: whether boxes of different classes may match. The metric must then reach the thresholds of
            both classes.
        sigma: width of the Gaussian decay of "soft_nms", greater than 0.
        min_score: "soft_nms" drops boxes whose score falls below this value, in [0, 1].
        per_class: thresholds of single classes, by label id, which replace `threshold`. Given as a mapping or as
            pairs, stored as pairs ``(label, threshold)`` in ascending order.
        decay: how "soft_nms" lowers scores: "gaussian", at every overlap, or "linear", of matching boxes only.
        borders: whether fragments are assigned to whole objects and stitched, see `geosod.merging.borders`;
            otherwise they are treated as ordinary boxes.
        margin: pixels by which a fragment may end before the edge of its tile, and by which it may stick out of the
            whole object.
        gap: pixels between two fragments on either side of a shared tile edge below which they may be stitched.
            For tiles that do not overlap, or that overlap by at most twice the margin.
        across_levels: whether boxes of the same `Detections.level` never match, to merge levels each of which was
            merged before. A cluster of "wbf" then takes one box of each level.

    Raises:
        ConfigError: a field has an invalid value. The name of the method is checked when it is looked up.
    """

    method: str = "nms"
    metric: Metric = "iou"
    threshold: float = 0.5
    class_agnostic: bool = False
    sigma: float = 0.5
    min_score: float = 0.001
    per_class: tuple[tuple[int, float], ...] = ()
    decay: Decay = "gaussian"
    borders: bool = True
    margin: float = 0.0
    gap: float = 0.0
    across_levels: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "per_class", _pairs(self.per_class))
        _check_choice("metric", self.metric, ("iou", "ios"))
        _check_choice("decay", self.decay, ("gaussian", "linear"))
        for name in ("class_agnostic", "borders", "across_levels"):
            if not isinstance(value := getattr(self, name), bool):
                raise ConfigError(f"Merging {name} {value!r} must be True or False.")
        for name in ("threshold", "sigma", "min_score", "margin", "gap"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        _check_threshold("threshold", self.threshold)
        for label, threshold in self.per_class:
            _check_threshold(f"threshold of class {label},", threshold)
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ConfigError(f"Merging sigma {self.sigma} must be greater than 0, such as 0.5.")
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"Merging min_score {self.min_score} must be from 0 to 1, such as 0.001.")
        for name, value in (("margin", self.margin), ("gap", self.gap)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"Merging {name} {value} must be a number of pixels of at least 0, such as 2.")

    @property
    def min_threshold(self) -> float:
        """The lowest threshold of any class."""
        return min([float(self.threshold), *(t for _, t in self.per_class)])


def _pairs(per_class: Any) -> tuple[tuple[int, float], ...]:
    items = per_class.items() if isinstance(per_class, Mapping) else per_class or ()
    try:
        pairs = tuple(sorted((operator.index(label), float(threshold)) for label, threshold in items))
    except (TypeError, ValueError):
        raise ConfigError(
            f"per_class {per_class!r} must map integer label ids to thresholds, such as {{0: 0.4}}."
        ) from None
    if len({label for label, _ in pairs}) < len(pairs):
        raise ConfigError(f"per_class {per_class!r} has a label id twice; give each class one threshold.")
    return pairs


def _check_choice(what: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        listed = ", ".join(choices)
        raise ConfigError(f"Unknown merging {what} {value!r}; choose one of {listed}{did_you_mean(value, choices)}.")


def _number(what: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"Merging {what} {value!r} is not a number.") from None


def _check_threshold(what: str, value: float) -> None:
    if not (math.isfinite(value) and 0 < value <= 1):
        raise ConfigError(f"Merging {what} {value} must be greater than 0 and at most 1, such as 0.5.")
