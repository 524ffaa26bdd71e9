"""Which boxes are kept and which are dropped, going down the ranking.

The best box that is left is kept. From every other scene it suppresses one of the boxes that it matches and that are
left: the whole box that it overlaps best. So a kept box never suppresses two whole boxes of one scene, which would be
two objects. If it matches only truncated boxes in a scene, it suppresses all of them as fragments of itself; if it is
truncated too, only the one that it overlaps best.

Only the pairs that decide this are measured, and few of them are held in memory at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from geosod.arrays import BoolArray, IntArray
from geosod.compiled import njit
from geosod.deduplication.boxes import Boxes
from geosod.deduplication.candidates import CandidateIndex, Round, next_round, remove_boxes, restore_boxes
from geosod.deduplication.match import MatchRule, match_values, ranking

#: Pairs measured at a time; a single box may have more.
MAX_PAIRS = 500_000
#: Pairs measured at a time for boxes that may turn out to be dropped.
MAX_SPECULATIVE = 512
#: Boxes that may wait for others before those are measured.
MAX_WAITING = 4096


class Outcome(NamedTuple):
    """Which box was merged into which.

    Attributes:
        dropped, kept: (K,) int64, boxes, and the box that each is merged into.
        pairs: how many pairs were measured.
    """

    dropped: IntArray
    kept: IntArray
    pairs: int


def suppress(
    boxes: Boxes,
    index: CandidateIndex,
    among: BoolArray,
    dates: IntArray,
    rule: MatchRule,
    *,
    full_circle: float | None,
) -> Outcome:
    """Go down the ranking; each box that is left is kept and suppresses its matches in other scenes.

    Of the pairs of an object's boxes only those with the kept box are measured.

    Args:
        boxes: N boxes.
        index: these boxes, from `geosod.deduplication.candidates.index_candidates`.
        among: (N,) bool, the boxes to decide on: whole components.
        dates: (S,) int64, as for `ranking`.
        rule: when boxes match, and which is kept.
        full_circle: 360° in units of the CRS if it is geographic, else None.
    """
    order = ranking(boxes, np.flatnonzero(among), dates, rule)
    rank = np.empty(len(boxes), np.int64)
    rank[order] = np.arange(len(order))
    restore_boxes(index, among)
    left, dropped, kept, pairs = among.copy(), [order[:0]], [order[:0]], 0
    while len(order):
        found = next_round(
            index, order, rank, max_pairs=MAX_PAIRS, max_speculative=MAX_SPECULATIVE, max_waiting=MAX_WAITING
        )
        keepers, duplicates = _duplicates(boxes, found, rank, rule, full_circle)
        dropped.append(duplicates)
        kept.append(keepers)
        pairs += len(found.keeper)
        # A box of the round that no other suppressed is kept.
        done = np.concatenate([found.ready, duplicates])
        left[done] = False
        remove_boxes(index, done)
        order = order[left[order]]
    return Outcome(np.concatenate(dropped), np.concatenate(kept), pairs)


def _duplicates(
    boxes: Boxes, found: Round, rank: IntArray, rule: MatchRule, full_circle: float | None
) -> tuple[IntArray, IntArray]:
    """Kept boxes of a round and what each suppresses; one pair a row."""
    value = match_values(boxes, found.keeper, found.candidate, rule, full_circle=full_circle)
    matches = np.flatnonzero(value)
    keeper, candidate = found.keeper[matches], found.candidate[matches]
    sequence = np.lexsort(
        (rank[candidate], -value[matches], boxes.truncated[candidate], boxes.scene[candidate], rank[keeper])
    )
    keeper, candidate = keeper[sequence], candidate[sequence]
    suppressed = _suppressed(keeper, candidate, boxes.scene[candidate], boxes.truncated, len(boxes))
    return keeper[suppressed], candidate[suppressed]


@njit()
def _suppressed(keeper: IntArray, candidate: IntArray, scene: IntArray, truncated: BoolArray, n: int) -> BoolArray:
    """In which matches the candidate is dropped.

    Matches are sorted by keeper, then by scene, whole boxes before truncated ones, best overlap first.
    """
    chosen, gone = np.zeros(len(keeper), np.bool_), np.zeros(n, np.bool_)
    last = -1
    for pair in range(len(keeper)):
        box, other = keeper[pair], candidate[pair]
        if gone[box] or gone[other]:
            continue
        has_one = last >= 0 and keeper[last] == box and scene[last] == scene[pair]
        if has_one and (truncated[box] or not truncated[other] or not truncated[candidate[last]]):
            continue
        chosen[pair] = gone[other] = True
        last = pair
    return chosen
