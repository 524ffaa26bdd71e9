"""From tiles to boxes."""

from __future__ import annotations

from geosod.detectors.base import Detector
from geosod.detectors.bundle import Bundle, open_bundle, shipped_models
from geosod.detectors.card import ModelCard
from geosod.results import Execution

__all__ = ["Bundle", "Detector", "ModelCard", "load_detector", "open_bundle", "shipped_models"]


def load_detector(bundle: Bundle, execution: Execution, *, threshold: float | None = None) -> Detector:
    """The detector of a bundle, ready to run.

    Raises:
        ModelError: the weights do not fit the architecture.
    """
    from geosod.detectors.torch_detector import TorchDetector

    return TorchDetector(bundle, execution, threshold=threshold)
