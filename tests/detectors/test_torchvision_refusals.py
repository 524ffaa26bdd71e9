"""Files that are no weights of torchvision's detection networks: refused in one line, and nothing is executed."""

from __future__ import annotations

import os
import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from geosod.detectors.adapters.detection_networks import build
from geosod.detectors.packing import pack
from geosod.detectors.packing.options import PackOptions
from geosod.errors import ModelError

LITE = "ssdlite320_mobilenet_v3_large"
OPTIONS = PackOptions(classes=tuple("abcde"), trust=True)


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def refused(path: Path, options: PackOptions = OPTIONS) -> str:
    with pytest.raises(ModelError) as caught:
        pack(path, path.parent / "bundle", options)
    assert "\n" not in str(caught.value) and not (path.parent / "bundle").exists()
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["pt", "pth", "ckpt", "pl", "safetensors"])
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["zip", "old", "pickle", "nested"])
def test_code_is_not_executed(suffix, how, tmp_path) -> None:
    path, mark = tmp_path / f"w.{suffix}", tmp_path / "executed"
    content: Any = {"state_dict": {"backbone.body.conv1.weight": torch.zeros(3)}, "hyper_parameters": Malicious(mark)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    elif how == "nested":
        torch.save({"state_dict": Malicious(mark)}, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    message = refused(path)
    assert not mark.exists()
    if suffix == "safetensors":
        assert "cannot be read as safetensors" in message
    else:
        assert "nothing was executed" in message and "torch.save(model.state_dict(), FILE)" in message
        assert how == "pickle" or "posix.system" in message
    # The file does what it says where it is unpickled, so this test may fail.
    if how == "pickle":
        pickle.loads(path.read_bytes())
    else:
        # By its name, torch would read the last kind as safetensors.
        torch.load(path.rename(tmp_path / "w.bin"), weights_only=False)
    assert mark.exists()


def test_whole_modules_and_scripts_are_refused(tmp_path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    assert "torch.nn.modules.linear.Linear" in refused(tmp_path / "module.pt")
    torch.jit.script(torch.nn.ReLU()).save(str(tmp_path / "script.pt"))
    assert "export it to ONNX" in refused(tmp_path / "script.pt")
    torch.save({"state_dict": {}, "args": Namespace(lr=1)}, tmp_path / "run.ckpt")
    assert "argparse.Namespace" in refused(tmp_path / "run.ckpt")


@pytest.mark.parametrize("suffix", ["pth", "ckpt", "safetensors"])
def test_damaged_files(suffix, tmp_path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / f"w.{suffix}"
    state = build(LITE, {"outputs": 6}, channels=3).state_dict()
    if suffix == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=suffix == "pth")
    content = path.read_bytes()
    for size in (0, 5, 1000, len(content) // 2, len(content) - 10):
        path.write_bytes(content[:size])
        assert "it is damaged, incomplete or something else" in refused(path), size
    path.write_text("<html>not found</html>")
    refused(path)


def test_other_state_dicts(tmp_path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"layer1.0.conv1.weight": torch.zeros(3), "fc.weight": torch.zeros(3)}, path)
    message = refused(path)
    assert "looked for backbone." in message and "roi_heads.box_predictor" in message
    assert "found are layer1.0.conv1.weight, fc.weight" in message
    torch.save({"epoch": 3}, path)
    assert "holds no state dict; found are epoch" in refused(path)
    torch.save([torch.zeros(3)], path)
    assert "holds a list, not a state dict" in refused(path)
    torch.save({"backbone.body.conv1.weight": 3, "head.classification_head.cls_logits.weight": "x"}, path)
    assert "holds no state dict" in refused(path)


def test_networks_that_differ_from_torchvisions(tmp_path) -> None:
    path = tmp_path / "w.pth"
    state = build(LITE, {"outputs": 6}, channels=3).state_dict()
    torch.save(state, path)
    assert "6 names of classes are given, but the network has 5 classes besides" in refused(
        path, PackOptions(classes=tuple("abcdef"))
    )
    assert "add --classes (names in the network's order, 5 of them" in refused(path, PackOptions())
    assert "--architecture ssd512 is unknown" in refused(path, PackOptions(architecture="ssd512"))
    assert f"the weights are those of {LITE}" in refused(path, PackOptions(architecture="ssd300_vgg16"))
    assert "SSD takes images of 320 x 320" in refused(
        path, PackOptions(classes=tuple("abcde"), input={"size": (512, 512)})
    )
    name = "backbone.extra.0.1.0.weight"
    torch.save(state | {name: state[name][:, :, :1]}, path)
    assert "does not fit it: size mismatch for backbone.extra.0.1.0.weight" in refused(path)
    torch.save({key: value for key, value in state.items() if key != name}, path)
    assert "does not fit it: Missing key(s)" in refused(path)


def test_other_anchors_are_refused(tmp_path) -> None:
    from torchvision.models.detection import retinanet_resnet50_fpn
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    sizes = tuple((side,) for side in (16, 32, 64, 128, 256))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5, anchor_generator=anchors)
    heads = {name: value for name, value in model.state_dict().items() if "conv1" in name or "head" in name}
    torch.save(heads, tmp_path / "w.pth")
    assert "has 9 anchors at each place, but the weights are for 3" in refused(tmp_path / "w.pth")


def test_a_transformers_folder_is_not_deepforests(tmp_path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/model.safetensors").write_bytes(b"")
    (tmp_path / "m/config.json").write_text('{"model_type": "detr", "label_dict": {}}')
    found = refused(tmp_path / "m")
    assert "transformers" in found or "Hugging Face" in found or "safetensors" in found
    (tmp_path / "m/config.json").write_text('{"label_dict": {"Tree": 0}}')
    assert "cannot be read as safetensors" in refused(tmp_path / "m")
