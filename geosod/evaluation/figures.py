"""The figures of an evaluation, and the settings behind them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from geosod.errors import ConfigError
from geosod.evaluation.average_precision import AveragePrecision
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.curves import Calibration, PrecisionRecall
from geosod.evaluation.errors import ErrorAnalysis
from geosod.evaluation.found_scenes import FoundScene
from geosod.evaluation.matching import Matches
from geosod.evaluation.points import PointScore
from geosod.evaluation.ranges import METRES
from geosod.evaluation.tiny import MissRate
from geosod.tile_size import TileSize

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
        border_tile: width and height of tiles without overlap, to whose borders distances are reported, so that runs
            with other tiles can be compared on the same objects; None for the tiles of each run.
        level: of confidence intervals.
        resamples: of the bootstrap; 0 for no intervals.
    """

    max_detections: int | None = 500
    threshold: float | dict[str, float] | None = None
    iou: float = 0.5
    radius: float | None = None
    groups: str | None = None
    sizes: tuple[float, ...] = METRES
    border_tile: TileSize | None = None
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
