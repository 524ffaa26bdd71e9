"""Curves: precision over recall, precision over score, recall over the number of proposals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.evaluation.average_precision import COCO_THRESHOLDS, precision_of
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.matching import SAME, Matches, match_at, relation_of
from geosod.evaluation.overlaps import Overlaps

#: Numbers of detections an image at which the recall of proposals is reported.
PROPOSALS = (1, 3, 10, 30, 100, 300, 1000, 3000)
_BINS = 10
_POINTS = 200


@dataclass(frozen=True, slots=True, eq=False)
class PrecisionRecall:
    """Precision and recall of one class at its score thresholds.

    Attributes:
        scores, recall, precision: (P,) float64, descending scores; a selection of at most 200 points.
        envelope: (P,) float64, the highest precision at this recall or a higher one, whose mean AP is.
    """

    scores: FloatArray
    recall: FloatArray
    precision: FloatArray
    envelope: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """How often detections with a score are right.

    Attributes:
        low: (10,) float64, lower limit of each bin of scores; all are 0.1 wide.
        score, precision: (10,) float64, mean score and share of hits; nan in empty bins.
        count: (10,) int64, number of detections.
        error: mean of |score - precision| over detections (expected calibration error); nan without detections.
    """

    low: FloatArray
    score: FloatArray
    precision: FloatArray
    count: IntArray
    error: float


def precision_recall(comparison: Comparison, matches: Matches, label: int) -> PrecisionRecall:
    """The curve of a class.

    Args:
        comparison: labels and detections.
        matches: their matches.
        label: the class.
    """
    found = comparison.found
    rows = np.flatnonzero((found.labels == label) & ~matches.ignored)
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]
    hits, objects = matches.hit[rows], int((matches.objects & (comparison.truth.labels == label)).sum())
    right = np.cumsum(hits)
    shown = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _POINTS)).astype(np.int64))
    recall = right / objects if objects else np.full(len(rows), np.nan)
    return PrecisionRecall(
        found.scores[rows[shown]].astype(np.float64),
        recall[shown],
        (right / np.arange(1, len(rows) + 1))[shown],
        precision_of(hits)[shown],
    )


def calibration(scores: FloatArray, hits: BoolArray) -> Calibration:
    """Compare scores with the share of detections that are right (Guo et al. 2017).

    Args:
        scores: (M,), from 0 to 1.
        hits: (M,) bool.
    """
    at = np.clip((scores * _BINS).astype(np.int64), 0, _BINS - 1)
    count = np.bincount(at, minlength=_BINS)
    with np.errstate(invalid="ignore"):
        score = np.bincount(at, scores, minlength=_BINS) / count
        precision = np.bincount(at, hits, minlength=_BINS) / count
    gap = np.nansum(np.abs(score - precision) * count)
    error = float(gap / count.sum()) if len(scores) else float("nan")
    return Calibration(np.arange(_BINS) / _BINS, score, precision, count.astype(np.int64), error)


def proposal_recall(
    comparison: Comparison,
    overlaps: Overlaps,
    *,
    numbers: Sequence[int] = PROPOSALS,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
) -> dict[int, float]:
    """Average recall of the best detections of each image, whatever their class (Hosang et al. 2016; COCO).

    Args:
        comparison: labels and detections.
        overlaps: their pairs.
        numbers: how many detections of an image count.
        thresholds: IoU thresholds over which recall is averaged.

    Returns:
        Number of detections → average recall; nan without objects.
    """
    classes = len(comparison.truth.classes)
    agnostic = relation_of(np.full((classes, classes), SAME, np.uint8))
    rank = comparison.rank_in_image
    order = np.lexsort((rank, comparison.image)).astype(np.int64)
    found = match_at(comparison, overlaps, thresholds=thresholds, relation=agnostic, order=order)
    objects = int(found[0].objects.sum())
    ranks = [np.sort(rank[matches.hit]) for matches in found]
    return {
        n: float(np.mean([np.searchsorted(r, n, side="left") / objects for r in ranks])) if objects else float("nan")
        for n in numbers
    }
