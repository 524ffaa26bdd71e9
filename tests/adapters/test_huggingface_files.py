"""Folders of transformers: what is read from their files, what is refused, and that nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# ruff: noqa: E402
transformers = pytest.importorskip("transformers")

import torch
from safetensors.torch import load_file, save_file

from geosod.api import load_model
from geosod.detectors.adapters.huggingface import config_of
from geosod.detectors.packing import pack
from geosod.detectors.packing.options import PackOptions
from geosod.errors import ModelError
from tests.adapters import hf_models
from tests.adapters.hf_pipeline import PLAIN, differences, expected, picture, rewritten

pytestmark = pytest.mark.usefixtures("attempts")


def test_the_card_says_what_the_files_say(copy, tmp_path) -> None:
    folder = copy("rt_detr_v2")
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
    card = pack(folder, tmp_path / "bundle", PackOptions(gsd=0.5)).bundle.card
    assert (card.name, card.architecture, card.license) == ("rt_detr_v2", "rt_detr_v2", "Apache-2.0")
    assert card.classes == tuple(hf_models.NAMES.values()) and card.bands == ("red", "green", "blue")
    assert card.tile_size == (256, 320) and card.input.size == (256, 320) and card.nms_iou == 1 and card.top_k == 40
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == ["model.json", "model.safetensors"]
    assert card.parameters["config"]["decoder_layers"] == 2


@pytest.mark.parametrize(
    ("changes", "tile", "input_"),
    [
        ({"size": {"shortest_edge": 800, "longest_edge": 1333}}, 800, {"size": (800, 1333), "resize": "edges"}),
        ({"size": {"max_height": 480, "max_width": 640}}, (640, 480), {"size": (640, 480), "resize": "inside"}),
        ({"size": {"height": 518, "width": 518}}, 512, {"size": (518, 518), "resize": "stretch"}),
        ({"do_resize": False}, 640, {"size": None}),
        ({"do_rescale": False}, 256, {"scale": 255.0}),
        ({"rescale_factor": 1 / 127.5}, 256, {"scale": 2.0}),
        ({"do_normalize": False}, 256, {"mean": (), "std": ()}),
        ({"image_mean": [0.1, 0.2, 0.3]}, 256, {"mean": (0.1, 0.2, 0.3)}),
    ],
)
def test_preprocessing_becomes_the_network_input(changes, tile, input_, copy, tmp_path) -> None:
    folder = copy("detr")
    rewritten(folder / "preprocessor_config.json", **changes)
    card = pack(folder, tmp_path / "bundle").bundle.card
    assert card.tile_size == (tile if isinstance(tile, tuple) else (tile, tile))
    for field, value in input_.items():
        assert getattr(card.input, field) == pytest.approx(value), field


@pytest.mark.parametrize("changes", [{"do_rescale": False}, {"rescale_factor": 1 / 127.5}, {"do_normalize": False}])
def test_unusual_values_match_transformers(changes, copy, tmp_path) -> None:
    folder, image = copy("yolos"), picture(256, 256)
    rewritten(folder / "preprocessor_config.json", **changes)
    pack(folder, tmp_path / "bundle")
    found = load_model(tmp_path / "bundle", **PLAIN).detect(image)
    assert len(found) and differences(found, *expected(folder, image)) == []


def test_without_a_preprocessor_the_usual_is_assumed(copy, tmp_path) -> None:
    folder = copy("detr")
    (folder / "preprocessor_config.json").unlink()
    made = pack(folder, tmp_path / "bundle")
    assert any("preprocessor_config.json is missing" in note and "DetrImageProcessor" in note for note in made.notes)
    assert made.bundle.card.tile_size == (800, 800) and made.bundle.card.input.mean == (0.485, 0.456, 0.406)


def test_bicubic_resampling_is_noted(copy, tmp_path) -> None:
    folder = copy("rt_detr")
    rewritten(folder / "preprocessor_config.json", resample=3)
    assert any("bicubic" in note for note in pack(folder, tmp_path / "bundle").notes)


def test_classes_without_a_name(tmp_path) -> None:
    """Checkpoints for COCO have 91 classes, of which 11 are called N/A."""
    names = {0: "N/A", 1: "plane", 2: "N/A", 3: "ship"}
    hf_models.network(hf_models.detr(id2label=names)).save_pretrained(tmp_path / "model")
    transformers.DetrImageProcessor(size={"height": 256, "width": 256}).save_pretrained(tmp_path / "model")
    card = pack(tmp_path / "model", tmp_path / "bundle").bundle.card
    assert card.classes == ("N/A", "plane", "N/A-2", "ship")


def test_four_bands(tmp_path) -> None:
    backbone = transformers.ResNetConfig(
        num_channels=4, embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], out_features=["stage2"]
    )
    hf_models.network(hf_models.detr(backbone_config=backbone, num_channels=4)).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "DetrImageProcessor", "do_normalize": False})
    )
    with pytest.raises(ModelError, match="--bands"):
        pack(tmp_path / "model", tmp_path / "bundle")
    options = PackOptions(bands=("red", "green", "blue", "nir"), tile=(256, 256), input={"size": (256, 256)})
    pack(tmp_path / "model", tmp_path / "bundle", options)
    image = np.concatenate([picture(256, 256), picture(256, 256, 1)[:1]])
    assert len(load_model(tmp_path / "bundle", **PLAIN).detect(image))


def test_shards_are_put_together(folders, tmp_path) -> None:
    folder = hf_models.save("detr", tmp_path / "detr", max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1 and not (folder / "model.safetensors").exists()
    one, many = (pack(path, tmp_path / name).bundle for path, name in ((folders("detr"), "one"), (folder, "many")))
    assert one.card.weights_digest == many.card.weights_digest


def test_half_precision_weights(folders, copy, tmp_path) -> None:
    folder = copy("yolos")
    state = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    rewritten(folder / "config.json", dtype="float16")
    pack(folder, tmp_path / "bundle")
    image = picture(256, 256)
    found = load_model(tmp_path / "bundle", **PLAIN).detect(image)
    assert len(found) and differences(found, *expected(folder, image)) == []


@pytest.mark.parametrize("written", ["legacy", "nested"])
def test_a_timm_backbone_is_not_downloaded(written, tmp_path, attempts) -> None:
    """As facebook/detr-resnet-50 writes it; see huggingface/transformers#15764."""
    pytest.importorskip("timm")
    timm = {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [1, 2, 3, 4], "features_only": True}
    network = hf_models.network(hf_models.detr(backbone_config=transformers.TimmBackboneConfig.from_dict(timm)))
    folder = tmp_path / "detr-timm"
    network.save_pretrained(folder)
    transformers.DetrImageProcessor(size={"height": 256, "width": 256}).save_pretrained(folder)
    if written == "legacy":
        legacy = {"backbone": "resnet18", "use_timm_backbone": True, "use_pretrained_backbone": True}
        rewritten(folder / "config.json", backbone_config=None, **legacy, torch_dtype="float32")
    else:
        rewritten(folder / "config.json", backbone_config=timm | {"use_pretrained_backbone": True})
        config = config_of(json.loads((folder / "config.json").read_text()), "here")
        assert config.backbone_config.use_pretrained_backbone is False
    pack(folder, tmp_path / "bundle")
    image = picture(437, 351)
    found = load_model(tmp_path / "bundle", **PLAIN).detect(image)
    assert len(found) and differences(found, *expected(folder, image)) == []
    assert attempts == []


