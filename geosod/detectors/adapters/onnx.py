"""ONNX graphs of other libraries' detectors, run by ONNX Runtime or OpenVINO, and decoded as the card's layout says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geosod.detectors.adapters import RUNTIMES
from geosod.detectors.adapters.layouts import LAYOUTS, Outputs, decode
from geosod.detectors.bundle import Bundle
from geosod.detectors.card import ModelCard
from geosod.detectors.contract import RawBoxes
from geosod.detectors.runtimes import Port, Session, open_session
from geosod.errors import ModelError
from geosod.results import Execution


def load(bundle: Bundle, execution: Execution, *, threshold: float) -> OnnxAdapter:  # noqa: ARG001
    """A session for the bundle's graph.

    Raises:
        ModelError: the card names no layout, or the runtime refuses the graph.
        ConfigError: the runtime is not installed.
    """
    layout = bundle.card.parameters.get("layout")
    if layout not in LAYOUTS:
        raise ModelError(
            f"model {bundle.card.name!r}: its card states layout {layout!r}, known are {', '.join(LAYOUTS)}; pack the "
            "graph again"
        )
    runner = execution if execution.backend in RUNTIMES else replace(execution, backend="onnxruntime", precision="fp32")
    return OnnxAdapter(bundle.card, open_session(bundle.read_weights(), runner, name=bundle.card.name))


class OnnxAdapter:
    """A graph and the meaning of its outputs."""

    def __init__(self, card: ModelCard, session: Session) -> None:
        self._card, self._session = card, session
        self._batch = image_port(session).shape[0]

    def predict(self, images: Tensor) -> RawBoxes:
        """The boxes of images (B, C, H, W) float32, in the network's values."""
        # A graph with a batch of its own is run on as many images at a time; the last ones are padded.
        step = self._batch or (len(images) if self._is_batched else 1)
        height, width = images.shape[2:]
        parts = [
            decode(self._card, run(self._session, part, step), width, height, step)
            for part in torch.split(images, step)
        ]
        return parts[0] if len(parts) == 1 else _joined(parts, step, len(images))

    @property
    def _is_batched(self) -> bool:
        """Whether outputs are of a batch; those of torchvision's exports are of one image."""
        return bool(self._card.parameters["layout"] != "torchvision")


def run(session: Session, images: Tensor, count: int) -> Outputs:
    """The outputs of a graph for `count` images: those that are given, and zeros."""
    missing = count - len(images)
    if missing:
        images = torch.cat([images, images.new_zeros((missing, *images.shape[1:]))])
    return tensors(session.outputs, session.run(feeds(session, images)))


def image_port(session: Session) -> Port:
    """The input that takes images: the one with four axes.

    Raises:
        ModelError: there is none.
    """
    found = [port for port in session.inputs if len(port.shape) == 4]
    if not found:
        shapes = ", ".join(f"{port.name} {list(port.shape)}" for port in session.inputs)
        raise ModelError(f"the graph has no input for images, with four axes; it has {shapes}")
    return found[0]


def is_channels_last(port: Port) -> bool:
    """Whether images are (B, H, W, C), as TensorFlow's."""
    shape = port.shape
    return shape[3] in (1, 2, 3, 4) and shape[1] not in (1, 2, 3, 4)


def feeds(session: Session, images: Tensor) -> dict[str, npt.NDArray[Any]]:
    """Every input of a graph for images (B, C, H, W) in the network's values.

    Inputs for the size or the scale of original images get those of the network's input, so that boxes come in its
    pixels.

    Raises:
        ModelError: the graph has an input that nothing is known of.
    """
    port = image_port(session)
    batch, _, height, width = images.shape
    arranged = images.permute(0, 2, 3, 1) if is_channels_last(port) else images
    if port.dtype.startswith(("uint", "int")):
        arranged = arranged.round().clamp(0, 255)
    values: dict[str, npt.NDArray[Any]] = {port.name: _array(arranged, port.dtype)}
    for other in session.inputs:
        if other.name == port.name:
            continue
        values[other.name] = np.asarray(_companion(other, batch, width, height), other.dtype)
    return values


def tensors(ports: tuple[Port, ...], arrays: list[npt.NDArray[Any]]) -> Outputs:
    """Outputs by name, in float32 where they are fractions."""
    found: dict[str, Tensor] = {}
    for port, array in zip(ports, arrays, strict=True):
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        found[port.name] = tensor.float() if tensor.is_floating_point() else tensor
    return found


def _array(images: Tensor, dtype: str) -> npt.NDArray[Any]:
    return np.ascontiguousarray(images.cpu().numpy().astype(dtype, copy=False))


def _companion(port: Port, batch: int, width: int, height: int) -> Any:
    """The value of an input beside the images, by the names that exporters give it."""
    if port.name == "scale_factor":
        return np.ones((batch, 2))
    if port.name == "im_shape":
        return np.tile([[height, width]], (batch, 1))
    if port.name == "orig_target_sizes":
        return np.tile([[width, height]], (batch, 1))
    if port.name == "pixel_mask":
        return np.ones((batch, height, width))
    raise ModelError(
        f"the graph has an input {port.name!r} besides the images, of which nothing is known; export it without"
    )


def _joined(parts: list[RawBoxes], step: int, count: int) -> RawBoxes:
    """Boxes of consecutive parts of `step` images each as those of a batch of `count`."""
    boxes, scores, labels = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("boxes", "scores", "labels")
    )
    tile = torch.cat([part.tile + i * step for i, part in enumerate(parts)])
    flags = [torch.zeros(step, dtype=torch.bool) if part.broken is None else part.broken for part in parts]
    inside = tile < count
    return RawBoxes(boxes[inside], scores[inside], labels[inside], tile[inside], count, torch.cat(flags)[:count])
