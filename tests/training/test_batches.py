"""Batches whose images cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from geosod.errors import SceneError
from geosod.training.batches import BatchMaker
from geosod.training.pixels import PixelReader
from geosod.training.prepared import sampler_of
from tests.training.sets import opened, squares


@pytest.mark.parametrize("levels", [None, "2:0-80,1:0-80"])
def test_a_batch_of_one_unreadable_image_is_replaced(tmp_path: Path, levels: str | None) -> None:
    """By the same images each time, so that a run that goes on meets what it would have."""
    data, config, _ = opened(squares(tmp_path, images=2), batch=1, levels=levels)
    sampler = sampler_of(data, config)
    (tmp_path / "image1.tif").unlink()

    def maker() -> BatchMaker:
        return BatchMaker(data, PixelReader(data, cache_mb=0), sampler.batch, None, min_visible=0.25)

    lost = next(step for step in range(100) if sampler.batch(step)[0].image == 1)
    first, again = maker()(lost), maker()(lost)
    assert torch.equal(first.images, again.images) and [one.image for one in first.samples] == [0]
    assert "image1.tif" in first.problems[0][0]
    (tmp_path / "image0.tif").unlink()
    with pytest.raises(SceneError, match=r"image\d\.tif"):
        maker()(lost)
