"""What becomes of boxes, from the best on; no more pairs are measured than are needed for it, and few are held."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from geosod.arrays import BoolArray, IntArray
from geosod.deduplication.crowd import Crowd, Round, next_round, put_back, take_out
from geosod.deduplication.match import Boxes, MosaicRule, measured, ranking

#: Pairs that are measured at a time, or the pairs of one box if these are more.
PAIRS = 500_000
#: Pairs measured at a time for boxes that may turn out not to be kept.
WASTE = 512
#: Boxes that may wait for others before those are measured.
PATIENCE = 4096


class Outcome(NamedTuple):
    """What was merged into what.

    Attributes:
        dropped, kept: (K,) int64, boxes, and the box that each is merged into.
        pairs: how many pairs were measured.
    """

    dropped: IntArray
    kept: IntArray
    pairs: int


def settle(
    boxes: Boxes, crowd: Crowd, among: BoolArray, dates: IntArray, rule: MosaicRule, *, turn: float | None
) -> Outcome:
    """Go down the ranking: each box that is left is kept, and takes what it matches of other scenes.

    Of the pairs of an object's boxes only those with the kept one are measured.

    Args:
        boxes: N boxes.
        crowd: these boxes, from `geosod.deduplication.crowd.gather`.
        among: (N,) bool, those that are settled: whole components.
        dates: as `ranking`.
        rule: when boxes match, and which stay.
        turn: units of a full turn where the CRS is geographic, else None.
    """
    order = ranking(boxes, np.flatnonzero(among), dates, rule)
    rank = np.empty(len(boxes), np.int64)
    rank[order] = np.arange(len(order))
    put_back(crowd, among)
    left, dropped, kept, pairs = among.copy(), [order[:0]], [order[:0]], 0
    while len(order):
        found = next_round(crowd, order, rank, pairs=PAIRS, waste=WASTE, patience=PATIENCE)
        heirs, gone = _taken(boxes, found, rank, rule, turn)
        dropped.append(gone)
        kept.append(heirs)
        pairs += len(found.keeper)
        # A box whose turn it was is kept, if no other took it.
        done = np.concatenate([found.ready, gone])
        left[done] = False
        take_out(crowd, done)
        order = order[left[order]]
    return Outcome(np.concatenate(dropped), np.concatenate(kept), pairs)


def _taken(
    boxes: Boxes, found: Round, rank: IntArray, rule: MosaicRule, turn: float | None
) -> tuple[IntArray, IntArray]:
    """Boxes of a round that are kept, and what each takes; one pair a row."""
    value = measured(boxes, found.keeper, found.twin, rule, turn=turn)
    some = np.flatnonzero(value)
    keeper, twin = found.keeper[some], found.twin[some]
    sequence = np.lexsort((rank[twin], -value[some], boxes.truncated[twin], boxes.scene[twin], rank[keeper]))
    keeper, twin = keeper[sequence], twin[sequence]
    takes = _claim(keeper, twin, boxes.scene[twin], boxes.truncated, len(boxes))
    return keeper[takes], twin[takes]


@numba.njit(cache=True)
def _claim(keeper: IntArray, twin: IntArray, scene: IntArray, cut: BoolArray, n: int) -> BoolArray:
    """Which of the matches are made use of; they come by keeper, then scene, whole boxes first, the best first."""
    takes, taken = np.zeros(len(keeper), np.bool_), np.zeros(n, np.bool_)
    last = -1
    for pair in range(len(keeper)):
        box, other = keeper[pair], twin[pair]
        if taken[box] or taken[other]:
            continue
        served = last >= 0 and keeper[last] == box and scene[last] == scene[pair]
        if served and (cut[box] or not cut[other] or not cut[twin[last]]):
            continue
        takes[pair] = taken[other] = True
        last = pair
    return takes
