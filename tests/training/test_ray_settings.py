"""What Ray Train and its workers are given, and what the driver takes over; without a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import Checkpoint, Result

import geosod
from geosod.errors import TrainingError
from geosod.training import placement, ray_train
from geosod.training.config import TrainConfig
from geosod.training.placement import device_or_auto, loader_threads
from geosod.training.prepared import Prepared, prepare
from geosod.training.ray_train import OnRay, last_state, run_config, settings_for_workers
from geosod.training.state import State
from tests.training.sets import labelled

TINY: dict[str, Any] = {
    "network": "retinanet",
    "parameters": {"backbone": "slim", "width": 8, "channels": 16, "tower": 0},
    "tile": (64, 64),
}


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


def test_the_last_state_says_on_what_the_workers_trained(tmp_path: Path) -> None:
    """The card of a run on GPUs said precision fp32 and device cpu."""
    labels = str(labelled(tmp_path / "set", images=2))
    ready = prepare(TrainConfig(labels=labels, val=labels, **TINY))
    trained = State.new(ready.criterion, ready.config, device=torch.device("cpu"), precision="fp32")
    trained.step = 7
    (tmp_path / "checkpoint").mkdir()
    trained.save(tmp_path / "checkpoint" / "checkpoint.pt", settings=ready.digest)
    metrics = {"step": 7, "precision": "bf16", "device": "NVIDIA H100"}
    result = Result(metrics, Checkpoint.from_directory(tmp_path / "checkpoint"), None, str(tmp_path))
    state = last_state(result, ready)
    assert (state.step, state.precision, state.trained_on) == (7, "bf16", "NVIDIA H100")
    with pytest.raises(TrainingError, match="without a checkpoint"):
        last_state(Result(None, None, None, str(tmp_path)), ready)


def test_a_run_on_gpus_ends_on_a_driver_that_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(ready: Prepared, *_: Any, **__: Any) -> State:
        state = State.new(ready.criterion, ready.config, device=torch.device("cpu"), precision="bf16")
        state.trained_on = "NVIDIA H100"
        return state

    monkeypatch.setattr(ray_train, "train_on_ray", trained)
    labels = labelled(tmp_path / "set", images=2)
    out = tmp_path / "run"
    result = geosod.train(labels, val=labels, out=out, ray_workers=2, device="cuda", precision="bf16", steps=4, **TINY)
    assert result.bundle is not None
    stated = geosod.load_model(result.bundle).card.provenance
    assert (stated["precision"], stated["device"]) == ("bf16", "NVIDIA H100")


def test_a_device_that_the_driver_lacks() -> None:
    assert device_or_auto("cpu") == "cpu"
    if not torch.cuda.is_available():
        assert device_or_auto("cuda") == "auto"


def test_threads_that_make_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "usable_cpus", lambda: 16)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    given, usual = TrainConfig(loaders=5), TrainConfig()
    assert loader_threads(given, cpu) == loader_threads(given, gpu, workers=4) == 5
    assert loader_threads(usual, cpu) == 1
    assert [loader_threads(usual, gpu, workers=count) for count in (1, 4, 16)] == [8, 3, 1]
