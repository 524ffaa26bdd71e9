"""What a run begins with: a network, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from geosod.detectors.card import ModelCard


@dataclass(frozen=True, slots=True, eq=False)
class NewNetwork:
    """A network that has not been trained here.

    Attributes:
        network: the module.
        card: of the model to be.
        notes: what a user should know: where the weights are from, and what was chosen by the data.
        loss: keywords of its criterion that follow from the network.
    """

    network: nn.Module
    card: ModelCard
    notes: tuple[str, ...]
    loss: dict[str, Any] = field(default_factory=dict)
