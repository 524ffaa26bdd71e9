"""From tiles to boxes."""

from __future__ import annotations

from geosod.detectors.bundle import Bundle, open_bundle, shipped_models, write_bundle
from geosod.detectors.card import ModelCard
from geosod.detectors.find_model import find_model
from geosod.detectors.models import Model

__all__ = ["Bundle", "Model", "ModelCard", "find_model", "open_bundle", "shipped_models", "write_bundle"]
