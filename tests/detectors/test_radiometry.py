"""Scaling of pixels against the formula, in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geosod.detectors.radiometry import scaled_tiles
from geosod.scene import TileBatch
from geosod.testing import fake_card


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("limits", [(0, 255), (0, 100), (0, 300), (20, 255), (-20, 255), (30, 90)])
@pytest.mark.parametrize("gamma", [1.0, 2.2])
def test_pixels_are_scaled_between_the_limits(dtype: str, limits: tuple[float, float], gamma: float) -> None:
    rng = np.random.default_rng(0)
    low, high = (0, 256) if dtype == "uint8" else (-400 if dtype != "uint16" else 0, 3000)
    pixels = rng.integers(low, high, (2, 3, 8, 6)).astype(dtype)
    # The second band has limits of its own.
    bands = np.array([limits, (0, 255), limits], np.float32)
    card = fake_card(bands=("red", "green", "blue"), dtype=dtype, gamma=gamma)
    window = np.array([[0, 0, 6, 8]] * 2)
    batch = TileBatch(pixels, window, None, window[:, 2:], np.tile(bands, (2, 1, 1)))
    found = scaled_tiles(batch, card, size=3, device=torch.device("cpu"))
    start, stop = bands[:, 0, None, None], bands[:, 1, None, None]
    expected = np.clip((pixels.astype(np.float32) - start) / (stop - start), 0, 1) ** np.float32(1 / gamma)
    assert found.dtype == torch.float32 and not found[2].any()
    np.testing.assert_allclose(found[:2].numpy(), expected, rtol=1e-6)
    assert (pixels == batch.pixels).all()
