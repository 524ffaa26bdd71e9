"""Images with known pixels, and a pipeline of a small bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import geosod
from geosod.predict.pipeline import Pipeline
from tests.rasters import noise


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """(200, 300, 3) red, green, blue."""
    return np.ascontiguousarray(np.moveaxis(noise(3, 200, 300), 0, 2))


@pytest.fixture
def photo(tmp_path: Path, pixels: np.ndarray) -> Path:
    """The pixels as a PNG."""
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def pipeline(rgb_bundle: Path) -> Pipeline:
    """A pipeline of a bundle that finds many boxes in anything."""
    return geosod.create_pipeline(str(rgb_bundle), device="cpu", backend="eager", precision="fp32")
