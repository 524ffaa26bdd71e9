"""Ranges of object sizes that each level of a run should report, fitted on labelled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geosod.arrays import FloatArray
from geosod.datasets.labels import Labels
from geosod.errors import ConfigError
from geosod.evaluation.average_precision import ValueRange, average_precision
from geosod.evaluation.found_scenes import FoundScene
from geosod.evaluation.join import join
from geosod.evaluation.matching import OBJECT, roles_of
from geosod.evaluation.overlaps import overlaps_of

#: Sizes are divided into at most so many bins, of at least so many objects each.
_BINS, _MIN_OBJECTS = 10, 20
#: A level reports the sizes at which its AP is at least this share of that of the best level.
_SHARE = 0.9

Scale = float | str


@dataclass(frozen=True, slots=True, eq=False)
class FittedLevels:
    """Levels with their ranges, and what they were fitted on.

    Attributes:
        limits: (B + 1,) float64, limits of the bins of √area in pixels, from 0 to infinity.
        objects: (B,) int64, number of objects in each bin.
        scales: scales that were tried, as `LevelSetting.scale`.
        ap50: (S, B) float64, AP at IoU 0.5 of each scale, alone, on the objects of each bin.
        ranges: of each scale, its range of √area in pixels, the second None for no limit; None for a scale that is
            best nowhere and is left out.
    """

    limits: FloatArray
    objects: np.ndarray[tuple[int], np.dtype[np.int64]]
    scales: tuple[Scale, ...]
    ap50: FloatArray
    ranges: tuple[tuple[float, float | None] | None, ...]

    def setting(self) -> list[dict[str, Any]]:
        """The value of ``levels:`` in a configuration."""
        pairs = zip(self.scales, self.ranges, strict=True)
        return [{"scale": scale, "sizes": list(sizes)} for scale, sizes in pairs if sizes is not None]


def fit_levels(
    labels: Labels, found: Mapping[Scale, Sequence[FoundScene]], *, max_detections: int | None = 500
) -> FittedLevels:
    """Choose the sizes that each level reports (Singh and Davis 2018, where they were chosen by hand).

    Objects are divided into bins of equal numbers by √area. A level reports the bins around the one where it is best
    relative to the others, as far as its AP there is at least nine tenths of that of the best level. A level that is
    best in no bin is left out. Neighbouring ranges overlap where levels are about as good.

    Fit levels on other images than those that are reported.

    Args:
        labels: labels, with classes named as those of the model.
        found: scale → results of a run at that level alone, without a range.
        max_detections: as in `average_precision`.

    Raises:
        ConfigError: there are fewer than two scales or too few objects.
    """
    if len(found) < 2:
        raise ConfigError(f"levels {', '.join(map(str, found))}: ranges are fitted to two levels or more")
    comparisons = [join(labels, scenes).comparison for scenes in found.values()]
    truth = comparisons[0].truth
    size = np.sqrt(truth.area)
    objects = size[roles_of(comparisons[0]) == OBJECT]
    limits = _limits(objects)
    ap50 = np.array(
        [
            [
                average_precision(
                    comparison,
                    overlaps_of(comparison),
                    thresholds=(0.5,),
                    ranges=_bins(limits, size, np.sqrt(np.maximum(comparison.found_area, 0))),
                    max_detections=max_detections,
                ).mean(name=str(b))
                for b in range(len(limits) - 1)
            ]
            for comparison in comparisons
        ]
    )
    counts = np.histogram(objects, limits)[0].astype(np.int64)
    return FittedLevels(limits, counts, tuple(found), ap50, ranges_of(ap50, limits))


def _limits(sizes: FloatArray) -> FloatArray:
    bins = min(_BINS, len(sizes) // _MIN_OBJECTS)
    if bins < 2:
        raise ConfigError(
            f"{len(sizes)} labels are too few to fit levels on, which needs {2 * _MIN_OBJECTS} at least; use more "
            "images"
        )
    inner = np.unique(np.quantile(sizes, np.linspace(0, 1, bins + 1)[1:-1]).round(1))
    inner = inner[(inner > sizes.min()) & (inner <= sizes.max())]
    return np.concatenate([[0.0], inner, [np.inf]])


def _bins(limits: FloatArray, truth: FloatArray, found: FloatArray) -> list[ValueRange]:
    ends = [high if high == np.inf else float(np.nextafter(high, 0)) for high in limits[1:].tolist()]
    return [
        ValueRange(str(b), low, high, truth, found)
        for b, (low, high) in enumerate(zip(limits[:-1].tolist(), ends, strict=True))
    ]


def ranges_of(ap: FloatArray, limits: FloatArray) -> tuple[tuple[float, float | None] | None, ...]:
    """The range of each level.

    Args:
        ap: (S, B) AP of each level in each bin of sizes.
        limits: (B + 1,) limits of the bins.

    Returns:
        For each level the lower and upper limit, the latter None where there is none; None for a level to leave out.
        Together they cover all sizes.
    """
    values = np.nan_to_num(ap)
    best = values.max(axis=0)
    winner = values.argmax(axis=0)
    enough = values >= _SHARE * best
    ranges: list[tuple[float, float | None] | None] = []
    for level in range(len(values)):
        won = np.flatnonzero(winner == level)
        if not len(won):
            ranges.append(None)
            continue
        # Every bin that it wins is its own, and so is what lies between; then neighbours as far as it is good enough.
        first, last = int(won[0]), int(won[-1])
        while first > 0 and enough[level, first - 1]:
            first -= 1
        while last < len(best) - 1 and enough[level, last + 1]:
            last += 1
        high = float(limits[last + 1])
        ranges.append((float(limits[first]), None if high == np.inf else high))
    return tuple(ranges)
