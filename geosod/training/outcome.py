"""The end of a run: the last validation, the bundle with its card, the record and the curves."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from geosod.detectors.bundle import write_bundle
from geosod.detectors.card import CLASSIFICATION
from geosod.training.classifiers import validate_crops
from geosod.training.config import TrainConfig
from geosod.training.curves import draw_curves
from geosod.training.data import RunLabels
from geosod.training.events import Emit, Noted, Validated
from geosod.training.prepared import Prepared
from geosod.training.run_folder import RunFolder
from geosod.training.state import State
from geosod.training.validate import Validation, validate
from geosod.version import __version__


@dataclass(frozen=True, slots=True)
class Trial:
    """How good weights are.

    Attributes:
        figures: the first is the one that counts.
        threshold: from which score on the model reports.
        accuracy: what the card says of them.
    """

    figures: dict[str, float]
    threshold: float
    accuracy: dict[str, Any]


def try_weights(
    ready: Prepared, weights: dict[str, Any], folder: RunFolder, emit: Emit, *, intervals: bool = False
) -> Trial:
    """Try weights on the validation images: as a detector in whole images, or as a classifier of labelled boxes.

    Args:
        ready: what is trained.
        weights: a state dict of its network.
        folder: of the run.
        emit: called with a note where images cannot be read.
        intervals: whether confidence intervals are computed.
    """
    unread: list[str] = []
    on_failed = unread.append if ready.config.on_error == "skip" else None
    if ready.card.task == CLASSIFICATION:
        trial = _try_crops(ready, weights, on_failed)
    else:
        trial = _try_scenes(ready, weights, folder, on_failed, intervals=intervals)
    if not unread:
        return trial
    count = f"{len(unread)} of {len(ready.labels.val.images)} validation images"
    left_out = f"{count} could not be read, or only in part, and what could not does not count"
    emit(Noted(f"{left_out}; the first: {unread[0]}"))
    return replace(trial, accuracy={**trial.accuracy, "on": f"{trial.accuracy['on']}; {left_out}"})


def _try_crops(ready: Prepared, weights: dict[str, Any], on_failed: Callable[[str], None] | None) -> Trial:
    labels = ready.labels
    figures = validate_crops(ready.card, weights, ready.val_data, ready.config, on_failed=on_failed)
    on = f"labelled boxes of {len(labels.val.images)} validation images with {len(labels.val)} objects"
    protocol = "most probable class of crops of true boxes; the mean over objects, and over classes"
    return Trial(figures, ready.card.threshold, {"on": on, "protocol": protocol, **figures})


def _try_scenes(
    ready: Prepared,
    weights: dict[str, Any],
    folder: RunFolder,
    on_failed: Callable[[str], None] | None,
    *,
    intervals: bool,
) -> Trial:
    labels, config = ready.labels, ready.config
    # What the weights can do, however fast.
    plain: dict[str, Any] = {"engine": "local", "backend": "eager", "precision": "fp32", "on_failed": on_failed}
    settings = plain | {"bands": config.bands, "alpha": config.alpha, "device": config.device}
    if config.levels is not None:
        settings |= {"levels": config.levels, "level_merge": "soft_nms"}
    result = validate(ready.card, weights, labels.val, folder.trial, intervals=intervals, **settings)
    return Trial(result.figures, result.threshold, _accuracy(result, labels))


def finish(ready: Prepared, state: State, folder: RunFolder, emit: Emit) -> dict[str, float]:
    """Try the averaged weights once more, and write what comes out; the figures.

    Args:
        ready: what was trained.
        state: of the finished training.
        folder: of the run.
        emit: called with the figures.
    """
    weights = state.weights()
    trial = try_weights(ready, weights, folder, emit, intervals=True)
    shutil.rmtree(folder.trial, ignore_errors=True)
    emit(Validated(state.step, trial.figures, next(iter(trial.figures.values())) >= state.best[0]))
    provenance = _provenance(state, ready.labels, ready.config)
    final = replace(ready.card, threshold=trial.threshold, accuracy=trial.accuracy, provenance=provenance)
    write_bundle(folder.model, final, weights)
    try:
        draw_curves(folder)
    except Exception as error:  # a plot is not worth a run
        emit(Noted(f"the curves could not be drawn: {error}"))
    folder.finish({"steps": state.step, "seconds": round(state.seconds, 1), "validation": trial.figures})
    return trial.figures


def _accuracy(result: Validation, labels: RunLabels) -> dict[str, Any]:
    boxes = result.evaluation.boxes
    assert boxes is not None
    intervals = {name: [round(v, 4) for v in pair] for name, pair in boxes.intervals.items() if pair is not None}
    chosen = ", by which the threshold was chosen, too" if result.evaluation.objects else ""
    return {
        "on": f"{len(labels.val.images)} validation images with {result.evaluation.objects} objects{chosen}",
        "protocol": "AP as COCO has it, all detections; precision, recall and F at IoU 0.5 and the threshold",
        **result.figures,
        "intervals_95": intervals,
    }


def _provenance(state: State, labels: RunLabels, config: TrainConfig) -> dict[str, Any]:
    return {
        "trained_with": f"geosod {__version__}, torch {torch.__version__}",
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "steps": state.step,
        "minutes": round(state.seconds / 60, 1),
        "device": state.trained_on,
        "precision": state.precision,
        "images": len(labels.train.images),
        "objects": len(labels.train),
        "labels_sha256": labels.digest,
        "settings": _plain_settings(config),
    }


def _plain_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that differ from their defaults, without paths of this machine."""
    hidden = {"labels", "val", "images", "scenes", "init"}
    return config.model_dump(mode="json", exclude_defaults=True, exclude=hidden | {"out", "overwrite"})
