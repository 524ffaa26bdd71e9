"""What labels say about a card: how many boxes a tile may report, and how far tiles overlap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geosod.datasets.labels import LabelledImage, Labels
from geosod.detectors.card import ModelCard
from geosod.training.config import TrainConfig
from geosod.training.new_card import first_card, usual_overlap
from tests.rasters import write_tif


def cars(folder: Path, corners: np.ndarray, size: int = 20480) -> Labels:
    """A scene with cars of 10 px."""
    path = write_tif(folder / "scene.tif", np.zeros((3, 16, 16), np.uint8))
    boxes = np.column_stack([corners, corners + 10.0])
    image = LabelledImage("scene", str(path), size, size)
    return Labels(images=[image], classes=["car"], image=[0] * len(boxes), boxes=boxes, labels=[0] * len(boxes))


def card(labels: Labels, **settings: object) -> ModelCard:
    return first_card(labels, TrainConfig(**settings), architecture="small-fpn", parameters={})


@pytest.mark.parametrize(("levels", "top_k"), [(None, 1800), ("2,1", 1800), ("1,0.5", 3600)])
def test_boxes_of_the_densest_tile(tmp_path: Path, levels: str | None, top_k: int) -> None:
    """Two full parking lots in an empty scene; a tile at half the scale shows both."""
    rng = np.random.default_rng(0)
    lot = rng.uniform(0, 500, (900, 2))
    labels = cars(tmp_path, np.concatenate([lot, lot + np.array([512, 0])]) + 10240)
    assert card(labels, levels=levels).top_k == top_k


def test_boxes_far_outside_and_none_at_all(tmp_path: Path) -> None:
    assert card(cars(tmp_path, np.full((400, 2), 1e20))).top_k == 800
    assert card(cars(tmp_path, np.zeros((0, 2)))).top_k == 300


def test_ignored_regions_do_not_widen_the_overlap(tmp_path: Path) -> None:
    labels = cars(tmp_path, np.zeros((3, 2)))
    boxes = labels.boxes.copy()
    boxes[1:, 2:] = 400
    region = labels.with_columns(boxes=boxes, ignore=[0, 1, 0], crowd=[0, 0, 1], labels=[0, -1, 0])
    assert usual_overlap(region, (512, 512)) == (32, 32)
