"""How well detections agree with a complete ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.datasets.labels import LabelledImage, Labels
from geosod.detections import Detections
from geosod.errors import ConfigError
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.matching import match as match_overlaps
from geosod.evaluation.overlaps import MIN_OVERLAP, overlaps_of


@dataclass(frozen=True, slots=True)
class Score:
    """Agreement of detections and ground truth at one IoU threshold.

    Attributes:
        objects: number of true objects.
        detections: number of detections.
        recall: fraction of the true objects that were found; nan without objects.
        precision: fraction of the detections that match an object; nan without detections.
        recall_at_borders: recall of the objects that an interior tile edge crosses; nan without such objects.
        recall_elsewhere: recall of all other objects; nan without such objects.
        objects_at_borders: number of objects that an interior tile edge crosses.
        duplicates: unmatched detections whose intersection with an object of their class that another detection
            matches is at least half of the smaller area.
        false_positives: unmatched detections, including duplicates.
        missed: objects that no detection matches.
    """

    objects: int
    detections: int
    recall: float
    precision: float
    recall_at_borders: float
    recall_elsewhere: float
    objects_at_borders: int
    duplicates: int
    false_positives: int
    missed: int


def match(
    truth_boxes: npt.ArrayLike,
    truth_labels: npt.ArrayLike,
    det_boxes: npt.ArrayLike,
    det_labels: npt.ArrayLike,
    det_scores: npt.ArrayLike,
    *,
    iou: float = 0.5,
    ios: float = 0.5,
) -> tuple[IntArray, BoolArray]:
    """Assign to each detection, by descending score, the unmatched object of its class with the highest IoU.

    Args:
        truth_boxes, det_boxes: (N, 4) and (M, 4) ``x0, y0, x1, y1``, one frame.
        truth_labels, det_labels: (N,) and (M,) class indices.
        det_scores: (M,); of equal scores the earlier row comes first.
        iou: minimum IoU of a match, at least 0.1.
        ios: minimum intersection over the smaller area of a duplicate.

    Returns:
        The object of each detection, (M,) int64, -1 if it is unmatched; and (M,) bool, True for duplicates:
        unmatched detections of an object that another detection matches.

    Raises:
        ConfigError: lengths differ, or `iou` is not from 0.1 to 1.
    """
    boxes = np.asarray(truth_boxes, np.float64).reshape(-1, 4)
    labels = np.asarray(truth_labels, np.int64).reshape(-1)
    found = np.asarray(det_boxes, np.float64).reshape(-1, 4)
    found_labels, scores = np.asarray(det_labels, np.int64).reshape(-1), np.asarray(det_scores, np.float64).reshape(-1)
    if len(labels) != len(boxes) or not len(found_labels) == len(scores) == len(found):
        raise ConfigError(
            f"match: {len(boxes)} true boxes need as many labels, got {len(labels)}; {len(found)} detections "
            f"need as many labels and scores, got {len(found_labels)} and {len(scores)}"
        )
    if not MIN_OVERLAP <= iou <= 1.0:
        raise ConfigError(f"match: iou={iou} must be from {MIN_OVERLAP} to 1")
    comparison = _one_image(boxes, labels, Detections(boxes=found, scores=scores, labels=found_labels))
    overlaps = overlaps_of(comparison, min_overlap=np.finfo(np.float64).tiny)
    matches = match_overlaps(comparison, overlaps, threshold=iou)
    taken = np.zeros(len(boxes), np.bool_)
    taken[matches.truth[matches.truth >= 0]] = True
    row = np.repeat(np.arange(len(found)), np.diff(overlaps.starts))
    smaller = np.minimum(comparison.found_area[row], comparison.truth.area[overlaps.truth])
    covered = overlaps.iod * comparison.found_area[row] / smaller
    repeats = taken[overlaps.truth] & (labels[overlaps.truth] == found_labels[row]) & (covered >= ios)
    again = np.zeros(len(found), np.bool_)
    again[row[repeats]] = True
    return matches.truth, again & (matches.truth < 0)


def _one_image(boxes: FloatArray, labels: IntArray, found: Detections) -> Comparison:
    classes = int(max(labels.max(initial=-1), found.labels.max(initial=-1))) + 1
    x1, y1 = (int(max(1, np.ceil(v))) for v in boxes[:, 2:].max(axis=0, initial=1))
    truth = Labels(
        images=[LabelledImage("scene", "", x1, y1)],
        classes=[str(k) for k in range(classes)],
        image=np.zeros(len(boxes), np.int32),
        boxes=boxes,
        labels=labels,
    )
    return Comparison(truth, found, np.zeros(len(found), np.int64))


def crosses_edges(boxes: npt.ArrayLike, *, x_edges: npt.ArrayLike, y_edges: npt.ArrayLike) -> BoolArray:
    """Which boxes (N, 4) have an edge line strictly inside them; `x_edges` and `y_edges` are coordinates."""
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    crossed = np.zeros(len(corners), np.bool_)
    for low, high, edges in ((0, 2, x_edges), (1, 3, y_edges)):
        lines = np.sort(np.asarray(edges, np.float64))
        first = np.searchsorted(lines, corners[:, low], side="right")
        crossed |= first < np.searchsorted(lines, corners[:, high], side="left")
    return crossed


def _fraction(chosen: BoolArray) -> float:
    return float(chosen.mean()) if len(chosen) else float("nan")


def score(
    truth_boxes: npt.ArrayLike,
    truth_labels: npt.ArrayLike,
    det_boxes: npt.ArrayLike,
    det_labels: npt.ArrayLike,
    det_scores: npt.ArrayLike,
    *,
    x_edges: npt.ArrayLike = (),
    y_edges: npt.ArrayLike = (),
    iou: float = 0.5,
) -> Score:
    """Recall, precision and duplicates of detections, matched by `match`.

    Args:
        truth_boxes, det_boxes: (N, 4) and (M, 4) ``x0, y0, x1, y1``, scene frame.
        truth_labels, det_labels: (N,) and (M,) class indices.
        det_scores: (M,).
        x_edges, y_edges: columns and rows, scene frame, of every interior edge of a tile. An object is at a
            border if one of these lines, extended across the whole scene, crosses the inside of its box.
        iou: minimum IoU of a match.

    Raises:
        ConfigError: as `match`.
    """
    truth = np.asarray(truth_boxes, np.float64).reshape(-1, 4)
    matched, repeats = match(truth, truth_labels, det_boxes, det_labels, det_scores, iou=iou)
    hit = matched >= 0
    got = np.zeros(len(truth), np.bool_)
    got[matched[hit]] = True
    border = crosses_edges(truth, x_edges=x_edges, y_edges=y_edges)
    return Score(
        objects=len(truth),
        detections=len(hit),
        recall=_fraction(got),
        precision=_fraction(hit),
        recall_at_borders=_fraction(got[border]),
        recall_elsewhere=_fraction(got[~border]),
        objects_at_borders=int(border.sum()),
        duplicates=int(repeats.sum()),
        false_positives=int((~hit).sum()),
        missed=int((~got).sum()),
    )
