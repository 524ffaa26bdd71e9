"""Average precision, and the threshold with the highest F1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geosod.arrays import FloatArray
from geosod.demo.score import match


@dataclass(frozen=True, slots=True, eq=False)
class ImageResult:
    """Detections and ground truth of one image.

    Attributes:
        boxes, scores, labels: detections, (M, 4), (M,) and (M,).
        truth_boxes, truth_labels: true objects, (N, 4) and (N,).
    """

    boxes: FloatArray
    scores: FloatArray
    labels: npt.NDArray[np.int64]
    truth_boxes: FloatArray
    truth_labels: npt.NDArray[np.int64]


def average_precision(hits: npt.NDArray[np.bool_], scores: FloatArray, objects: int) -> float:
    """Area under the precision-recall curve, with precision made monotonic (Everingham et al. 2010, all points).

    Args:
        hits: (M,) whether each detection matches an object.
        scores: (M,).
        objects: number of true objects; the result is nan if it is 0.
    """
    if objects == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(hits[order])
    precision = np.maximum.accumulate((found / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float(precision[hits[order]].sum() / objects)


def best_threshold(hits: npt.NDArray[np.bool_], scores: FloatArray, objects: int) -> float:
    """The score threshold with the highest F1."""
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(hits[order])
    f1 = 2 * found / (np.arange(1, len(hits) + 1) + objects)
    return float(scores[order][int(f1.argmax())])


def measure(images: list[ImageResult], classes: tuple[str, ...]) -> dict[str, float | dict[str, float]]:
    """AP50 of each class; and the threshold with the highest F1 with its recall, precision and F1; all at IoU 0.5."""
    hits = [match(i.truth_boxes, i.truth_labels, i.boxes, i.labels, i.scores)[0] >= 0 for i in images]
    hit, scores = np.concatenate(hits), np.concatenate([i.scores for i in images])
    labels, truth = np.concatenate([i.labels for i in images]), np.concatenate([i.truth_labels for i in images])
    ap = {
        name: round(average_precision(hit[labels == k], scores[labels == k], int((truth == k).sum())), 4)
        for k, name in enumerate(classes)
    }
    threshold = best_threshold(hit, scores, len(truth))
    chosen = scores >= threshold
    recall, precision = float(hit[chosen].sum() / len(truth)), float(hit[chosen].mean())
    return {
        "ap50": ap,
        "map50": round(float(np.mean(list(ap.values()))), 4),
        "threshold": round(threshold, 4),
        "objects": len(truth),
        "recall": round(recall, 4),
        "precision": round(precision, 4),
        "f1": round(2 * recall * precision / (recall + precision), 4),
    }
