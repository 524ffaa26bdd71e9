"""geosod's own networks, with weights from a safetensors file, run by torch or by a runtime of ONNX graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor

from geosod.detectors.adapters import RUNTIMES
from geosod.detectors.bundle import Bundle
from geosod.detectors.card import ModelCard
from geosod.detectors.contract import RawBoxes
from geosod.detectors.export import graph_of
from geosod.detectors.graph_network import GraphNetwork
from geosod.detectors.zoo import ARCHITECTURES, check_architecture
from geosod.errors import ModelError
from geosod.results import Execution

#: Precision → type of the weights and maps of networks that torch runs.
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Network(Protocol):
    """What a network of the zoo can do besides being a torch module.

    Attributes:
        candidates_per_box: boxes to decode for each that may be kept, before suppression inside the tile.
    """

    candidates_per_box: int

    def fused(self) -> Any:
        """A copy of the module for inference: eval mode, normalisation folded into the convolutions."""
        ...

    def exported(self, precision: str) -> Any:
        """A copy as `fused`, to make an ONNX graph of that a runtime computes in a precision."""
        ...

    def decode(self, raw: Any, *, size: tuple[int, int], threshold: float, topk: int) -> tuple[Any, Any, Any]:
        """Raw maps (B, ...) → boxes (B, K, 4) float32 in the tile frame, scores (B, K) and labels (B, K).

        `size` is the height and width of the images in pixels. Scores descend; rows that are no boxes have score -inf.
        Runs on the device of `raw`.
        """
        ...

    def decode_fixed(self, raw: Any, *, size: tuple[int, int], threshold: float, topk: int) -> tuple[Any, Any, Any]:
        """The same with K = `topk`, in operations that an ONNX graph can hold; boxes of one score in any order."""
        ...


def load(bundle: Bundle, execution: Execution, *, threshold: float) -> ZooAdapter:
    """The network that a card names, with the bundle's weights, ready to run.

    Raises:
        ModelError: the architecture is unknown, or the weights do not fit it.
        ConfigError: the execution's backend is not installed.
    """
    return ZooAdapter(bundle.card, read_network(bundle), execution, threshold=threshold)


def read_network(bundle: Bundle) -> Any:
    """The torch module that a card names, with the bundle's weights, on the CPU.

    Raises:
        ModelError: the architecture is unknown, or the weights do not fit it.
    """
    model = network(bundle.card)
    bundle.load_into(model)
    return model


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


def boxes_of(network: Network, raw: Tensor, card: ModelCard, *, size: Sequence[int], threshold: float) -> RawBoxes:
    """What a network's raw maps (B, …) float32 say of images of a height and width."""
    height, width = size
    topk = card.top_k * network.candidates_per_box
    found = network.decode(raw, size=(height, width), threshold=threshold, topk=topk)
    # The maximum is not a number where any value is not, and takes a twentieth of the time of asking each.
    return RawBoxes.padded(*found, broken=torch.isnan(raw.flatten(1).amax(dim=1)))


class ZooAdapter:
    """A network of the zoo on a device, in a precision, by a backend."""

    any_size = True

    def __init__(self, card: ModelCard, model: Network, execution: Execution, *, threshold: float) -> None:
        self._card, self._network, self._execution = card, model, execution
        #: Boxes below it are not returned.
        self.min_score = threshold
        self._dtype = _DTYPES[execution.precision]
        self._backbone: Any = None
        #: Images (B, C, H, W) float32 → the network's raw maps, float32.
        self.compute = self._by_runtime(model) if execution.backend in RUNTIMES else self._by_torch(model.fused())
        self.takes_bytes = bool(getattr(self.compute, "takes_bytes", False))

    def predict(self, images: Tensor) -> RawBoxes:
        """The boxes of images (B, C, H, W), float32 from 0 to 1 or bytes; H and W are multiples of 32."""
        size = images.shape[2:]
        return boxes_of(self._network, self.compute(images), self._card, size=size, threshold=self.min_score)

    def backbone_maps(self, images: Tensor) -> list[Tensor] | None:
        """Maps (B, C, h, w) float32 of the network's backbone, in float32 by torch; None where it has no such part."""
        if not hasattr(self._network, "backbone"):
            return None
        if self._backbone is None:
            self._backbone = self._network.fused().backbone.to(self._execution.device, torch.float32).eval()
        maps: list[Tensor] = list(self._backbone(images))
        return maps

    def _by_runtime(self, model: Network) -> Callable[[Tensor], Tensor]:
        graph = graph_of(self._card, model, self._execution.precision)
        return GraphNetwork(graph, self._execution, name=self._card.name)

    def _by_torch(self, model: Any) -> Callable[[Tensor], Tensor]:
        prepared = self._prepared(model)

        def compute(images: Tensor) -> Tensor:
            # One after the other: torch is slow at both in one call (4.2 instead of 1.9 ms a tile of 1024 on a CPU).
            images = images.contiguous(memory_format=torch.channels_last).to(self._dtype)
            raw: Tensor = prepared(images)
            return raw.float()

        return compute

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
