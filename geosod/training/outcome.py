"""The end of a run: the last validation, the bundle with its card, the record and the curves."""

from __future__ import annotations

import datetime as dt
import shutil
from typing import Any

import torch

from geosod.detectors.bundle import write_bundle
from geosod.detectors.card import ModelCard
from geosod.training.config import TrainConfig
from geosod.training.curves import draw_curves
from geosod.training.data import RunLabels
from geosod.training.events import Emit, Noted, Validated
from geosod.training.new_card import finished_card
from geosod.training.run_folder import RunFolder
from geosod.training.state import State
from geosod.training.validate import Validation, validate
from geosod.version import __version__


def finish(
    card: ModelCard,
    state: State,
    labels: RunLabels,
    config: TrainConfig,
    folder: RunFolder,
    emit: Emit,
    *,
    detecting: dict[str, Any],
) -> dict[str, float]:
    """Validate the averaged weights once more, and write what comes out; the figures.

    Args:
        card: of the model.
        state: of the finished training.
        labels: of the run.
        config: the settings.
        folder: of the run.
        emit: called with the figures.
        detecting: settings with which the model is run.
    """
    weights, trial = state.weights(), folder.path / ".validation"
    result = validate(card, weights, labels.val, trial, intervals=True, **detecting)
    emit(Validated(state.step, result.figures, result.figures["AP50"] >= state.best[0]))
    final = finished_card(
        card,
        threshold=result.threshold,
        accuracy=_accuracy(result, labels),
        provenance=_provenance(state, labels, config),
    )
    write_bundle(folder.model, final, weights)
    shutil.rmtree(trial, ignore_errors=True)
    try:
        draw_curves(folder)
    except Exception as error:  # a plot is not worth a run
        emit(Noted(f"the curves could not be drawn: {error}"))
    folder.finish({"steps": state.step, "seconds": round(state.seconds, 1), "validation": result.figures})
    return result.figures


def _accuracy(result: Validation, labels: RunLabels) -> dict[str, Any]:
    boxes = result.evaluation.boxes
    assert boxes is not None
    intervals = {name: [round(v, 4) for v in pair] for name, pair in boxes.intervals.items() if pair is not None}
    return {
        "on": f"{len(labels.val.images)} validation images with {result.evaluation.objects} objects, by which the "
        "threshold was chosen, too",
        "protocol": "AP as COCO has it, all detections; precision, recall and F at IoU 0.5 and the threshold",
        **result.figures,
        "intervals_95": intervals,
    }


def _provenance(state: State, labels: RunLabels, config: TrainConfig) -> dict[str, Any]:
    device = next(state.mean.parameters()).device
    return {
        "trained_with": f"geosod {__version__}, torch {torch.__version__}",
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "steps": state.step,
        "minutes": round(state.seconds / 60, 1),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
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
