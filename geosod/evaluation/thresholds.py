"""Score thresholds, chosen on labelled images."""

from __future__ import annotations

import numpy as np

from geosod.arrays import BoolArray, FloatArray
from geosod.errors import ConfigError
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.matching import match
from geosod.evaluation.overlaps import Overlaps


def best_threshold(hits: BoolArray, scores: FloatArray, objects: int) -> float:
    """The score from which on detections have the highest F-score; 1.0 without any.

    Args:
        hits: (M,) whether each detection found an object.
        scores: (M,).
        objects: number of objects.
    """
    values, found, count = _at_scores(hits, scores)
    if not len(values):
        return 1.0
    return float(values[int((2 * found / (count + objects)).argmax())])


def precise_threshold(hits: BoolArray, scores: FloatArray, precision: float) -> float | None:
    """The lowest score from which on detections have at least a precision; None where there is none.

    Args:
        hits: (M,) whether each detection found an object.
        scores: (M,).
        precision: from 0 to 1.
    """
    values, found, count = _at_scores(hits, scores)
    enough = np.flatnonzero(found >= precision * count)
    return float(values[enough[-1]]) if len(enough) else None


def _at_scores(hits: BoolArray, scores: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Scores that occur, descending; and the hits and all detections with at least each of them."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True) if len(order) else np.zeros(0, np.bool_)
    found = np.cumsum(hits[order])
    return scores[order][last], found[last].astype(np.float64), (np.flatnonzero(last) + 1).astype(np.float64)


def fit_thresholds(
    comparison: Comparison, overlaps: Overlaps, *, iou: float = 0.5, min_precision: float | None = None
) -> dict[str, float]:
    """A threshold for each class that has objects.

    A threshold fitted on few objects fits them alone; choose it on other images than those that are reported.

    Args:
        comparison: labels and detections, these with low scores too.
        overlaps: their pairs.
        iou: minimum IoU of a match.
        min_precision: None for the highest F-score; else the highest recall with at least this precision. A class that
            never reaches it gets 1.0, which reports nothing of it.

    Returns:
        Class → threshold, rounded down to as few decimals as leave out no detection that is wanted and let in no other.

    Raises:
        ConfigError: `min_precision` is not above 0 and up to 1.
    """
    if min_precision is not None and not 0 < min_precision <= 1:
        raise ConfigError(f"min_precision={min_precision}: a precision is above 0 and at most 1, such as 0.9")
    matches = match(comparison, overlaps, threshold=iou)
    fitted = {}
    for k, name in enumerate(comparison.truth.classes):
        objects = int((matches.objects & (comparison.truth.labels == k)).sum())
        own = (comparison.found.labels == k) & ~matches.ignored
        hits, scores = matches.hit[own], comparison.found.scores[own].astype(np.float64)
        if objects:
            chosen = (
                best_threshold(hits, scores, objects)
                if min_precision is None
                else precise_threshold(hits, scores, min_precision)
            )
            fitted[name] = 1.0 if chosen is None else rounded(chosen, scores)
    return fitted


def rounded(threshold: float, scores: FloatArray) -> float:
    """The number with the fewest decimals that separates the same scores as a threshold."""
    below = scores[scores < threshold].max(initial=-1.0)
    for decimals in range(1, 17):
        short = float(np.floor(threshold * 10**decimals) / 10**decimals)
        if below < short <= threshold:
            return short
    return threshold
