"""Choose crops that are worth labelling and unlike each other: greedy farthest-first, weighted by their worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geosod.arrays import FloatArray, IntArray

#: Features that vary less, relative to their mean, say nothing.
_MIN_SPREAD = 1e-6
#: Crops that are nearer to a chosen one than this show the same; those that are farther than `FARTHEST` are as new as
#: those at that distance, or crops of clouds and edges would always be chosen.
_SAME, FARTHEST = 1e-4, 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """Crops in the order in which they were chosen.

    Attributes:
        rows: (M,) of the candidates.
        novelty: (M,) distance to the nearest crop that is known or was chosen before, at most `FARTHEST`; 1 for the
            first one where none is known.
    """

    rows: IntArray
    novelty: FloatArray


def choose(worth: FloatArray, features: FloatArray, known: FloatArray, count: int) -> Chosen:
    """Choose crops one by one: each time that with the highest product of worth and squared novelty.

    Novelty is the distance to the nearest known or chosen crop, in units of the distance of two crops at random. With
    equal worth this is farthest-first traversal (Gonzalez 1985), whose choice covers the candidates with at most twice
    the smallest possible radius; the square is that of k-means++ (Arthur and Vassilvitskii 2007), of which this is the
    greedy form. The first of equal candidates is chosen, so that the result depends on their order alone.

    Args:
        worth: (N,) at least 0.
        features: (N, D) vectors of the candidates.
        known: (K, D) vectors of what needs no labels; K may be 0.
        count: maximum number of crops. Those of worth 0, and those that look like a known or chosen one, are not
            chosen.
    """
    both = _standardised(np.concatenate([features, known]) if len(known) else features)
    mine, others = both[: len(features)], both[len(features) :]
    novelty = np.full(len(mine), FARTHEST if len(others) else 1.0)
    for other in others:
        np.minimum(novelty, _distances(mine, other), out=novelty)
    left, chosen, values = np.array(worth, np.float64), list[int](), list[float]()
    while len(chosen) < min(count, len(mine)):
        gain = left * np.where(novelty > _SAME, novelty**2, 0)
        best = int(gain.argmax())
        if gain[best] <= 0:
            break
        values.append(float(novelty[best]))
        if not chosen and not len(others):
            novelty[:] = FARTHEST
        chosen.append(best)
        left[best] = 0
        np.minimum(novelty, _distances(mine, mine[best]), out=novelty)
    return Chosen(np.array(chosen, np.int64), np.array(values))


def _standardised(features: FloatArray) -> FloatArray:
    """Features with mean 0 and standard deviation 1 each, divided so that two rows are 1 apart on average (RMS)."""
    values = features.astype(np.float64)
    spread, size = values.std(axis=0), np.abs(values).mean(axis=0)
    varying = spread > _MIN_SPREAD * np.maximum(size, _MIN_SPREAD)
    if not varying.any():
        return np.zeros((len(values), 1))
    values = (values[:, varying] - values[:, varying].mean(axis=0)) / spread[varying]
    return np.asarray(values / np.sqrt(2 * varying.sum()))


def _distances(rows: FloatArray, other: FloatArray) -> FloatArray:
    return np.asarray(np.sqrt(((rows - other) ** 2).sum(axis=1)))
