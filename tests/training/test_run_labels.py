"""The labels of a run: what is trained on, and what is validated on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from geosod.errors import ConfigError
from geosod.training.config import TrainConfig
from geosod.training.data import read_run_labels
from geosod.training.prepared import batch_maker, prepare
from tests.training.sets import labelled


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, Any]:
    """Cars and lorries to train on, and cars to validate on."""
    paths = {"labels": labelled(tmp_path / "train"), "val": labelled(tmp_path / "val", seed=1)}
    for name, path in paths.items():
        found = json.loads(path.read_text())
        for category, new in zip(found["categories"], ("car", "lorry"), strict=True):
            category["name"] = new
        if name == "val":
            gone = found["categories"].pop()["id"]
            found["annotations"] = [one for one in found["annotations"] if one["category_id"] != gone]
        path.write_text(json.dumps(found))
    return {name: str(path) for name, path in paths.items()}


def test_a_class_that_one_set_lacks_may_be_renamed(sets: dict[str, Any]) -> None:
    found = read_run_labels(TrainConfig(**sets, rename_classes="car=vehicle,lorry=vehicle"))
    assert found.train.classes == found.val.classes == ("vehicle",) and len(found.train) and len(found.val)
    turned = {"labels": sets["val"], "val": sets["labels"]}
    assert read_run_labels(TrainConfig(**turned, rename_classes="lorry=,car=vehicle")).val.classes == ("vehicle",)


@pytest.mark.parametrize("part", [["labels", "val"], ["labels"]])
def test_a_name_that_no_set_knows_is_refused(sets: dict[str, Any], part: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"no class 'lory'.*did you mean 'lorry'"):
        read_run_labels(TrainConfig(**{name: sets[name] for name in part}, rename_classes="lory=vehicle"))


@pytest.mark.parametrize("levels", [None, "2:0-80,1:0-"])
def test_objects_outside_their_image_are_left_out(tmp_path: Path, levels: str | None) -> None:
    """Nothing could be shown of them, wherever they lie."""
    path = labelled(tmp_path / "train", images=2)
    found = json.loads(path.read_text())
    far = [[1e20, 5, 1e19, 10], [-30, 5, 30, 10], [5, 160, 10, 10], [-5, -5, 10, 10]]
    found["annotations"] += [
        {"id": 900 + k, "image_id": 1, "category_id": 1, "bbox": box, "area": 100, "iscrowd": 0}
        for k, box in enumerate(far)
    ]
    path.write_text(json.dumps(found))
    small = {"network": "fcos", "parameters": {"backbone": "slim", "width": 8}, "init": "none", "tile": 64}
    ready = prepare(TrainConfig(labels=str(path), val=str(path), levels=levels, **small))
    assert "3 objects lie outside their images and are left out" in ready.notes
    assert len(ready.data.objects) == len(ready.data.labels) - 3
    make = batch_maker(ready, ready.config)
    assert all(torch.isfinite(make(step).images).all() for step in range(3))
