"""Merging piece by piece, with the result of merging everything at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, FloatArray
from geosod.detections import EXCLUDED, SIDES, Detections
from geosod.errors import ConfigError
from geosod.merging.borders import add_fragments, sides
from geosod.merging.graph import flood, places_of, tally
from geosod.merging.index import build_index, restore
from geosod.merging.kernel import kernel
from geosod.merging.match import around
from geosod.merging.order import canonical_order, in_order
from geosod.merging.rule import METHODS, MergeRule
from geosod.scene import Window


@dataclass(frozen=True, slots=True)
class Settled:
    """What a piece of a scene came to.

    Attributes:
        settled: merged boxes that no box outside the piece can change, in canonical order.
        open: raw boxes whose fate depends on other pieces, unchanged, in canonical order.
    """

    final: Detections
    pending: Detections


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
    clean = check(detections)
    leaving = np.zeros(len(clean), np.bool_) if whole else _leaving(clean, core, rule)
    return _merge(clean, leaving, rule)


def _merge(detections: Detections, leaving: BoolArray, rule: MergeRule) -> Settled:
    """Merge the components without a leaving box.

    Boxes are ranked: whole objects before what is near the rim of its tile and before fragments, unless borders
    count for nothing; then by descending score, then by the remaining columns as in `Detections.canonical_order`.
    """
    graph, index = rule.graph, build_index(detections, borders=rule.borders)
    if leaving.any() and not math.isfinite(graph.reach):
        return Settled(Detections.empty(), in_order(detections))
    is_pending = flood(index, leaving, graph.match, graph.near)
    ranking = canonical_order(detections, fragments_last=rule.borders)
    ranking = ranking[~is_pending[ranking]] if is_pending.any() else ranking
    fragment = detections.fragment if rule.borders else np.zeros(len(detections), np.uint8)
    apart = fragment & (SIDES | EXCLUDED) > 0
    some = bool(apart.any())
    whole = ranking[~apart[ranking]] if some else ranking
    if some or graph.near:
        restore(index, ~(is_pending | apart)[index.order])
    outcome = METHODS[rule.method].run(detections, index, whole, rule)
    if some:
        outcome = add_fragments(outcome, detections[index.order], index, places_of(index, ranking), rule.match)
    heads = np.flatnonzero(outcome.owner == np.arange(len(outcome.owner)))
    columns = {name: column[heads] for name, column in outcome.columns.items()}
    columns["n_merged"] = tally(outcome.owner, detections.n_merged[index.order])[heads]
    kept = detections[index.order[heads]].with_columns(**columns)
    return Settled(in_order(kept), in_order(detections[np.flatnonzero(is_pending)]))


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


def check(detections: Detections) -> Detections:
    """Refuse boxes that cannot be merged.

    Returns:
        The boxes, with 0.0 for -0.0: the two are equal in every comparison, but told apart by their bits, and
        so would be the results.

    Raises:
        ConfigError: a coordinate or score is NaN or infinite, or a box ends before it begins.
    """
    unusable, unscored, inverted, negative = _survey(detections.boxes, detections.scores)
    if unusable or unscored or inverted:
        raise ConfigError(
            f"Of {len(detections)} boxes, {unusable} have coordinates that are NaN or infinite, {unscored} have such "
            f"scores, and {inverted} are inverted (x1 < x0 or y1 < y0). Drop or mend them before merging."
        )
    if not negative:
        return detections
    return detections.with_columns(boxes=detections.boxes + 0.0, scores=detections.scores + np.float32(0))


@kernel
def _survey(boxes: FloatArray, scores: npt.NDArray[np.float32]) -> Any:
    """How many boxes have unusable coordinates, scores, or are inverted; and how many a zero that is negative."""
    unusable = unscored = inverted = negative = 0
    for i in range(len(boxes)):
        finite, zero = True, scores[i] == 0 and np.signbit(scores[i])
        for corner in range(4):
            finite = finite and np.isfinite(boxes[i, corner])
            zero = zero or (boxes[i, corner] == 0 and np.signbit(boxes[i, corner]))
        unusable += not finite
        unscored += not np.isfinite(scores[i])
        inverted += boxes[i, 2] < boxes[i, 0] or boxes[i, 3] < boxes[i, 1]
        negative += zero
    return unusable, unscored, inverted, negative


def _leaving(detections: Detections, core: Window, rule: MergeRule) -> BoolArray:
    """(N,) bool, True where a box may meet boxes that are not in the piece."""
    b, reach = detections.boxes, rule.graph.reach
    low, high = b[:, :2] - (core.col, core.row), (core.right, core.bottom) - b[:, 2:]
    nearest = np.minimum(low, high)
    leaving = nearest < 0
    piece = (sides(detections) > 0)[:, None] if rule.borders else np.zeros((len(b), 1), np.bool_)
    if (beyond := around(rule.match)) > 0:
        # A little more, against rounding.
        leaving |= nearest < 1.001 * beyond
    if reach > 0:
        with np.errstate(invalid="ignore"):
            far = reach * (b[:, 2:] - b[:, :2])
        leaving |= (nearest <= far) & ~piece
    return np.asarray(leaving.any(axis=1), np.bool_)
