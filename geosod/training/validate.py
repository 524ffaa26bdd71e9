"""Validation: the bundle as it would be shipped, run by `geosod.detect` on whole images, compared with their labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from geosod.datasets.labels import Labels
from geosod.detectors.bundle import write_bundle
from geosod.detectors.card import ModelCard
from geosod.evaluation.evaluate import evaluate
from geosod.evaluation.figures import Evaluation, EvaluationSettings
from geosod.evaluation.searched import search
from geosod.evaluation.thresholds import rounded

#: Detections below are not asked for: they hardly change AP, and are many.
LOWEST = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """What a network finds in the validation images.

    Attributes:
        figures: AP, AP50, and at the threshold with the highest F-score: precision, recall, F.
        threshold: that threshold; that of the card where the images hold no object.
        evaluation: all figures.
    """

    figures: dict[str, float]
    threshold: float
    evaluation: Evaluation


def validate(
    card: ModelCard, weights: dict[str, Any], labels: Labels, folder: Path, *, intervals: bool = False, **settings: Any
) -> Validation:
    """Run weights on labelled images.

    Args:
        card: of the model.
        weights: its state dict.
        labels: boxes of objects.
        folder: for the bundle that is run.
        intervals: whether confidence intervals are computed.
        **settings: of `geosod.evaluation.searched.search`.
    """
    bundle = write_bundle(folder, replace(card, threshold=LOWEST), weights)
    scenes = search(labels, model=str(bundle.folder), **settings)
    chosen = EvaluationSettings(max_detections=None, resamples=1000 if intervals else 0)
    result = evaluate(labels, scenes, chosen)
    assert result.boxes is not None
    return Validation(_figures(result), _threshold(result) if result.objects else card.threshold, result)


def _threshold(result: Evaluation) -> float:
    assert result.boxes is not None
    scores = result.comparison.found.scores.astype(np.float64)
    return min(0.99, rounded(result.boxes.best_threshold, scores))


def _figures(result: Evaluation) -> dict[str, float]:
    """The figures that are reported; 0 where one is undefined, as with no detection."""
    boxes, matches = result.boxes, result.matches
    assert boxes is not None and matches is not None
    chosen = (result.comparison.found.scores >= boxes.best_threshold) & ~matches.ignored
    hits, found, objects = int(matches.hit[chosen].sum()), int(chosen.sum()), int(matches.objects.sum())
    values = {
        "AP50": boxes.ap.mean(threshold=0.5),
        "AP": boxes.ap.mean(),
        "precision": hits / found if found else 0.0,
        "recall": hits / objects if objects else 0.0,
        "F": 2 * hits / (found + objects) if found + objects else 0.0,
    }
    return {name: round(float(np.nan_to_num(value)), 4) for name, value in values.items()}
