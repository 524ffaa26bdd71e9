"""What a detector is, and the registry of networks that bundles name."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from geosod.detections import Detections
from geosod.detectors.card import ModelCard
from geosod.errors import ModelError
from geosod.results import Execution
from geosod.scene import TileBatch

#: Architecture as a card names it → "module:class" of a torch module that is a `Network`, built with
#: keywords bands, classes and the card's parameters. Loading a bundle never imports anything else.
ARCHITECTURES = {
    "small-fpn": "geosod.detectors.zoo.fpn:SmallFPN",
    "centre-unet": "geosod.detectors.zoo.unet:CentreUNet",
}


@runtime_checkable
class Detector(Protocol):
    """Finds objects in tiles. One process holds one; engines call `detect` with full batches."""

    @property
    def card(self) -> ModelCard:
        """What the model is made for."""
        ...

    @property
    def execution(self) -> Execution:
        """How it runs on this machine."""
        ...

    def warm_up(self, tile: int) -> None:
        """Run once on blank tiles of `tile` pixels a side, so that a full batch is known to fit.

        Raises:
            MemoryError: it does not.
        """
        ...

    def detect(self, batch: TileBatch) -> list[Detections]:
        """The objects of each tile, in the scene frame, clipped to the tile.

        A tile's result must not depend on the other tiles of the batch.
        """
        ...


class Network(Protocol):
    """What a network of the registry can do besides being a torch module."""

    def fused(self) -> Any:
        """A copy of the module for inference: eval mode, normalisation folded into the convolutions."""
        ...

    def decode(self, raw: Any, *, threshold: float, topk: int) -> tuple[Any, Any, Any]:
        """Raw maps (B, ...) → boxes (B, K, 4) float32 in the tile frame, scores (B, K) and labels (B, K).

        Scores descend; rows that are no box have score -inf. Runs on the device of `raw`.
        """
        ...


def network(card: ModelCard) -> Any:
    """A fresh torch module for a card, weights not loaded.

    Raises:
        ModelError: the architecture is unknown or refuses its parameters.
    """
    if card.architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"model {card.name!r}: unknown architecture {card.architecture!r}; known are: {known}")
    module, name = ARCHITECTURES[card.architecture].split(":")
    try:
        return getattr(import_module(module), name)(bands=len(card.bands), classes=len(card.classes), **card.parameters)
    except (TypeError, ValueError) as error:
        raise ModelError(f"model {card.name!r}: {card.architecture} refuses its parameters: {error}") from error
