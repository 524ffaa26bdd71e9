"""What Ray Train and its workers are given, and what the driver takes over; without a cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geosod.training.config import TrainConfig
from geosod.training.ray_train import OnRay, run_config, settings_for_workers


def test_workers_are_given_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray changes workers to a folder of their own."""
    monkeypatch.chdir(tmp_path)
    for name in ("train.json", "weights.pt", "a.tif", "imagenet"):
        (tmp_path / name).touch()
    for name in ("images", "val", "S", "detector"):
        (tmp_path / name).mkdir()
    (tmp_path / "detector" / "config.json").write_text(json.dumps({"model_type": "detr"}))
    given = {"labels": "train.json", "val": "val", "images": "images", "init": "weights.pt", "network": "detector"}
    scenes = ("a.tif", "*.tif", "s3://bucket/a.tif", "https://host/a.tif", "missing.tif")
    found = settings_for_workers(TrainConfig(scenes=scenes, steps=5, **given))
    assert {name: found[name] for name in given} == {name: str(tmp_path / value) for name, value in given.items()}
    assert found["scenes"] == [str(tmp_path / "a.tif"), str(tmp_path / "*.tif"), *scenes[2:]]
    assert found["steps"] == 5 and "tile" not in found
    names = {"init": "imagenet", "network": "S"}
    assert settings_for_workers(TrainConfig(**names)) == names
    assert "init" not in settings_for_workers(TrainConfig(labels="train.json"))


def test_two_checkpoints_are_kept() -> None:
    found = run_config(OnRay("/shared/run", "ray"))
    assert found.checkpoint_config is not None and found.checkpoint_config.num_to_keep == 2
