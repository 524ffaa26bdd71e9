"""Which labelled boxes each detection overlaps, and by how much."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from geosod.arrays import FloatArray, IntArray
from geosod.detections import Detections
from geosod.evaluation.comparison import Comparison
from geosod.merging.index import Index, build_index, cells_of, run_of
from geosod.merging.kernel import kernel

#: Overlaps below this, in both measures, are left out: no protocol has a lower threshold.
MIN_OVERLAP = 0.1


class Overlaps(NamedTuple):
    """The boxes that each detection overlaps.

    Attributes:
        starts: (M + 1,) int64, the pairs of detection i are at ``starts[i]:starts[i + 1]``.
        truth: (P,) int64, rows of the labels, ascending for each detection.
        iou: (P,) float64, intersection over union.
        iod: (P,) float64, intersection over the area of the detection.
    """

    starts: IntArray
    truth: IntArray
    iou: FloatArray
    iod: FloatArray


def overlaps_of(comparison: Comparison, *, min_overlap: float = MIN_OVERLAP) -> Overlaps:
    """Find all pairs of a detection and a labelled box of its image, of any classes, that overlap enough.

    Memory and time grow with the number of pairs, not with the product of the numbers of boxes.

    Args:
        comparison: N labels and M detections.
        min_overlap: pairs whose IoU and whose intersection over the detection are both below this are left out.
    """
    truth, found = comparison.truth, comparison.found
    by_truth, truth_ends = _grouped(truth.image, len(truth.images))
    by_found, found_ends = _grouped(comparison.image, len(truth.images))
    counts = np.zeros(len(found), np.int64)
    parts = []
    for i in np.flatnonzero((np.diff(truth_ends) > 0) & (np.diff(found_ends) > 0)).tolist():
        rows, queries = by_truth[truth_ends[i] : truth_ends[i + 1]], by_found[found_ends[i] : found_ends[i + 1]]
        boxes = truth.boxes[rows]
        index = build_index(Detections(boxes=boxes, scores=np.zeros(len(rows)), labels=np.zeros(len(rows), np.int32)))
        asked = found.boxes[queries]
        count = np.zeros(len(queries), np.int64)
        _count(index, asked, min_overlap, count)
        starts = np.append(0, np.cumsum(count))
        pairs = np.empty(starts[-1], np.int64), np.empty(starts[-1]), np.empty(starts[-1])
        _fill(index, asked, min_overlap, starts, *pairs)
        counts[queries] = count
        parts.append((queries, starts, rows[pairs[0]], pairs[1], pairs[2]))
    return _joined(counts, parts)


def _grouped(image: npt.NDArray[np.integer], count: int) -> tuple[IntArray, IntArray]:
    """Rows by image in their order, and where the rows of each image begin and end."""
    order = np.argsort(image, kind="stable").astype(np.int64)
    return order, np.searchsorted(image[order], np.arange(count + 1)).astype(np.int64)


def _joined(counts: IntArray, parts: list[tuple[IntArray, IntArray, IntArray, FloatArray, FloatArray]]) -> Overlaps:
    """The pairs of all images, by row of the detections."""
    starts = np.append(0, np.cumsum(counts)).astype(np.int64)
    truth, iou, iod = np.empty(starts[-1], np.int64), np.empty(starts[-1]), np.empty(starts[-1])
    for queries, own, *columns in parts:
        length = np.diff(own)
        target = np.repeat(starts[queries] - own[:-1], length) + np.arange(own[-1])
        truth[target], iou[target], iod[target] = columns
    return Overlaps(starts, truth, iou, iod)


@kernel
def _overlap(truth: FloatArray, found: FloatArray) -> tuple[float, float]:
    """IoU, and intersection over the detection; 0 where the boxes share no area."""
    width = min(truth[2], found[2]) - max(truth[0], found[0])
    height = min(truth[3], found[3]) - max(truth[1], found[1])
    if width <= 0.0 or height <= 0.0:
        return 0.0, 0.0
    shared, area = width * height, (found[2] - found[0]) * (found[3] - found[1])
    return shared / (area + (truth[2] - truth[0]) * (truth[3] - truth[1]) - shared), shared / area


@kernel
def _count(index: Index, boxes: FloatArray, min_overlap: float, count: IntArray) -> None:
    for i in range(len(boxes)):
        for k in range(len(index.levels)):
            row, last, left, right = cells_of(index, k, boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3])
            while row <= last and left <= right:
                place, end, row = run_of(index, k, row, left, right)
                for p in range(place, end):
                    iou, iod = _overlap(index.boxes[p], boxes[i])
                    if iou >= min_overlap or iod >= min_overlap:
                        count[i] += 1


@kernel
def _fill(
    index: Index,
    boxes: FloatArray,
    min_overlap: float,
    starts: IntArray,
    truth: IntArray,
    ious: FloatArray,
    iods: FloatArray,
) -> None:
    """Write the pairs of each box, sorted by the row of the labelled box."""
    for i in range(len(boxes)):
        n = starts[i]
        for k in range(len(index.levels)):
            row, last, left, right = cells_of(index, k, boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3])
            while row <= last and left <= right:
                place, end, row = run_of(index, k, row, left, right)
                for p in range(place, end):
                    iou, iod = _overlap(index.boxes[p], boxes[i])
                    if iou >= min_overlap or iod >= min_overlap:
                        at = n
                        while at > starts[i] and truth[at - 1] > index.order[p]:
                            truth[at], ious[at], iods[at] = truth[at - 1], ious[at - 1], iods[at - 1]
                            at -= 1
                        truth[at], ious[at], iods[at] = index.order[p], iou, iod
                        n += 1
