"""TinyPerson's metrics: average precision and miss rate of objects by their size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, FloatArray
from geosod.evaluation.average_precision import AveragePrecision, ValueRange, average_precision
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.matching import OBJECT, REGION, match_at, roles_of
from geosod.evaluation.overlaps import Overlaps

#: IoU thresholds of TinyBenchmark.
TINY_THRESHOLDS = (0.25, 0.5, 0.75)
#: Name → range of √area in pixels (Yu et al. 2020).
TINY_RANGES = {
    "tiny": (2.0, 20.0),
    "tiny1": (2.0, 8.0),
    "tiny2": (8.0, 12.0),
    "tiny3": (12.0, 20.0),
    "small": (20.0, 32.0),
}
#: False positives an image at which the miss rate is read (Dollár et al. 2012).
_FALSE_POSITIVES = np.logspace(-2, 0, 9)
#: A detection takes part where its size is within this factor of the range.
_MARGIN = 1.25
_AP_DETECTIONS, _MISS_RATE_DETECTIONS = 200, 1000


@dataclass(frozen=True, slots=True, eq=False)
class MissRate:
    """Log-average miss rates.

    Attributes:
        thresholds: IoU of each row.
        ranges: name of each range; "all" for all sizes.
        classes: name of each class.
        values: (T, K, R) float64, nan where there is no object.
    """

    thresholds: tuple[float, ...]
    ranges: tuple[str, ...]
    classes: tuple[str, ...]
    values: FloatArray

    def mean(self, threshold: float, name: str) -> float:
        """Geometric mean over the classes that have objects; nan if none has."""
        values = self.values[self.thresholds.index(threshold), :, self.ranges.index(name)]
        known = values[~np.isnan(values)]
        return float(np.exp(np.log(known).mean())) if len(known) else float("nan")


def tiny_ranges(comparison: Comparison) -> Iterator[ValueRange]:
    """TinyPerson's ranges of size."""
    size, found = np.sqrt(comparison.truth.area), np.sqrt(np.maximum(comparison.found_area, 0))
    for name, (low, high) in TINY_RANGES.items():
        yield ValueRange(name, low, high, size, found)


def tiny_average_precision(comparison: Comparison, overlaps: Overlaps) -> AveragePrecision:
    """AP at IoU 0.25, 0.5 and 0.75 by size, as TinyBenchmark has it (Yu et al. 2020).

    The protocol of COCO with at most 200 detections an image and class, where a detection also counts as neither right
    nor wrong if an ignored object covers at least the threshold of it.
    """
    return average_precision(
        comparison,
        overlaps,
        thresholds=TINY_THRESHOLDS,
        ranges=tuple(tiny_ranges(comparison)),
        max_detections=_AP_DETECTIONS,
        excused_by_region=True,
    )


def miss_rate(comparison: Comparison, overlaps: Overlaps, *, thresholds: Sequence[float] = TINY_THRESHOLDS) -> MissRate:
    """Log-average miss rate between 0.01 and 1 false positives an image (Dollár et al. 2012), by size.

    As in TinyBenchmark, objects of other sizes are ignored regions: detections of which they cover at least the
    threshold count neither way, any number of them. Detections whose size is off a range by more than a factor of 1.25
    take no part in it. At most 1000 detections an image and class do. Where a method has no point with so few false
    positives, its miss rate there is 1 (TinyBenchmark's own code takes its lowest miss rate in that case). Miss rates
    of 0 count as 1e-10.

    Args:
        comparison: labels and detections.
        overlaps: their pairs.
        thresholds: IoU thresholds.
    """
    truth, found, roles = comparison.truth, comparison.found, roles_of(comparison)
    whole = ValueRange("all", -1.0, np.inf, np.zeros(len(truth)), np.zeros(len(found)))
    ranges = (whole, *tiny_ranges(comparison))
    values = np.full((len(thresholds), len(truth.classes), len(ranges)), np.nan)
    best = comparison.order[comparison.rank[comparison.order] < _MISS_RATE_DETECTIONS]
    for r, part in enumerate(ranges):
        roles_here = np.where((roles == OBJECT) & ~part.truth_outside, OBJECT, REGION).astype(np.uint8)
        kept = best[_near(part, part.found[best])]
        for t, matches in enumerate(
            match_at(comparison, overlaps, thresholds=thresholds, roles=roles_here, order=kept)
        ):
            for k in range(len(truth.classes)):
                objects = int(np.count_nonzero((roles_here == OBJECT) & (truth.labels == k)))
                rows = kept[(found.labels[kept] == k) & ~matches.ignored[kept]]
                rows = rows[np.argsort(-found.scores[rows], kind="stable")]
                if objects:
                    values[t, k, r] = log_average(matches.hit[rows], objects, len(truth.images))
    return MissRate(tuple(thresholds), tuple(part.name for part in ranges), truth.classes, values)


def _near(part: ValueRange, size: FloatArray) -> BoolArray:
    """Detections whose size takes part in a range."""
    low = part.low / _MARGIN if part.low > 0 else part.low
    return np.asarray((size >= low) & (size < part.high * _MARGIN))


def log_average(hits: npt.NDArray[np.bool_], objects: int, images: int) -> float:
    """Geometric mean of the miss rates at nine numbers of false positives an image.

    Args:
        hits: (M,) whether each detection found an object, the best detection first.
        objects: number of objects, at least 1.
        images: number of images, at least 1.
    """
    recall = np.append(0.0, np.cumsum(hits) / objects)
    false_positives = np.append(0.0, np.cumsum(~hits) / images)
    # A tolerance, since nine numbers on a logarithmic scale are rounded and false positives an image often equal one.
    at = np.searchsorted(false_positives, _FALSE_POSITIVES * (1 + 1e-12), side="right") - 1
    return float(np.exp(np.log(np.maximum(1 - recall[at], 1e-10)).mean()))
