"""Average precision and the threshold with the highest F1, for the record of a training run."""

from __future__ import annotations

import numpy as np

from geosod.evaluation.average_precision import area_under
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.matching import match
from geosod.evaluation.overlaps import overlaps_of
from geosod.evaluation.thresholds import best_threshold


def measure(comparison: Comparison) -> dict[str, float | dict[str, float]]:
    """AP50 of each class; and the threshold with the highest F1 with its recall, precision and F1; all at IoU 0.5.

    AP is the area under the curve (Everingham et al. 2010, all points).
    """
    truth, found = comparison.truth, comparison.found
    hits = match(comparison, overlaps_of(comparison), threshold=0.5).hit
    order = np.argsort(-found.scores, kind="stable")
    ap = {
        name: round(area_under(hits[order[found.labels[order] == k]], int((truth.labels == k).sum())), 4)
        for k, name in enumerate(truth.classes)
    }
    threshold = best_threshold(hits, found.scores.astype(np.float64), len(truth))
    chosen = found.scores >= threshold
    recall, precision = float(hits[chosen].sum() / len(truth)), float(hits[chosen].mean())
    return {
        "ap50": ap,
        "map50": round(float(np.mean(list(ap.values()))), 4),
        "threshold": round(threshold, 4),
        "objects": len(truth),
        "recall": round(recall, 4),
        "precision": round(precision, 4),
        "f1": round(2 * recall * precision / (recall + precision), 4),
    }
