"""ONNX graphs that classify images, for crops of detections."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from geosod.detectors.adapters import RUNTIMES
from geosod.detectors.adapters.onnx import image_port, run
from geosod.detectors.bundle import Bundle
from geosod.detectors.card import ModelCard
from geosod.detectors.runtimes import Session, open_session
from geosod.errors import ModelError
from geosod.results import Execution


def load(bundle: Bundle, execution: Execution, *, threshold: float) -> OnnxClassifier:  # noqa: ARG001
    """A session for the bundle's graph.

    Raises:
        ModelError: the runtime refuses the graph.
        ConfigError: the runtime is not installed.
    """
    runner = execution if execution.backend in RUNTIMES else replace(execution, backend="onnxruntime", precision="fp32")
    return OnnxClassifier(bundle.card, open_session(bundle.read_weights(), runner, name=bundle.card.name))


class OnnxClassifier:
    """A graph with one output (B, classes): probabilities, or logits."""

    def __init__(self, card: ModelCard, session: Session) -> None:
        self._card, self._session = card, session
        self._step = image_port(session).shape[0]

    def probabilities(self, crops: Tensor) -> Tensor:
        """(B, classes) float32 of crops (B, C, H, W)."""
        step = self._step or len(crops)
        parts = [self._run(part, step) for part in torch.split(crops, step)]
        found = torch.cat(parts)[: len(crops)]
        return found.softmax(dim=1) if self._card.parameters.get("logits", True) else found

    def _run(self, crops: Tensor, step: int) -> Tensor:
        found = next(iter(run(self._session, crops, step).values()))
        if found.ndim != 2 or found.shape != (step, len(self._card.classes)):
            raise ModelError(
                f"classifier {self._card.name!r}: its output has the shape {tuple(found.shape)}, not ({step}, "
                f"{len(self._card.classes)}); pack the graph again"
            )
        return found
