"""What counts as the same object, and the methods that act on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from geosod.arrays import IntArray
from geosod.detections import Detections
from geosod.errors import ConfigError
from geosod.merging import soft_nms, wbf
from geosod.merging.index import Index
from geosod.merging.match import Graph, Match, edges
from geosod.merging.nmm import greedy_nmm, nmm
from geosod.merging.nms import nms
from geosod.merging.order import Outcome

Metric = Literal["iou", "ios"]
Decay = Literal["gaussian", "linear"]
PerClass = Mapping[int, float] | Iterable[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class MergeRule:
    """When two boxes stand for one object, and what becomes of them. Hashable; a value, not a state.

    Attributes:
        method: name of an entry of `METHODS`.
        metric: "iou", intersection over union, or "ios", intersection over the smaller area.
        threshold: boxes match where the metric reaches this value, in (0, 1].
        class_agnostic: whether boxes of different classes may match; where they do, both thresholds must be reached.
        sigma: width of the Gaussian decay of "soft_nms", greater than 0.
        min_score: score below which "soft_nms" drops a box, in [0, 1].
        per_class: thresholds of classes that have their own, by label id. Given as a mapping or as pairs, kept
            as pairs ``(label, threshold)`` in ascending order.
        decay: how "soft_nms" lowers scores: "gaussian", at every overlap, or "linear", of matches.
        borders: whether fragments give way to whole objects and are put together, see `geosod.merging.borders`;
            otherwise they are boxes like all others.
        margin: pixels by which fragments may end before the edge of their tile, and stand out of the whole object.
        gap: pixels between fragments on both sides of an edge that tiles share, below which they may be one object;
            for tiles that do not overlap, or by no more than twice the margin.

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
    borders: bool = True
    margin: float = 0.0
    gap: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "per_class", _pairs(self.per_class))
        _choose("method", self.method, METHODS)
        _choose("metric", self.metric, ("iou", "ios"))
        _choose("decay", self.decay, ("gaussian", "linear"))
        for name in ("threshold", "sigma", "min_score", "margin", "gap"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        _within("threshold", self.threshold)
        for label, threshold in self.per_class:
            _within(f"threshold of class {label},", threshold)
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

    @property
    def match(self) -> Match:
        """When two boxes match."""
        return edges(self)

    @property
    def graph(self) -> Graph:
        """Along what the method acts."""
        return METHODS[self.method].graph(self)


class Method(NamedTuple):
    """A way of merging.

    Attributes:
        run: ``run(detections, index, ranking, rule)``. The index holds the boxes that are to be merged, `ranking` their
            rows, best first. What becomes of a connected component of the graph must depend on nothing outside it.
        graph: along what it acts.
    """

    run: Callable[[Detections, Index, IntArray, MergeRule], Outcome]
    graph: Callable[[MergeRule], Graph] = lambda rule: Graph(edges(rule))


METHODS: dict[str, Method] = {
    "nms": Method(nms),
    "soft_nms": Method(soft_nms.soft_nms, soft_nms.graph),
    "nmm": Method(nmm),
    "greedy_nmm": Method(greedy_nmm),
    "wbf": Method(wbf.wbf, wbf.graph),
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


def _number(what: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"Merging {what} {value!r} is not a number.") from None


def _within(what: str, value: float) -> None:
    if not (math.isfinite(value) and 0 < value <= 1):
        raise ConfigError(f"Merging {what} {value} must be greater than 0 and at most 1, such as 0.5.")
