"""What counts as the same object, and the methods that act on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from geosod.errors import ConfigError
from geosod.merging.nmm import greedy_nmm, nmm
from geosod.merging.nms import nms
from geosod.merging.soft_nms import soft_nms
from geosod.merging.wbf import reach, wbf
from geosod.types import BoolArray, Detections

Metric = Literal["iou", "ios"]
Decay = Literal["gaussian", "linear"]
PerClass = Mapping[int, float] | Iterable[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class MergeRule:
    """When two boxes stand for one object, and what becomes of them. Hashable; a value, not a state.

    Attributes:
        method: name of an entry of `METHODS`.
        metric: "iou", intersection over union, or "ios", intersection over the smaller area. A whole object and
            a fragment are always measured by their intersection over the fragment, two fragments by "ios".
        threshold: boxes match where the metric reaches this value, in (0, 1].
        class_agnostic: whether boxes of different classes may match; where they do, both thresholds must be reached.
        sigma: width of the Gaussian decay of "soft_nms", greater than 0.
        min_score: score below which "soft_nms" drops a box, in [0, 1].
        per_class: thresholds of classes that have their own, by label id. Given as a mapping or as pairs, kept
            as pairs ``(label, threshold)`` in ascending order.
        decay: how "soft_nms" lowers scores: "gaussian", at every overlap, or "linear", of matches.

    Raises:
        ConfigError: a field has an unusable value.
    """

    method: str = "nms"
    metric: Metric = "iou"
    threshold: float = 0.5
    class_agnostic: bool = False
    sigma: float = 0.5
    min_score: float = 0.001
    per_class: tuple[tuple[int, float], ...] = ()
    decay: Decay = "gaussian"

    def __post_init__(self) -> None:
        object.__setattr__(self, "per_class", _pairs(self.per_class))
        _choose("method", self.method, METHODS)
        _choose("metric", self.metric, ("iou", "ios"))
        _choose("decay", self.decay, ("gaussian", "linear"))
        _within("threshold", self.threshold)
        for label, threshold in self.per_class:
            _within(f"threshold of class {label},", threshold)
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ConfigError(f"Merging sigma {self.sigma} must be greater than 0, such as 0.5.")
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"Merging min_score {self.min_score} must be from 0 to 1, such as 0.001.")

    @property
    def least_threshold(self) -> float:
        """The lowest threshold of any class."""
        return min([float(self.threshold), *(t for _, t in self.per_class)])

    @property
    def reach(self) -> float:
        """How far from a box others may lie that matter to it, in sides of the box."""
        return METHODS[self.method].reach(self)


class Method(NamedTuple):
    """A way of merging.

    Attributes:
        run: ``run(detections, leaving, rule) -> (merged, open)``. `leaving` is (N,) bool, True where a box may
            meet boxes that are not at hand. `open` is (N,) bool, True for every box that those could influence;
            `merged` is what the others come to, in canonical order, and must not depend on the open ones.
        reach: how far from a box others may lie that matter to it, in sides of the box; 0 where only boxes
            that share some area do.
    """

    run: Callable[[Detections, BoolArray, MergeRule], tuple[Detections, BoolArray]]
    reach: Callable[[MergeRule], float] = lambda _: 0.0


METHODS: dict[str, Method] = {
    "nms": Method(nms),
    "soft_nms": Method(soft_nms),
    "nmm": Method(nmm),
    "greedy_nmm": Method(greedy_nmm),
    "wbf": Method(wbf, reach),
}


def _pairs(per_class: Any) -> tuple[tuple[int, float], ...]:
    items = per_class.items() if isinstance(per_class, Mapping) else per_class or ()
    try:
        pairs = tuple(sorted((int(label), float(threshold)) for label, threshold in items))
    except (TypeError, ValueError):
        raise ConfigError(f"per_class {per_class!r} must map label ids to thresholds, such as {{0: 0.4}}.") from None
    if len({label for label, _ in pairs}) < len(pairs):
        raise ConfigError(f"per_class {per_class!r} names a label twice.")
    return pairs


def _choose(what: str, value: str, among: Iterable[str]) -> None:
    if value not in among:
        raise ConfigError(f"Unknown merging {what} {value!r}; choose one of {', '.join(among)}.")


def _within(what: str, value: float) -> None:
    if not (math.isfinite(value) and 0 < value <= 1):
        raise ConfigError(f"Merging {what} {value} must be greater than 0 and at most 1, such as 0.5.")
