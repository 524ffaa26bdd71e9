"""Prior boxes and fusion factors are counted on objects as the network sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geosod.datasets.labels import Labels
from geosod.errors import LabelError
from geosod.training.config import TrainConfig
from geosod.training.from_data import boxes_as_trained, s_alpha
from tests.training.sets import squares


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    """In one tile, so that every object is counted once."""
    return squares(tmp_path, size=(120, 120), objects=12, sides=(8, 30))


def sides(labels: Labels, *, upscale: float = 1.0, **settings: object) -> list[float]:
    boxes, inputs = boxes_as_trained(labels, TrainConfig(tile=128, **settings), upscale=upscale)
    assert len(boxes) == len(inputs)
    return sorted((boxes[:, 2] - boxes[:, 0]).tolist())


def test_enlarged_tiles(labels: Labels) -> None:
    plain = sides(labels)
    assert sides(labels, upscale=2.0) == [2 * side for side in plain]
    # What slices are resized to counts in place of it.
    assert np.allclose(sides(labels, upscale=2.0, resize_width=(192, 192)), [1.5 * side for side in plain])


def test_levels_count_the_objects_of_their_range(labels: Labels) -> None:
    plain = np.array(sides(labels))
    found = sides(labels, levels="1:0-14,0.5:20-")
    assert found == sorted([*plain[plain <= 14], *(plain[plain >= 20] / 2)])
    with pytest.raises(LabelError, match="no object has an area"):
        sides(labels, levels="1:100-")


def test_fusion_factors_follow(labels: Labels) -> None:
    config = TrainConfig(tile=128)
    _, once = s_alpha(labels, config, "fcos", {})
    _, twice = s_alpha(labels, config, "fcos", {}, upscale=2.0)
    # Objects of twice the size belong to the next level.
    assert sum(once) == sum(twice) == len(labels) and twice[0] < once[0] and twice[1:] != once[1:]
