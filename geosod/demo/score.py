"""How well detections agree with a complete ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.compiled import njit
from geosod.errors import ConfigError

_CELL = 64.0


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


@njit(nogil=True)
def _bucket(boxes: FloatArray, origin: FloatArray, shape: tuple[int, int]) -> tuple[IntArray, IntArray]:
    """Rows of `boxes` grouped by the grid cells they touch, as starts (cells + 1,) and members."""
    rows, cols = shape
    starts = np.zeros(rows * cols + 1, np.int64)
    for fill in range(2):
        if fill == 1:
            starts = np.cumsum(starts)
            members = np.empty(starts[-1], np.int64)
            cursor = starts[:-1].copy()
        for i in range(len(boxes)):
            c0, r0, c1, r1 = _span(boxes[i], origin, rows, cols)
            for r in range(r0, r1 + 1):
                for c in range(c0, c1 + 1):
                    if fill == 0:
                        starts[r * cols + c + 1] += 1
                    else:
                        members[cursor[r * cols + c]] = i
                        cursor[r * cols + c] += 1
    return starts, members


@njit(nogil=True, inline="always")
def _span(box: FloatArray, origin: FloatArray, rows: int, cols: int) -> tuple[int, int, int, int]:
    c0 = min(max((box[0] - origin[0]) / _CELL, 0.0), cols - 1.0)
    r0 = min(max((box[1] - origin[1]) / _CELL, 0.0), rows - 1.0)
    c1 = min(max((box[2] - origin[0]) / _CELL, 0.0), cols - 1.0)
    r1 = min(max((box[3] - origin[1]) / _CELL, 0.0), rows - 1.0)
    return int(c0), int(r0), int(c1), int(r1)


@njit(nogil=True, inline="always")
def _overlap(a: FloatArray, b: FloatArray) -> tuple[float, float]:
    """IoU and IoS (intersection over the smaller area) of two boxes."""
    inter = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    if inter <= 0.0:
        return 0.0, 0.0
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return inter / (area_a + area_b - inter), inter / min(area_a, area_b)


@njit(nogil=True)
def _assign(
    truth: FloatArray,
    truth_labels: IntArray,
    found: FloatArray,
    found_labels: IntArray,
    order: IntArray,
    iou: float,
    ios: float,
) -> tuple[IntArray, BoolArray]:
    """The truth that each detection takes, or -1, and which of the rest repeat a truth that was taken."""
    match, repeat = np.full(len(found), -1, np.int64), np.zeros(len(found), np.bool_)
    if len(truth) == 0:
        return match, repeat
    origin = np.array([truth[:, 0].min(), truth[:, 1].min()])
    rows = int((truth[:, 3].max() - origin[1]) / _CELL) + 1
    cols = int((truth[:, 2].max() - origin[0]) / _CELL) + 1
    starts, members = _bucket(truth, origin, (rows, cols))
    taken = np.zeros(len(truth), np.bool_)
    for again in range(2):
        for d in order:
            if match[d] >= 0:
                continue
            best, best_iou = -1, iou
            c0, r0, c1, r1 = _span(found[d], origin, rows, cols)
            for r in range(r0, r1 + 1):
                for c in range(c0, c1 + 1):
                    for m in range(starts[r * cols + c], starts[r * cols + c + 1]):
                        t = members[m]
                        if truth_labels[t] != found_labels[d]:
                            continue
                        near, covered = _overlap(truth[t], found[d])
                        if again:
                            repeat[d] |= taken[t] and covered >= ios
                        elif not taken[t] and (near > best_iou or (near == best_iou and (best < 0 or t < best))):
                            best, best_iou = t, near
            if not again and best >= 0:
                match[d] = best
                taken[best] = True
    return match, repeat


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
        iou: minimum IoU of a match, greater than 0.
        ios: minimum intersection over the smaller area of a duplicate.

    Returns:
        The object of each detection, (M,) int64, -1 if it is unmatched; and (M,) bool, True for duplicates:
        unmatched detections of an object that another detection matches.

    Raises:
        ConfigError: lengths differ, or `iou` is not in (0, 1].
    """
    truth, found = (np.ascontiguousarray(b, np.float64).reshape(-1, 4) for b in (truth_boxes, det_boxes))
    labels, found_labels = (np.ascontiguousarray(b, np.int64) for b in (truth_labels, det_labels))
    scores = np.asarray(det_scores, np.float64)
    if labels.shape != (len(truth),) or found_labels.shape != (len(found),) or scores.shape != (len(found),):
        raise ConfigError(
            f"match: {len(truth)} true boxes need as many labels, got {labels.shape}; {len(found)} detections "
            f"need as many labels and scores, got {found_labels.shape} and {scores.shape}"
        )
    if not 0.0 < iou <= 1.0:
        raise ConfigError(f"match: iou={iou} must be greater than 0 and at most 1")
    order = np.argsort(-scores, kind="stable")
    result: tuple[IntArray, BoolArray] = _assign(truth, labels, found, found_labels, order, iou, ios)
    return result


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
