"""Folders of transformers where it is not installed. tests/adapters has what needs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from geosod.detectors.packing import is_model_file, pack
from geosod.errors import ModelError


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(sys.modules, "transformers", None)
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "detr", "architectures": ["DetrForObjectDetection"]}))
    save_file({"weight": torch.zeros(2)}, path / "model.safetensors")
    return path


def test_what_to_install_is_said(folder, tmp_path) -> None:
    assert is_model_file(folder)
    with pytest.raises(ModelError, match=r"pip install 'geosod\[hf\]'"):
        pack(folder, tmp_path / "bundle")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"architecture": "retinanet"}', '{"model_type": 3}'])
def test_other_folders_with_a_config_are_no_model(text, folder) -> None:
    (folder / "config.json").write_text(text)
    assert not is_model_file(folder)


def test_a_pickle_is_named(folder, tmp_path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle"):
        pack(folder, tmp_path / "bundle")


def test_another_task_is_refused(folder, tmp_path) -> None:
    values = {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match="ViTForImageClassification, which is no object detector"):
        pack(folder, tmp_path / "bundle")
