"""Average precision and recall, by the protocol of COCO."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.matching import IGNORED, OBJECT, match_at, roles_of
from geosod.evaluation.overlaps import Overlaps

#: IoU thresholds of COCO.
COCO_THRESHOLDS: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
#: Recalls at which COCO reads precision.
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True, eq=False)
class ValueRange:
    """Objects of a range of sizes, or of another property; all others count neither as found nor as missed.

    Attributes:
        name: as it is reported.
        low, high: the range, both ends included.
        truth: (N,) float64, the value of each label.
        found: (M,) float64, the value of each detection.
    """

    name: str
    low: float
    high: float
    truth: FloatArray
    found: FloatArray

    @property
    def truth_outside(self) -> BoolArray:
        """(N,) bool, labels outside the range; those without a value (nan) are."""
        return np.asarray(~((self.truth >= self.low) & (self.truth <= self.high)))

    @property
    def found_outside(self) -> BoolArray:
        """(M,) bool, detections outside the range."""
        return np.asarray(~((self.found >= self.low) & (self.found <= self.high)))


@dataclass(frozen=True, slots=True, eq=False)
class AveragePrecision:
    """Average precision and maximum recall.

    Attributes:
        thresholds: IoU of each row.
        ranges: name of each range; "all" for no range.
        classes: name of each class.
        ap: (T, K, R) float64, nan where there is no object.
        recall: (T, K, R) float64, share of the objects that were found at all; nan where there is no object.
        objects: (K, R) int64, number of objects.
    """

    thresholds: tuple[float, ...]
    ranges: tuple[str, ...]
    classes: tuple[str, ...]
    ap: FloatArray
    recall: FloatArray
    objects: IntArray

    def mean(self, *, threshold: float | None = None, label: int | None = None, name: str = "all") -> float:
        """Mean AP over thresholds and over classes that have objects; nan if none has."""
        return self._mean(self.ap, threshold, label, name)

    def mean_recall(self, *, threshold: float | None = None, label: int | None = None, name: str = "all") -> float:
        """Mean of the maximum recall (COCO's AR), as `mean`."""
        return self._mean(self.recall, threshold, label, name)

    def _mean(self, values: FloatArray, threshold: float | None, label: int | None, name: str) -> float:
        values = values[:, :, self.ranges.index(name)]
        if threshold is not None:
            values = values[[int(np.argmin(np.abs(np.array(self.thresholds) - threshold)))]]
        values = values if label is None else values[:, [label]]
        known = values[~np.isnan(values)]
        return float(known.mean()) if len(known) else float("nan")


def average_precision(
    comparison: Comparison,
    overlaps: Overlaps,
    *,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
    ranges: Sequence[ValueRange] = (),
    max_detections: int | None = 500,
    relation: npt.NDArray[np.uint8] | None = None,
    excused_by_region: bool = False,
) -> AveragePrecision:
    """Average precision as COCO computes it (Lin et al. 2014); equal to pycocotools.

    Args:
        comparison: labels and detections.
        overlaps: their pairs.
        thresholds: IoU thresholds.
        ranges: subsets of the objects, evaluated besides all objects.
        max_detections: detections of an image and class that take part, the best first; None for all. COCO takes 100,
            SAHI 500.
        relation, excused_by_region: see `matching.match_at`.
    """
    truth, roles = comparison.truth, roles_of(comparison)
    within = np.flatnonzero(comparison.rank < (max_detections or len(comparison.found) + 1))
    order = within[np.lexsort((comparison.rank[within], comparison.image[within], -comparison.found.scores[within]))]
    by_class = _split(order, comparison.found.labels, len(truth.classes))
    shape = (len(thresholds), len(truth.classes), len(ranges) + 1)
    ap, recall, objects = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape[1:], np.int64)
    for r, part in enumerate((None, *ranges)):
        roles_here = roles if part is None else np.where(part.truth_outside & (roles == OBJECT), IGNORED, roles)
        outside = None if part is None else part.found_outside
        objects[:, r] = np.bincount(truth.labels[roles_here == OBJECT], minlength=shape[1])
        matches = match_at(
            comparison,
            overlaps,
            thresholds=thresholds,
            roles=roles_here.astype(np.uint8),
            relation=relation,
            outside=outside,
            excused_by_region=excused_by_region,
        )
        for t, found in enumerate(matches):
            hit = found.hit
            for k, rows in enumerate(by_class):
                if objects[k, r]:
                    kept = hit[rows[~found.ignored[rows]]]
                    ap[t, k, r] = interpolated(kept, int(objects[k, r]))
                    recall[t, k, r] = kept.sum() / objects[k, r]
    names = ("all", *(part.name for part in ranges))
    return AveragePrecision(tuple(thresholds), names, truth.classes, ap, recall, objects)


def _split(order: IntArray, labels: npt.NDArray[np.int32], classes: int) -> list[IntArray]:
    """Rows of each class, in their order."""
    grouped = order[np.argsort(labels[order], kind="stable")]
    return np.split(grouped, np.searchsorted(labels[grouped], np.arange(1, classes)))


def precision_of(hits: BoolArray) -> FloatArray:
    """(M,) float64, the highest precision at the recall after each detection, or at a higher one.

    Args:
        hits: (M,) whether each detection found an object, the best detection first.
    """
    if not len(hits):
        return np.zeros(0)
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return np.maximum.accumulate(precision[::-1])[::-1]


def interpolated(hits: BoolArray, objects: int) -> float:
    """Mean of the precision at 101 recalls, which COCO calls AP.

    Args:
        hits: (M,) whether each detection found an object, the best detection first.
        objects: number of objects, at least 1.
    """
    precision = precision_of(hits)
    at = np.searchsorted(np.cumsum(hits) / objects, RECALLS, side="left")
    return float(np.append(precision, 0.0)[at].mean())


def area_under(hits: BoolArray, objects: int) -> float:
    """Area under the precision-recall curve (Everingham et al. 2010, all points).

    Args:
        hits: (M,) whether each detection found an object, the best detection first.
        objects: number of objects; the result is nan if it is 0.
    """
    if objects == 0:
        return float("nan")
    return float(precision_of(hits)[hits].sum() / objects)


def size_ranges(comparison: Comparison) -> Iterator[ValueRange]:
    """Small, medium and large objects as COCO has them: by area, with limits at 32² and 96² square pixels."""
    for name, low, high in (("small", 0.0, 32.0), ("medium", 32.0, 96.0), ("large", 96.0, 1e5)):
        yield ValueRange(name, low**2, high**2, comparison.truth.area, comparison.found_area)
