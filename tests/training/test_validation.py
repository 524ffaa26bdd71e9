"""Validation of a run: on images without objects, at several levels, and with images that cannot be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from geosod.errors import GeosodError
from geosod.evaluation.found_scenes import FoundScene
from geosod.evaluation.searched import search
from geosod.training.config import TrainConfig
from geosod.training.outcome import try_weights
from geosod.training.prepared import Prepared, prepare
from geosod.training.run_folder import RunFolder
from tests.training.sets import labelled
from tests.training.test_reported import changed

TINY = {"network": "fcos", "parameters": {"backbone": "slim", "width": 8, "channels": 16}, "init": "none", "tile": 64}


def prepared(tmp_path: Path, val: Path, **settings: object) -> Prepared:
    labels = labelled(tmp_path / "set", images=2, objects=6)
    return prepare(TrainConfig(labels=str(labels), val=str(val), device="cpu", threads=1, **(TINY | settings)))


def eager(ready: Prepared) -> dict[str, torch.Tensor]:
    """Weights that report something everywhere."""
    weights = ready.criterion.network.state_dict()
    return {name: torch.full_like(value, 0.0) if name.endswith("bias") else value for name, value in weights.items()}


def test_without_objects_the_threshold_stays(tmp_path: Path) -> None:
    """Else it is that of the highest false alarm."""
    val = changed(labelled(tmp_path / "val", images=1, objects=3, seed=5, size=(96, 96)), lambda _: [])
    ready = prepared(tmp_path, val)
    assert any("hold no object" in note and "stays 0.05" in note for note in ready.notes)
    trial = try_weights(ready, eager(ready), RunFolder(tmp_path / "run"), print)
    assert trial.threshold == 0.05


def test_the_levels_of_training_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of several levels differ from those of scale 1, and so does the threshold that fits them."""
    searched: list[FoundScene] = []

    def kept(*args: Any, **settings: Any) -> list[FoundScene]:
        searched.extend(search(*args, **settings))
        return searched

    monkeypatch.setattr("geosod.training.validate.search", kept)
    ready = prepared(tmp_path, labelled(tmp_path / "val", images=1, size=(64, 64)), levels="1:0-20,0.5:20-")
    try_weights(ready, eager(ready), RunFolder(tmp_path / "run"), print)
    levels = set(searched[0].found.level.tolist())
    assert 0.5 in levels


@pytest.mark.parametrize("network", ["fcos", "classifier"])
@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:4000])])
def test_images_that_become_unreadable_are_left_out(tmp_path: Path, network: str, harm: Any) -> None:
    val = labelled(tmp_path / "val", images=2, size=(64, 64))
    small = {"parameters": {} if network == "classifier" else TINY["parameters"], "network": network}
    ready = prepared(tmp_path, val, **small)
    whole = try_weights(ready, eager(ready), RunFolder(tmp_path / "run"), print)
    harm(val.parent / "images" / "image1.tif")
    notes: list[Any] = []
    part = try_weights(ready, eager(ready), RunFolder(tmp_path / "run"), notes.append)
    assert len(notes) == 1 and "1 of 2 validation images" in notes[0].text and "image1.tif" in notes[0].text
    assert part.figures.keys() == whole.figures.keys() and "1 of 2" in part.accuracy["on"]
    if harm is not Path.unlink:
        return
    strict = replace(ready, config=ready.config.model_copy(update={"on_error": "stop"}))
    with pytest.raises(GeosodError):
        try_weights(strict, eager(ready), RunFolder(tmp_path / "run"), print)
    (val.parent / "images" / "image0.tif").unlink()
    with pytest.raises(GeosodError):
        try_weights(ready, eager(ready), RunFolder(tmp_path / "run"), print)
