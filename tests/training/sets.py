"""Labelled images for tests of training: bright squares on noise, in real GeoTIFFs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from geosod.datasets.contract import Target
from geosod.datasets.formats.coco import write_coco
from geosod.datasets.image_files import read_image
from geosod.datasets.labels import Labels
from geosod.datasets.problems import Problems
from geosod.training.config import TrainConfig
from geosod.training.new_card import first_card
from geosod.training.training_set import TrainingSet, open_set
from tests.rasters import write_tif


def squares(
    folder: Path,
    *,
    images: int = 3,
    size: tuple[int, int] = (200, 160),
    objects: int = 6,
    dtype: str = "uint8",
    bands: int = 3,
    sides: tuple[int, int] = (8, 20),
    seed: int = 0,
    **raster: Any,
) -> Labels:
    """Images with squares of two classes: bright ones, and ones that are bright in the first band only."""
    rng = np.random.default_rng(seed)
    top = 200 if dtype == "uint8" else 9000
    made, image, boxes, labels = [], [], [], []
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(images):
        pixels = rng.integers(1, top // 4, (bands, size[1], size[0])).astype(dtype)
        taken = np.zeros((size[1], size[0]), np.bool_)
        for _ in range(objects):
            side = int(rng.integers(*sides))
            x, y = int(rng.integers(size[0] - side)), int(rng.integers(size[1] - side))
            if taken[max(0, y - 2) : y + side + 2, max(0, x - 2) : x + side + 2].any():
                continue
            taken[y : y + side, x : x + side] = True
            label = int(rng.integers(2))
            pixels[: 1 if label else bands, y : y + side, x : x + side] = top
            image.append(k)
            boxes.append([x, y, x + side, y + side])
            labels.append(label)
        path = write_tif(folder / f"image{k}.tif", pixels, **raster)
        made.append(read_image(f"image{k}", path, k + 1))
    return Labels(images=made, classes=("bright", "red"), image=image, boxes=boxes, labels=labels)


def opened(labels: Labels, **settings: Any) -> tuple[TrainingSet, TrainConfig, Problems]:
    """A training set with the card that the settings ask for."""
    config = TrainConfig(**({"tile": 64, "batch": 4} | settings))
    card = first_card(labels, config, architecture="small-fpn", parameters={"width": 8})
    problems = Problems()
    return open_set(labels, card, config, problems), config, problems


def labelled(folder: Path, **kind: Any) -> Path:
    made = squares(folder / "images", **kind)
    write_coco(made, Target(folder / "labels.json", folder / "labels.json"))
    return folder / "labels.json"
