"""The registry of merging methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from geosod.arrays import IntArray
from geosod.detections import Detections
from geosod.errors import ConfigError, did_you_mean
from geosod.merging import soft_nms, wbf
from geosod.merging.groups import Outcome
from geosod.merging.index import Index
from geosod.merging.match import Graph, match_of
from geosod.merging.nmm import greedy_nmm, nmm
from geosod.merging.nms import nms
from geosod.merging.rule import MergeRule


class Method(NamedTuple):
    """A merging method.

    Attributes:
        run: ``run(detections, index, ranking, rule)``. The index holds the boxes to merge, `ranking` has their rows,
            best first. The result in one connected component of the graph must not depend on the other components.
        graph: the graph of a rule; without one, boxes that match are connected.
        polygons: what a group of polygons becomes: "keep" the polygon of the kept box, or the "union" of the group;
            None if the method needs boxes.
    """

    run: Callable[[Detections, Index, IntArray, MergeRule], Outcome]
    graph: Callable[[MergeRule], Graph] = lambda rule: Graph(match_of(rule))
    polygons: Literal["keep", "union"] | None = "keep"


METHODS: dict[str, Method] = {
    "nms": Method(nms),
    "soft_nms": Method(soft_nms.soft_nms, soft_nms.graph),
    "nmm": Method(nmm, polygons="union"),
    "greedy_nmm": Method(greedy_nmm, polygons="union"),
    "wbf": Method(wbf.wbf, wbf.graph, polygons=None),
}


def method_of(rule: MergeRule) -> Method:
    """The method of a rule.

    Raises:
        ConfigError: there is no method of that name.
    """
    if rule.method not in METHODS:
        hint = did_you_mean(rule.method, METHODS)
        raise ConfigError(f"Unknown merging method {rule.method!r}; choose one of {', '.join(METHODS)}{hint}.")
    return METHODS[rule.method]
