"""`evaluate`: every figure about the agreement of labels and detections."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from geosod.arrays import IntArray
from geosod.datasets.labels import Labels
from geosod.errors import ConfigError
from geosod.evaluation.average_precision import COCO_THRESHOLDS, ValueRange, average_precision, size_ranges
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.curves import calibration, precision_recall, proposal_recall
from geosod.evaluation.errors import analyse_errors
from geosod.evaluation.figures import BoxFigures, Counted, Evaluation, EvaluationSettings, Interval, PointFigures
from geosod.evaluation.found_scenes import FoundScene, Tiling
from geosod.evaluation.intervals import Statistic, bootstrap, mean_average_precision, ratio
from geosod.evaluation.join import above_threshold, join
from geosod.evaluation.matching import OBJECT, Matches, match, roles_of
from geosod.evaluation.overlaps import Overlaps, overlaps_of
from geosod.evaluation.points import count_points
from geosod.evaluation.ranges import border_ranges, metre_ranges
from geosod.evaluation.thresholds import best_threshold
from geosod.evaluation.tiny import miss_rate, tiny_average_precision


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
        *border_ranges(comparison, [_tiling(scene, settings) for scene in scenes]),
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


def _tiling(scene: FoundScene, settings: EvaluationSettings) -> Tiling | None:
    return scene.tiling if settings.border_tile is None else Tiling(settings.border_tile, (0, 0))


def _interval(statistic: Statistic, groups: int, settings: EvaluationSettings) -> Interval:
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
