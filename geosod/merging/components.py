"""Merging part by part, with the same result as merging everything at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geosod.arrays import BoolArray
from geosod.detections import Detections
from geosod.errors import ConfigError
from geosod.merging.assign import assign, kept_boxes
from geosod.merging.blocks import BLOCK
from geosod.merging.borders import touching_sides
from geosod.merging.graph import flood
from geosod.merging.index import Index, build_index
from geosod.merging.match import match_of, search_margin
from geosod.merging.methods import method_of
from geosod.merging.order import in_order
from geosod.merging.rule import MergeRule
from geosod.merging.validate import check_boxes
from geosod.scene import Window

#: Levels of scale that can be merged with each other: as many as an integer has bits.
MAX_LEVELS = 62


@dataclass(frozen=True, slots=True)
class Settled:
    """The result of merging a part of a scene.

    Attributes:
        final: merged boxes that no box outside the part can change, in canonical order.
        pending: raw boxes that may depend on other parts, unchanged, in canonical order.
    """

    final: Detections
    pending: Detections


def settle(detections: Detections, core: Window, rule: MergeRule, *, whole: bool = False) -> Settled:
    """Merge the connected components that cannot meet boxes of other parts; return the others unchanged.

    A component is final if all its boxes lie inside the closed rectangle `core`. This requires that the boxes of
    other parts are clipped to their tiles and that none of these tiles reaches into the core.

    Args:
        detections: all pending boxes of the part, in any order, scene frame.
        core: the part of the scene, in pixels, that no tile outside the part reaches.
        rule: how to merge.
        whole: the boxes are all there are, so that every component is final, wherever it lies.

    Raises:
        ConfigError: a box or score is not finite, a box is inverted, or the method is unknown.
    """
    graph = method_of(rule).graph(rule)
    if not len(detections):  # most small scenes, and what is pending of a single unit
        return Settled(detections, detections)
    boxes = check_boxes(detections)
    index = _index(boxes, rule)
    leaving = np.zeros(len(boxes), np.bool_) if whole else _leaving(boxes, core, rule, graph.reach)
    if leaving.any() and not math.isfinite(graph.reach):
        return Settled(Detections.empty(), in_order(boxes))
    pending = flood(index, leaving, graph.match, graph.near)
    final, _ = kept_boxes(boxes, index, assign(boxes, index, pending, rule))
    return Settled(in_order(final), in_order(boxes[np.flatnonzero(pending)]))


def load_kernels(rule: MergeRule) -> None:
    """Load the compiled code that `settle` uses for few and for many boxes, or compile it where it is not cached.

    It takes half a second to load, and some ten to compile: an engine does it in a thread while detectors work.
    """
    side = math.isqrt(BLOCK) + 8
    corners = 256.0 * np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    corners = np.concatenate([corners, corners + 1])
    n = len(corners)
    # All of them in pairs; the first ones form chains, are fragments of all kinds, or lie outside the core.
    sizes, kind = np.where(np.arange(n) < 8 * side, 300.0, 9.0)[:, None], np.arange(n) % 16 * (np.arange(n) < 4 * side)
    boxes = Detections(
        boxes=np.hstack([corners, corners + sizes]),
        scores=np.full(n, 0.5, np.float32),
        labels=np.zeros(n, np.int32),
        fragment=kind.astype(np.uint8),
    )
    settle(boxes, Window(0, 256, 256 * side, 256 * side), rule)


def merge_group(
    children_pending: Sequence[Detections], core: Window, rule: MergeRule, *, whole: bool = False
) -> Settled:
    """Settle the pending boxes of neighbouring parts together.

    Args:
        children_pending: pending boxes of each part, in any order, scene frame.
        core: the part of the scene, in pixels, that no tile outside the group reaches.
        rule: how to merge.
        whole: the group is the last one, so that every component is final.

    Raises:
        ConfigError: a box or score is not finite, a box is inverted, or the method is unknown.
    """
    return settle(Detections.concat(children_pending), core, rule, whole=whole)


def _index(boxes: Detections, rule: MergeRule) -> Index:
    if not rule.across_levels:
        return build_index(boxes, borders=rule.borders)
    levels, number = np.unique(boxes.level, return_inverse=True)
    if len(levels) > MAX_LEVELS:
        raise ConfigError(f"boxes are of {len(levels)} levels; across_levels takes at most {MAX_LEVELS}")
    return build_index(boxes, borders=rule.borders, group=(number.reshape(-1) + 1).astype(np.uint8))


def _leaving(detections: Detections, core: Window, rule: MergeRule, reach: float) -> BoolArray:
    """(N,) bool, True where a box may meet boxes that are not in the part."""
    b = detections.boxes
    low, high = b[:, :2] - (core.col, core.row), (core.right, core.bottom) - b[:, 2:]
    nearest = np.minimum(low, high)
    leaving = nearest < 0
    if (margin := search_margin(match_of(rule))) > 0:
        # A little more, against rounding.
        leaving |= nearest < 1.001 * margin
    if reach > 0:
        is_fragment = (touching_sides(detections) > 0)[:, None] & rule.borders
        with np.errstate(invalid="ignore"):
            far = reach * (b[:, 2:] - b[:, :2])
        leaving |= (nearest <= far) & ~is_fragment
    return np.asarray(leaving.any(axis=1), np.bool_)