def _remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _truncated(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def _without_a_weight(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["class_labels_classifier.bias"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _config(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: rewritten(folder / "config.json", **changes)


def _processor(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: rewritten(folder / "preprocessor_config.json", **changes)


def _shards(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "../../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_pickled, r"pytorch_model\.bin is a pickle"),
        (_remove("model.safetensors"), r"has neither model\.safetensors nor"),
        (_truncated, r"model\.safetensors: cannot be read as safetensors"),
        (_shards, r"elsewhere\.safetensors', which is not in the folder"),
        (_without_a_weight, r"1 missing, such as class_labels_classifier\.bias"),
        (_config(decoder_layers=1), r"not in the network, such as model\.decoder\.layers\.1"),
        (_config(decoder_layers=3), r"missing, such as model\.decoder\.layers\.2"),
        (_config(d_model=64), "of another shape"),
        (_config(auto_map={"AutoModelForObjectDetection": "evil.Net"}), "'auto_map'"),
        (_processor(auto_map={"AutoImageProcessor": "evil.P"}), r"preprocessor_config\.json has 'auto_map'"),
        (_config(quantization_config={"load_in_8bit": True}), "quantised"),
        (_config(model_type="detr_of_next_year"), "unknown to transformers"),
        (_config(model_type="bert", architectures=None), "no object detector of model_type 'bert'"),
        (_config(architectures=["DetrForSegmentation"]), "DetrForSegmentation, which is no object detector"),
        (_config(backbone="microsoft/resnet-50", use_timm_backbone=False, backbone_config=None), "by name only"),
        (
            _config(backbone="x/y", backbone_kwargs={"a": 1}, backbone_config=None),
            "cannot read config.json: .* offline",
        ),
        (_processor(size={"width": 300}), "size must have one of"),
        (_processor(image_processor_type="NoSuchProcessor"), "cannot be read by transformers"),
        (lambda folder: (folder / "preprocessor_config.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "PEFT"),
    ],
)
def test_what_cannot_be_used_is_refused(change, message, copy, tmp_path) -> None:
    folder = copy("detr")
    change(folder)
    with pytest.raises(ModelError, match=message) as caught:
        pack(folder, tmp_path / "bundle")
    assert "\n" not in str(caught.value) and not (tmp_path / "bundle").exists()


def test_a_pickle_is_not_executed(copy, tmp_path) -> None:
    import pickle

    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    folder = copy("detr")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touch()))
    for trust in (False, True):
        with pytest.raises(ModelError, match="pickle"):
            pack(folder, tmp_path / "bundle", PackOptions(trust=trust))
    assert not (tmp_path / "executed").exists()


def test_code_in_a_card_is_refused(folders, tmp_path) -> None:
    bundle = pack(folders("detr"), tmp_path / "bundle").bundle.folder
    item = json.loads((bundle / "model.json").read_text())
    item["properties"]["geosod:parameters"]["config"]["auto_map"] = {"AutoModelForObjectDetection": "evil.Net"}
    (bundle / "model.json").write_text(json.dumps(item))
    with pytest.raises(ModelError, match="auto_map"):
        load_model(bundle, **PLAIN)


def test_an_unknown_family_needs_a_layout(copy, tmp_path, monkeypatch) -> None:
    from geosod.detectors.packing import huggingface

    monkeypatch.delitem(huggingface._FAMILIES, "rt_detr")
    folder, image = copy("rt_detr"), picture(256, 256)
    with pytest.raises(ModelError, match="--layout softmax or sigmoid"):
        pack(folder, tmp_path / "bundle")
    pack(folder, tmp_path / "bundle", PackOptions(layout="sigmoid"))
    assert differences(load_model(tmp_path / "bundle", **PLAIN).detect(image), *expected(folder, image)) == []
