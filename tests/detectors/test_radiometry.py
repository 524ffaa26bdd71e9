"""Scaling of pixels against the formula, in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geosod.detectors.network_input import NetworkInput
from geosod.detectors.radiometry import byte_tiles, scaled_tiles
from geosod.running.detect import make_job
from geosod.running.planning import plan_scene
from geosod.running.stages import read_spec, read_tiles
from geosod.scene import SceneRef, TileBatch
from geosod.testing import fake_card
from tests.rasters import noise, write_tif


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


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_bytes_are_255_times_the_scaled_values(count: int, masked: bool) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (2, 3, 8, 6), dtype=np.uint8)
    window = np.array([[0, 0, 6, 8]] * 2)
    valid = rng.random((2, 8, 6)) < 0.5 if masked else None
    card, batch = fake_card(bands=("red", "green", "blue")), TileBatch(pixels, window, valid, window[:, 2:])
    before = pixels.copy()
    found = byte_tiles(batch, card, size=count)
    assert found is not None
    assert found.dtype == torch.uint8
    expected = scaled_tiles(batch, card, size=count, device=torch.device("cpu"))
    assert torch.equal(found.to(torch.float32) / 255, expected)
    assert (pixels == before).all()


@pytest.mark.parametrize(
    "fields",
    [
        {"gamma": 2.2},
        {"dtype": "uint16", "maximum": (255.0,) * 3},
        {"maximum": (255.0, 200.0, 255.0)},
        {"minimum": (0.0, 1.0, 0.0)},
        {"scaling": "percentile", "minimum": (0.0,) * 3, "maximum": (100.0,) * 3},
        {"scaling": "physical"},
        {"input": NetworkInput(fill=0.4)},
        {"input": NetworkInput(scale=255.0)},
        {"input": NetworkInput(mean=(0.4, 0.4, 0.4))},
        {"input": NetworkInput(size=(6, 8))},
        {"input": NetworkInput(upscale=2.0)},
        {"input": NetworkInput(reverse_bands=True)},
    ],
)
def test_there_are_no_bytes_where_more_is_done_to_values(fields) -> None:
    card = fake_card(**{"bands": ("red", "green", "blue"), **fields})
    pixels, window = np.zeros((1, 3, 8, 6), card.dtype), np.array([[0, 0, 6, 8]])
    assert byte_tiles(TileBatch(pixels, window, None, window[:, 2:]), card, size=1) is None


def test_tiles_of_a_scene_are_bytes_whatever_is_said_of_its_limits(tmp_path) -> None:
    """Every tile that a run reads has limits; where values are stored ones they are those of the card."""
    job = make_job("demo-harbour")
    plan = plan_scene(job, SceneRef(str(write_tif(tmp_path / "s.tif", noise(3, 90, 80))), "s"))
    batches = [b for b in read_tiles(plan.scene, plan.units, read_spec(job, plan, plan.scene, "openvino", 1)) if b]
    tiles = next(batch for batch in batches if isinstance(batch, TileBatch))
    assert tiles.limits is not None
    found = byte_tiles(tiles, job.model.card, size=1)
    assert found is not None
    expected = scaled_tiles(tiles, job.model.card, size=1, device=torch.device("cpu"))
    assert torch.equal(found.to(torch.float32) / 255, expected)
