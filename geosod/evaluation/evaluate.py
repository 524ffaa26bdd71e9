"""`evaluate`: every figure about the agreement of labels and detections."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np

from geosod.arrays import IntArray
from geosod.datasets.labels import Labels
from geosod.errors import ConfigError
from geosod.evaluation.average_precision import (
    COCO_THRESHOLDS,
    AveragePrecision,
    ValueRange,
    average_precision,
    size_ranges,
)
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.curves import Calibration, PrecisionRecall, calibration, precision_recall, proposal_recall
from geosod.evaluation.errors import STEPS, ErrorAnalysis, analyse_errors
from geosod.evaluation.found_scenes import FoundScene
from geosod.evaluation.intervals import bootstrap, mean_average_precision, ratio
from geosod.evaluation.join import above_threshold, join
from geosod.evaluation.matching import OBJECT, Matches, match, roles_of
from geosod.evaluation.overlaps import Overlaps, overlaps_of
from geosod.evaluation.points import PointScore, count_points
from geosod.evaluation.ranges import METRES, border_ranges, metre_ranges
from geosod.evaluation.thresholds import best_threshold
from geosod.evaluation.tiny import TINY_THRESHOLDS, MissRate, miss_rate, tiny_average_precision

Interval = tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """What is evaluated.

    Attributes:
        max_detections: detections of an image and class that take part in AP; None for all. COCO takes 100, SAHI 500.
        threshold: minimum score of detections, or class → minimum score; None for what the outputs hold.
        iou: of a match, for precision, recall, F-score and curves.
        radius: maximum distance of matched centres in pixels; None leaves out the figures of points.
        groups: regular expression; images whose identifiers it matches with the same text are one group, which is also
            reported by itself. None for no groups.
        sizes: limits in metres between which objects are reported.
        level: of confidence intervals.
        resamples: of the bootstrap; 0 for no intervals.
    """

    max_detections: int | None = 500
    threshold: float | dict[str, float] | None = None
    iou: float = 0.5
    radius: float | None = None
    groups: str | None = None
    sizes: tuple[float, ...] = METRES
    level: float = 0.95
    resamples: int = 1000

    def __post_init__(self) -> None:
        for name, right, rule in (
            ("max_detections", self.max_detections is None or self.max_detections >= 1, "at least 1"),
            ("iou", 0.1 <= self.iou <= 1, "from 0.1 to 1"),
            ("radius", self.radius is None or 0 < self.radius < np.inf, "above 0 pixels"),
            ("level", 0 < self.level < 1, "between 0 and 1, such as 0.95"),
            ("resamples", 0 <= self.resamples <= 100_000, "from 0 to 100,000"),
        ):
            if not right:
                raise ConfigError(f"{name}={getattr(self, name)} must be {rule}")
        if self.groups is not None:
            try:
                re.compile(self.groups)
            except re.error as error:
                raise ConfigError(f"groups={self.groups!r} is no regular expression: {error}") from error


@dataclass(frozen=True, slots=True)
class Counted:
    """Precision, recall and F-score of detections at a threshold, over all classes.

    Attributes:
        matched: detections that found an object.
        found: detections that count.
        objects: objects that count.
        f_interval: confidence interval of the F-score; None where there are too few images.
    """

    matched: int
    found: int
    objects: int
    f_interval: Interval = None

    @property
    def precision(self) -> float:
        """Share of the detections that are right; nan without any."""
        return self.matched / self.found if self.found else float("nan")

    @property
    def recall(self) -> float:
        """Share of the objects that were found; nan without any."""
        return self.matched / self.objects if self.objects else float("nan")

    @property
    def f_score(self) -> float:
        """Harmonic mean of the two; nan without detections and objects."""
        return 2 * self.matched / (self.found + self.objects) if self.found + self.objects else float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class BoxFigures:
    """Figures about boxes; see the modules they come from.

    Attributes:
        ap: COCO's AP, over all objects and by size in pixels, on the ground and by distance to the border of a tile.
        intervals: of "AP" and "AP50".
        at_iou: precision, recall and F-score of all detections at `EvaluationSettings.iou`.
        best_threshold: the score with the highest F-score on these images, over all classes.
        tiny_ap, tiny_miss_rate: TinyPerson's.
        errors: analysis of errors.
        proposals: average recall by number of detections an image.
        curves: of each class.
        calibration: of all detections.
    """

    ap: AveragePrecision
    intervals: dict[str, Interval]
    at_iou: Counted
    best_threshold: float
    tiny_ap: AveragePrecision
    tiny_miss_rate: MissRate
    errors: ErrorAnalysis
    proposals: dict[int, float]
    curves: dict[str, PrecisionRecall]
    calibration: Calibration


@dataclass(frozen=True, slots=True, eq=False)
class PointFigures:
    """Figures about centres.

    Attributes:
        score: over all images and classes.
        f_interval: confidence interval of its F-score.
        by_class: of each class.
        by_group: of each group of images, with the interval of its F-score.
    """

    score: PointScore
    f_interval: Interval
    by_class: dict[str, PointScore]
    by_group: dict[str, tuple[PointScore, Interval]]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """All figures.

    Attributes:
        settings: what was evaluated.
        images, objects, ignored, detections: numbers of what was compared.
        boxes: None where the labels are points.
        points: None without a radius.
        groups: F-score of boxes in each group of images.
        notes: what a reader should know.
        comparison, scenes: what was compared.
        matches: of the detections at `EvaluationSettings.iou`; None where the labels are points.
    """

    settings: EvaluationSettings
    images: int
    objects: int
    ignored: int
    detections: int
    boxes: BoxFigures | None
    points: PointFigures | None
    groups: dict[str, Counted]
    notes: tuple[str, ...]
    comparison: Comparison
    scenes: tuple[FoundScene, ...]
    matches: Matches | None = field(repr=False)


def evaluate(labels: Labels, scenes: Sequence[FoundScene], settings: EvaluationSettings | None = None) -> Evaluation:
    """Compare what was found with labels.

        labels = read_labels("val.json").labels
        result = evaluate(labels, read_outputs(["out"]))
        result.boxes.ap.mean(threshold=0.5)

    Args:
        labels: labels, with classes named as those of the model.
        scenes: what was found.
        settings: what is evaluated.

    Raises:
        ConfigError: they do not belong together, or a setting is wrong.
    """
    chosen = settings or EvaluationSettings()
    if labels.points and chosen.radius is None:
        raise ConfigError("the labels are points: add --radius PIXELS, the maximum distance of a match")
    joined = join(labels, scenes)
    comparison, notes = joined.comparison, list(joined.notes)
    if chosen.threshold is not None:
        comparison = above_threshold(comparison, chosen.threshold)
    groups = _groups(comparison, chosen.groups)
    counts = np.bincount(comparison.truth.image, minlength=1)
    if not labels.points and chosen.max_detections is not None and counts.max() > chosen.max_detections:
        notes.append(
            f"an image has {counts.max():,} labels, but only {chosen.max_detections:,} detections of each class count "
            "in AP; --max-detections 0 counts all"
        )
    overlaps = None if labels.points else overlaps_of(comparison)
    matches = None if overlaps is None else match(comparison, overlaps, threshold=chosen.iou)
    objects = int((roles_of(comparison) == OBJECT).sum())
    return Evaluation(
        chosen,
        len(comparison.truth.images),
        objects,
        len(comparison.truth) - objects,
        len(comparison.found),
        _boxes(comparison, overlaps, matches, joined.scenes, chosen) if overlaps is not None and matches else None,
        None if chosen.radius is None else _points(comparison, groups, chosen),
        {} if matches is None else {n: _counted(comparison, matches, chosen, rows) for n, rows in groups.items()},
        tuple(notes),
        comparison,
        joined.scenes,
        matches,
    )


def _groups(comparison: Comparison, pattern: str | None) -> dict[str, IntArray]:
    """Images of each group, by name."""
    if pattern is None:
        return {}
    groups: dict[str, list[int]] = {}
    for i, image in enumerate(comparison.truth.images):
        if (found := re.search(pattern, image.id)) is None:
            raise ConfigError(f"groups={pattern!r} does not match image {image.id}; it must match every image")
        groups.setdefault(found.group(1) if found.re.groups else found.group(), []).append(i)
    return {name: np.array(groups[name], np.int64) for name in sorted(groups)}


def _boxes(
    comparison: Comparison,
    overlaps: Overlaps,
    matches: Matches,
    scenes: Sequence[FoundScene],
    settings: EvaluationSettings,
) -> BoxFigures:
    limit = settings.max_detections
    ranges: list[ValueRange] = [
        *size_ranges(comparison),
        *metre_ranges(comparison, settings.sizes),
        *border_ranges(comparison, [scene.tiling for scene in scenes]),
    ]
    count, intervals = len(comparison.truth.images), {}
    for name, thresholds in (("AP", COCO_THRESHOLDS), ("AP50", (0.5,))):
        statistic = mean_average_precision(
            comparison, overlaps, thresholds=thresholds, groups=np.arange(count), max_detections=limit
        )
        intervals[name] = _interval(statistic, count, settings)
    counted = ~matches.ignored
    scores = comparison.found.scores.astype(np.float64)
    return BoxFigures(
        ap=average_precision(comparison, overlaps, ranges=ranges, max_detections=limit),
        intervals=intervals,
        at_iou=_counted(comparison, matches, settings, np.arange(count)),
        best_threshold=best_threshold(matches.hit[counted], scores[counted], int(matches.objects.sum())),
        tiny_ap=tiny_average_precision(comparison, overlaps),
        tiny_miss_rate=miss_rate(comparison, overlaps),
        errors=analyse_errors(comparison, overlaps, max_detections=limit),
        proposals=proposal_recall(comparison, overlaps),
        curves={name: precision_recall(comparison, matches, k) for k, name in enumerate(comparison.truth.classes)},
        calibration=calibration(scores[counted], matches.hit[counted]),
    )


def _interval(statistic: Any, groups: int, settings: EvaluationSettings) -> Interval:
    if not settings.resamples:
        return None
    return bootstrap(statistic, groups, level=settings.level, resamples=settings.resamples)


def _counted(comparison: Comparison, matches: Matches, settings: EvaluationSettings, images: IntArray) -> Counted:
    """Counts over some of the images, with an interval over them."""
    count = len(comparison.truth.images)
    hits = np.bincount(comparison.image[matches.hit], minlength=count)[images]
    found = np.bincount(comparison.image[~matches.ignored], minlength=count)[images]
    objects = np.bincount(comparison.truth.image[matches.objects], minlength=count)[images]
    interval = _interval(ratio(2 * hits, found + objects), len(images), settings)
    return Counted(int(hits.sum()), int(found.sum()), int(objects.sum()), interval)


def _points(comparison: Comparison, groups: dict[str, IntArray], settings: EvaluationSettings) -> PointFigures:
    counts = count_points(comparison, limit=settings.radius or 0.0)

    def interval(images: IntArray) -> Interval:
        matched, both = counts.matched.sum(axis=0), (counts.found + counts.truth).sum(axis=0)
        return _interval(ratio(2 * matched[images], both[images]), len(images), settings)

    return PointFigures(
        counts.total(),
        interval(np.arange(len(comparison.truth.images))),
        {name: counts.total(label=k) for k, name in enumerate(comparison.truth.classes)},
        {name: (counts.total(images=rows), interval(rows)) for name, rows in groups.items()},
    )


def as_json(result: Evaluation) -> dict[str, Any]:
    """The figures as plain values; None where one is undefined."""
    values: dict[str, Any] = {
        "images": result.images,
        "objects": result.objects,
        "ignored": result.ignored,
        "detections": result.detections,
        "classes": list(result.comparison.truth.classes),
        "settings": _plain(result.settings),
        "notes": list(result.notes),
    }
    if result.boxes is not None:
        values["boxes"] = _boxes_as_json(result.boxes)
    if result.points is not None:
        points = result.points
        values["points"] = _point_score(points.score) | {
            "f_interval": _plain(points.f_interval),
            "by_class": {name: _point_score(score) for name, score in points.by_class.items()},
            "by_group": {n: _point_score(s) | {"f_interval": _plain(i)} for n, (s, i) in points.by_group.items()},
        }
    if result.groups:
        values["groups"] = {name: _counts_as_json(counted) for name, counted in result.groups.items()}
    return values


def _boxes_as_json(boxes: BoxFigures) -> dict[str, Any]:
    ap = boxes.ap
    by_range = [
        {
            "range": name,
            "objects": int(ap.objects[:, r].sum()),
            "AP": ap.mean(name=name),
            "AP50": ap.mean(threshold=0.5, name=name),
            "AR": ap.mean_recall(name=name),
        }
        for r, name in enumerate(ap.ranges)
    ]
    by_class = {
        name: {
            "objects": int(ap.objects[k, 0]),
            "AP": ap.mean(label=k),
            "AP50": ap.mean(threshold=0.5, label=k),
            "AP75": ap.mean(threshold=0.75, label=k),
            "errors": dict(zip(STEPS, boxes.errors.ap[k].tolist(), strict=True)),
        }
        for k, name in enumerate(ap.classes)
    }
    tiny = {
        f"{metric}{round(100 * t)}": {
            name: boxes.tiny_ap.mean(threshold=t, name=name) if metric == "AP" else boxes.tiny_miss_rate.mean(t, name)
            for name in boxes.tiny_ap.ranges
        }
        for metric in ("AP", "MR")
        for t in TINY_THRESHOLDS
    }
    values = {
        "AP": ap.mean(),
        "AP50": ap.mean(threshold=0.5),
        "AP75": ap.mean(threshold=0.75),
        "AR": ap.mean_recall(),
        "intervals": boxes.intervals,
        "at_iou": _counts_as_json(boxes.at_iou),
        "best_threshold": boxes.best_threshold,
        "by_range": by_range,
        "by_class": by_class,
        "tiny": tiny,
        "errors": boxes.errors.mean(),
        "proposals": {str(n): value for n, value in boxes.proposals.items()},
        "curves": boxes.curves,
        "calibration": boxes.calibration,
    }
    plain: dict[str, Any] = _plain(values)
    return plain


def _counts_as_json(counted: Counted) -> dict[str, Any]:
    shares = {"precision": counted.precision, "recall": counted.recall, "f_score": counted.f_score}
    plain: dict[str, Any] = _plain(counted) | _plain(shares)
    return plain


def _point_score(score: PointScore) -> dict[str, Any]:
    shares = {
        "precision": score.precision,
        "recall": score.recall,
        "f_score": score.f_score,
        "rmse_m": score.rmse,
        "rmse_px": (score.squared / score.matched) ** 0.5 if score.matched else float("nan"),
    }
    plain: dict[str, Any] = _plain(shares) | {"matched": score.matched, "found": score.found, "truth": score.truth}
    return plain


def _plain(value: Any) -> Any:
    """A value as JSON has it: nan and infinity are None, arrays are lists, dataclasses mappings."""
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(part) for part in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
