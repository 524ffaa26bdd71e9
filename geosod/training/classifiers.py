"""Training of a classifier of crops: its network and card, and how it is validated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from geosod.arrays import IntArray
from geosod.detectors.adapters.zoo_classifier import ZooClassifier, new_classifier
from geosod.detectors.card import CLASSIFICATION, ModelCard
from geosod.detectors.network_input import NetworkInput
from geosod.detectors.staged import CONTEXT, Classifier
from geosod.errors import SceneError
from geosod.scene import Window
from geosod.tiling.grid import make_grid
from geosod.training.config import TrainConfig
from geosod.training.crop_criterion import BACKGROUND
from geosod.training.initialise import first_weights
from geosod.training.made import NewNetwork
from geosod.training.pixels import PixelReader
from geosod.training.samples import Sample
from geosod.training.shown import show
from geosod.training.training_set import TrainingSet

#: Side of a crop in pixels, and score from which on its class is reported.
CROP_SIDE, THRESHOLD = 64, 0.25


def crop_classifier(config: TrainConfig, card_of: Callable[..., ModelCard]) -> NewNetwork:
    """A classifier for the classes of the labels and the background.

    Args:
        config: `parameters`: those of `CropClassifier`, `side`, that of a crop in pixels, and `context`, the share of a
            box's sides that a crop shows beside it; `init`.
        card_of: called with fields of the card.

    Raises:
        ModelError: a parameter is refused, or the initial weights do not fit.
    """
    parameters = {"context": CONTEXT} | config.parameters
    side = int(parameters.pop("side", CROP_SIDE))
    card = card_of(architecture="classifier", parameters=parameters, adapter="zoo-classifier")
    above = (*card.supercategories, "") if card.supercategories else ()
    card = replace(
        card,
        task=CLASSIFICATION,
        classes=(*card.classes, BACKGROUND),
        supercategories=above,
        unreported=(BACKGROUND,),
        input=NetworkInput(size=(side, side)),
        overlap=0,
        threshold=THRESHOLD,
    )
    network: nn.Module = new_classifier(card)
    return NewNetwork(network, card, (first_weights(network, config),), {"card": card})


def batch_card(card: ModelCard) -> ModelCard:
    """The card that batches are made with: slices pass as they are, and crops are cut from them."""
    return card if card.task != CLASSIFICATION else replace(card, input=NetworkInput(fill=card.input.fill))


def validate_crops(
    card: ModelCard,
    weights: Mapping[str, Any],
    data: TrainingSet,
    config: TrainConfig,
    *,
    on_failed: Callable[[str], None] | None = None,
) -> dict[str, float]:
    """How often the most probable class of labelled boxes is theirs, as staged detection would see them in tiles.

    Args:
        card: of the classifier.
        weights: its state dict.
        data: validation images.
        config: `tile`, `cache_mb`.
        on_failed: called with a message for each image that cannot be read, while there are others; None refuses them.

    Returns:
        "accuracy", over all objects, and "class_accuracy", the mean over classes.

    Raises:
        SceneError: an image cannot be read and is not left out, or none can.
    """
    network = new_classifier(card)
    network.load_state_dict(dict(weights))
    classifier = Classifier(card, ZooClassifier(network, torch.device("cpu")), card.bands)
    hits, objects = np.zeros(len(card.classes), np.int64), np.zeros(len(card.classes), np.int64)
    reader = PixelReader(data, cache_mb=config.cache_mb)
    errors: list[SceneError] = []
    for image, scene in enumerate(data.scenes):
        grid = make_grid(scene.width, scene.height, tile=config.tile, overlap=0)
        windows = [Window(*map(int, row)) for row in grid.windows_array()]
        try:
            pairs = [_classified(classifier, data, reader, image, window) for window in windows]
        except SceneError as error:
            errors.append(error)
            if on_failed is None or len(errors) == len(data.scenes):
                raise
            continue
        for found, wanted in pairs:
            objects += np.bincount(wanted, minlength=len(objects))
            hits += np.bincount(wanted[found == wanted], minlength=len(hits))
    for problem in errors:
        assert on_failed is not None
        on_failed(str(problem))
    known = objects > 0
    total = max(1, int(objects.sum()))
    each = hits[known] / objects[known] if known.any() else np.zeros(1)
    return {"accuracy": round(int(hits.sum()) / total, 4), "class_accuracy": round(float(each.mean()), 4)}


def _classified(
    classifier: Classifier, data: TrainingSet, reader: PixelReader, image: int, window: Window
) -> tuple[IntArray, IntArray]:
    """Found and true classes of the objects that a window shows whole."""
    sample = Sample(image, 1.0, window, (window.width, window.height), ())
    shown = show(data, reader, sample, min_visible=1.0)
    objects = shown.objects[~shown.objects.ignored]
    boxes = torch.from_numpy(objects.boxes).float()
    tile = torch.zeros(len(boxes), dtype=torch.int64)
    labels, _ = classifier.classify(shown.pixels.values[None], boxes, tile)
    return labels.numpy(), objects.labels
