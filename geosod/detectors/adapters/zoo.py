"""geosod's own torch networks, with weights from a safetensors file."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor

from geosod.detectors.bundle import Bundle
from geosod.detectors.card import ModelCard
from geosod.detectors.contract import RawBoxes
from geosod.detectors.zoo import ARCHITECTURES, check_architecture
from geosod.errors import ModelError
from geosod.results import Execution

#: Peaks decoded for each box that may be kept, before suppression inside the tile.
_CANDIDATES_PER_BOX = 2


class Network(Protocol):
    """What a network of the zoo can do besides being a torch module."""

    def fused(self) -> Any:
        """A copy of the module for inference: eval mode, normalisation folded into the convolutions."""
        ...

    def decode(self, raw: Any, *, threshold: float, topk: int) -> tuple[Any, Any, Any]:
        """Raw maps (B, ...) → boxes (B, K, 4) float32 in the tile frame, scores (B, K) and labels (B, K).

        Scores descend; rows that are no boxes have score -inf. Runs on the device of `raw`.
        """
        ...


def load(bundle: Bundle, execution: Execution, *, threshold: float) -> ZooAdapter:
    """The network that a card names, with the bundle's weights.

    Raises:
        ModelError: the architecture is unknown, or the weights do not fit it.
    """
    from safetensors.torch import load as load_tensors

    model = network(bundle.card)
    try:
        model.load_state_dict(load_tensors(bundle.read_weights()), strict=True)
    except ModelError:
        raise
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        raise ModelError(f"model {bundle.card.name!r}: {bundle.weights} does not fit the network: {line}") from error
    return ZooAdapter(bundle.card, model, execution, threshold=threshold)


def network(card: ModelCard) -> Any:
    """A new torch module for a card, without weights.

    Raises:
        ModelError: the architecture is unknown or refuses its parameters.
    """
    check_architecture(card.architecture, model=card.name)
    module, name = ARCHITECTURES[card.architecture].split(":")
    try:
        return getattr(import_module(module), name)(bands=len(card.bands), classes=len(card.classes), **card.parameters)
    except (TypeError, ValueError) as error:
        raise ModelError(f"model {card.name!r}: {card.architecture} refuses its parameters: {error}") from error


class ZooAdapter:
    """A network of the zoo on a device, in a precision, compiled if so asked."""

    any_size = True

    def __init__(self, card: ModelCard, model: Network, execution: Execution, *, threshold: float) -> None:
        self._card, self._network, self._execution = card, model, execution
        #: Boxes below it are not returned.
        self.min_score = threshold
        self._dtype = torch.bfloat16 if execution.precision == "bf16" else torch.float32
        self._model = self._prepared(model.fused())

    def predict(self, images: Tensor) -> RawBoxes:
        """The boxes of images (B, C, H, W) float32, 0 to 1; H and W are multiples of 32."""
        # One after the other: torch is slow at both in one call (4.2 instead of 1.9 ms a tile of 1024 on a CPU).
        images = images.contiguous(memory_format=torch.channels_last).to(self._dtype)
        raw = self._model(images).float()
        top = self._card.top_k * _CANDIDATES_PER_BOX
        found = self._network.decode(raw, threshold=self.min_score, topk=top)
        return RawBoxes.padded(*found, broken=torch.isnan(raw).flatten(1).any(dim=1))

    def _prepared(self, model: Any) -> Any:
        model = model.to(self._execution.device, self._dtype, memory_format=torch.channels_last).eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        if self._execution.backend != "compile":
            return model
        # It warns of a CUDA toolkit without a GPU, which matters to nobody here.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        # Worker processes for compilation would outlive their use in every actor.
        torch._inductor.config.compile_threads = 1
        torch._inductor.config.freezing = True
        return torch.compile(model, dynamic=False)
