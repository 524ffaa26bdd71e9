"""Merging piece by piece, with the result of merging everything at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geosod.errors import ConfigError
from geosod.merging.order import canonical_order
from geosod.merging.rule import METHODS, MergeRule
from geosod.types import BoolArray, Detections, Window


@dataclass(frozen=True, slots=True)
class Settled:
    """What a piece of a scene came to.

    Attributes:
        settled: merged boxes that no box outside the piece can change, in canonical order.
        open: raw boxes whose fate depends on other pieces, unchanged, in canonical order.
    """

    settled: Detections
    open: Detections


def settle(detections: Detections, core: Window, rule: MergeRule, *, whole: bool = False) -> Settled:
    """Merge the connected components that cannot meet boxes of other pieces; hand back the rest.

    A component of which every box lies inside the closed rectangle `core` is final, provided that the
    boxes of other pieces are clipped to their tiles and that no such tile reaches into the core.

    Args:
        detections: all open boxes of the piece, in any order, scene frame.
        core: the part of the scene that no tile outside the piece reaches.
        rule: how to merge.
        whole: the boxes are all there are, so that every component is final, wherever it lies.

    Raises:
        ConfigError: a box or score is not finite, or a box is inverted.
    """
    check(detections)
    # -0.0 equals 0.0 in every comparison but is told apart by its bits, and so would be the results.
    clean = detections.with_columns(boxes=detections.boxes + 0.0, scores=detections.scores + np.float32(0))
    leaving = np.zeros(len(clean), np.bool_) if whole else _leaving(clean, core)
    merged, is_open = METHODS[rule.method](clean, leaving, rule)
    rest = clean[np.flatnonzero(is_open)]
    return Settled(merged, rest[canonical_order(rest)])


def merge_group(children_open: Sequence[Detections], core: Window, rule: MergeRule, *, whole: bool = False) -> Settled:
    """Settle the open boxes of neighbouring pieces together.

    Args:
        children_open: open boxes of each piece, in any order.
        core: the part of the scene that no tile outside the group reaches.
        rule: how to merge.
        whole: the group is the last one, so that every component is final.

    Raises:
        ConfigError: a box or score is not finite, or a box is inverted.
    """
    return settle(Detections.concat(children_open), core, rule, whole=whole)


def check(detections: Detections) -> None:
    """Refuse boxes that cannot be merged.

    Raises:
        ConfigError: a coordinate or score is NaN or infinite, or a box ends before it begins.
    """
    boxes = detections.boxes
    unusable = np.count_nonzero(~np.isfinite(boxes).all(axis=1))
    unscored = np.count_nonzero(~np.isfinite(detections.scores))
    inverted = np.count_nonzero((boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1]))
    if unusable or unscored or inverted:
        raise ConfigError(
            f"Of {len(boxes)} boxes, {unusable} have coordinates that are NaN or infinite, {unscored} have such "
            f"scores, and {inverted} are inverted (x1 < x0 or y1 < y0). Drop or mend them before merging."
        )


def _leaving(detections: Detections, core: Window) -> BoolArray:
    x0, y0, x1, y1 = detections.boxes.T
    return (x0 < core.col) | (y0 < core.row) | (x1 > core.right) | (y1 > core.bottom)  # type: ignore[no-any-return]
