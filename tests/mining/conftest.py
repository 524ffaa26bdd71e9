"""A small network trained on drawn squares, and scenes with squares of which it is sure, unsure or unaware."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import geosod
from geosod.datasets.contract import Target
from geosod.datasets.formats.coco import write_coco
from tests.rasters import write_tif
from tests.training.sets import squares
from tests.training.test_train import TINY

#: Side of a crop, and of the squares in them.
CROP, SIDE = 128, 14
CLEAR = 200


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mined")
    made = squares(folder / "images", images=6, objects=8)
    write_coco(made, Target(folder / "labels.json", folder / "labels.json"))
    some = made.of_images([0, 1])
    write_coco(some, Target(folder / "val.json", folder / "val.json"))
    settings = TINY | {"lr": 4e-3, "ema": 0.95, "steps": 400, "validate_every": 500, "photometric": 0.2}
    settings |= {"class_agnostic": True}
    result = geosod.train(folder / "labels.json", val=folder / "val.json", out=folder / "run", **settings)
    assert result.bundle is not None and result.figures["AP50"] > 0.8
    return result.bundle


def background(seed: int, height: int = CROP, width: int = CROP) -> np.ndarray:
    """As that of the training images."""
    return np.random.default_rng(seed).integers(1, 50, (3, height, width)).astype(np.uint8)


def striped(seed: int) -> np.ndarray:
    """Another kind of ground."""
    pixels = background(seed)
    pixels[:, ::8] += 40
    return pixels


def with_squares(pixels: np.ndarray, value: int, *, count: int = 2) -> np.ndarray:
    for k in range(count):
        x, y = 20 + 55 * (k % 2), 24 + 50 * (k // 2)
        pixels[:, y : y + SIDE, x : x + SIDE] = value
    return pixels


def scene_of(crops: list[list[np.ndarray]], path: Path, **raster) -> Path:
    return write_tif(path, np.concatenate([np.concatenate(row, axis=2) for row in crops], axis=1), **raster)


@pytest.fixture(scope="session")
def doubtful(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[int], np.ndarray]], int]:
    """Draws a kind of ground → the brightness of squares in it of which the network is least sure."""
    detector = geosod.load_model(model, threshold=0.01, precision="fp32", backend="eager")
    threshold = detector.card.threshold

    def brightness(ground: Callable[[int], np.ndarray]) -> int:
        def distance(value: int) -> float:
            found = detector.detect(with_squares(ground(3), value))
            return abs(float(found.scores.max(initial=0.0)) - threshold)

        return min(range(40, 110, 6), key=distance)

    return brightness
