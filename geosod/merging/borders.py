"""Pieces of objects at the borders of tiles: they give way to whole objects, or are put together.

Each tile shows an object cut at the tile's edge. A box that touches an interior edge is a *fragment*. If some box
shows the whole object, the fragment has nothing to add. If none does, the object is larger than the overlap of the
tiles, and its fragments agree on the ground that their tiles share: they are united, whatever the method.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from geosod.arrays import FloatArray, IntArray
from geosod.detections import EXCLUDED, SIDES, Detections
from geosod.merging.graph import components, take
from geosod.merging.index import Index, restore
from geosod.merging.kernel import kernel
from geosod.merging.match import Match
from geosod.merging.nmm import united
from geosod.merging.order import Outcome


def sides(detections: Detections) -> npt.NDArray[np.uint8]:
    """(N,) uint8, the sides on which boxes are cut by their tile; not 0 for fragments."""
    return detections.fragment & np.uint8(SIDES)


def add_fragments(outcome: Outcome, placed: Detections, index: Index, ranked: IntArray, match: Match) -> Outcome:
    """What merging whole boxes came to, and fragments.

    Args:
        outcome: of the whole boxes.
        placed: N boxes in the order of the index.
        index: of them; which of them it holds at the moment does not matter.
        ranked: places of the boxes that are to be merged, best first.
        match: the edges.
    """
    merged, touching = outcome.owner.copy(), sides(placed) > 0
    aside = ranked[(placed.fragment[ranked] & EXCLUDED > 0) & ~touching[ranked]]
    merged[aside] = aside
    takers = ranked[(merged[ranked] >= 0) & ~touching[ranked]]
    owner = _given(index, takers, ranked[touching[ranked]], match)
    given = owner >= 0
    own = given & touching[owner]
    columns = dict(outcome.columns)
    for name, values in put_together(placed, np.where(own, owner, -1)).items():
        column = columns.get(name, getattr(placed, name)).copy()
        column[own] = values[own]
        columns[name] = column
    merged[own] = owner[own]
    absorbed = given & ~own
    merged[absorbed] = merged[owner[absorbed]]
    return Outcome(merged, columns)


def _given(index: Index, whole: IntArray, pieces: IntArray, match: Match) -> IntArray:
    """Give fragments to the whole objects that they match, and group the others.

    Args:
        index: N boxes; which of them it holds at the moment does not matter.
        whole: places of boxes that fragments may be given to, best first.
        pieces: places of the fragments, best first.
        match: the edges.

    Returns:
        (N,) int64, for each fragment the best-ranked place of `whole` that it matches, or else that of the fragments
        that it is connected with through fragments alone; -1 for other boxes. By place.
    """
    alive = np.zeros(len(index.order), np.bool_)
    alive[pieces] = True
    restore(index, alive)
    owner = np.full(len(alive), -1)
    _absorb(index, whole, match, len(pieces), owner)
    left = pieces[owner[pieces] < 0]
    label, starts = components(index, match, len(left))
    _lead(label, left, np.full(len(starts) - 1, -1), owner)
    return owner


def put_together(detections: Detections, owner: IntArray) -> dict[str, npt.NDArray[Any]]:
    """Columns of what fragments come to: the smallest box around each group, its highest score.

    A side of that box counts as cut by a tile where the fragment that reaches so far is.

    Args:
        detections: N boxes.
        owner: (N,) int64, the fragment that stands for each fragment, -1 for other boxes.
    """
    columns = united(detections.boxes, detections.scores.copy(), detections.truncated.copy(), owner)
    fragment = detections.fragment.copy()
    _open_sides(detections.boxes, columns["boxes"], detections.fragment, owner, fragment)
    return columns | {"fragment": fragment}


@kernel
def _absorb(index: Index, whole: IntArray, match: Match, left: int, owner: IntArray) -> None:
    found = np.empty(len(owner), np.int64)
    for i in whole:
        taken = take(index, i, match, found) if left else 0
        left -= taken
        for f in range(taken):
            owner[found[f]] = i


@kernel
def _lead(label: IntArray, ranked: IntArray, heads: IntArray, owner: IntArray) -> None:
    for place in ranked:
        component = label[place]
        if heads[component] < 0:
            heads[component] = place
        owner[place] = heads[component]


@kernel
def _open_sides(
    boxes: FloatArray,
    hulls: FloatArray,
    fragment: npt.NDArray[np.uint8],
    owner: IntArray,
    left: npt.NDArray[np.uint8],
) -> None:
    for i in range(len(owner)):
        if owner[i] == i:
            left[i] = 0
    for i in range(len(owner)):
        if owner[i] >= 0:
            for side in range(4):
                # The bits are in the order of the corners.
                if boxes[i, side] == hulls[owner[i], side]:
                    left[owner[i]] |= fragment[i] & (1 << side)
