"""geosod's own classifiers of crops, with weights from a safetensors file, run by torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geosod.detectors.bundle import Bundle
from geosod.detectors.card import ModelCard
from geosod.detectors.zoo.classifier import CropClassifier
from geosod.errors import ModelError
from geosod.results import Execution

#: Parameters of a card that say how crops are cut, not what the network is.
OF_CROPS = ("context",)


def load(bundle: Bundle, execution: Execution, *, threshold: float) -> ZooClassifier:  # noqa: ARG001
    """The network that a card describes, with the bundle's weights.

    Raises:
        ModelError: the card's parameters are refused, or the weights do not fit.
    """
    model = new_classifier(bundle.card)
    bundle.load_into(model)
    return ZooClassifier(model, torch.device(execution.device))


def new_classifier(card: ModelCard) -> CropClassifier:
    """A new network for a card, without weights.

    Raises:
        ModelError: it refuses its parameters.
    """
    parameters: dict[str, Any] = {name: value for name, value in card.parameters.items() if name not in OF_CROPS}
    try:
        return CropClassifier(bands=len(card.bands), classes=len(card.classes), **parameters)
    except TypeError as error:
        raise ModelError(f"model {card.name!r}: the classifier refuses its parameters: {error}") from error


class ZooClassifier:
    """A classifier on a device, in float32: crops are few and small.

    Args:
        model: with weights.
        device: where it runs.
    """

    def __init__(self, model: CropClassifier, device: torch.device) -> None:
        self._model = model.fused().to(device)

    @torch.inference_mode()
    def probabilities(self, crops: Tensor) -> Tensor:
        """(B, classes) float32 of crops (B, C, H, W)."""
        found: Tensor = self._model(crops).softmax(dim=1)
        return found
