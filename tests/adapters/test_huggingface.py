"""Folders of Hugging Face's transformers: boxes are those of its own pipeline, and nothing is downloaded."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# ruff: noqa: E402
transformers = pytest.importorskip("transformers")

import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import geosod
from geosod.api import load_model
from geosod.arrays import PixelArray
from geosod.cli.main import app
from geosod.detectors import open_bundle
from geosod.detectors.models import find_model
from geosod.detectors.network_input import NetworkInput
from geosod.detectors.packing import is_model_file, pack
from geosod.detectors.packing.found import PackOptions
from geosod.errors import ModelError
from geosod.testing import check_detector
from tests.adapters import hf_models

#: Scores of the random networks are above it where they find something.
THRESHOLD = 0.2
#: The exactness that is asked for: pixels, and scores.
PIXELS, SCORES = 1e-3, 1e-4
PLAIN = {"precision": "fp32", "backend": "eager", "device": "cpu", "batch": 1, "threshold": THRESHOLD}


@pytest.fixture(autouse=True)
def attempts(monkeypatch) -> list[Any]:
    """Connections that were tried; none may be."""
    tried: list[Any] = []

    def refuse(*args: Any, **_: Any) -> None:
        tried.append(args)
        raise OSError("tests have no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield tried
    assert tried == [], "something tried to reach the network"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a model of `hf_models.MODELS`, made once."""
    root = tmp_path_factory.mktemp("hf")
    return lambda name: root / name if (root / name).is_dir() else hf_models.save(name, root / name)


@pytest.fixture
def copy(folders, tmp_path) -> Callable[[str], Path]:
    """A copy of such a folder that a test may change."""
    import shutil

    return lambda name: Path(shutil.copytree(folders(name), tmp_path / "copy" / name))


def picture(height: int, width: int, seed: int = 0) -> PixelArray:
    """(3, H, W) uint8: coloured clouds and noise; the bands differ much in brightness."""
    generator = torch.Generator().manual_seed(seed)
    clouds = torch.rand(1, 3, 12, 15, generator=generator) * torch.tensor([255.0, 150.0, 80.0])[:, None, None]
    smooth = torch.nn.functional.interpolate(clouds, size=(height, width), mode="bicubic")[0]
    noise = torch.rand(3, height, width, generator=generator) * 20
    return np.asarray((smooth + noise).clamp(0, 255).to(torch.uint8).numpy())


@cache
def pipeline(folder: Path) -> tuple[Any, Any]:
    """Image processor and network as transformers loads them."""
    network = transformers.AutoModelForObjectDetection.from_pretrained(folder, dtype=torch.float32)
    return transformers.AutoImageProcessor.from_pretrained(folder), network.eval()


def expected(folder: Path, image: PixelArray, **options: Any) -> tuple[Any, Any, Any]:
    """Boxes, scores and labels of transformers' pipeline, clipped to the image as geosod's are."""
    processor, model = pipeline(folder)
    height, width = image.shape[1:]
    with torch.inference_mode():
        found = model(**processor(images=[image.transpose(1, 2, 0)], input_data_format="channels_last"))
    sizes = {"threshold": THRESHOLD - SCORES, "target_sizes": [(height, width)]}
    result = processor.post_process_object_detection(found, **sizes, **options)[0]
    boxes, scores, labels = (result[name].numpy() for name in ("boxes", "scores", "labels"))
    boxes = np.minimum(boxes.clip(0), [width, height, width, height])
    kept = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
    return boxes[kept], scores[kept], labels[kept]


def differences(found: geosod.Detections, boxes: Any, scores: Any, labels: Any) -> list[str]:
    """What differs between detections and those of a pipeline, whose scores reach a little below the threshold."""
    wrong = [] if len(found) <= len(boxes) else [f"{len(found)} boxes, not {len(boxes)}"]
    taken = np.zeros(len(found), bool)
    for box, score, label in zip(boxes, scores, labels, strict=True):
        near = (np.abs(found.boxes - box).max(axis=1) <= PIXELS) & (np.abs(found.scores - score) <= SCORES)
        near &= (found.labels == label) & ~taken
        if near.any():
            taken[near.argmax()] = True
        elif score > THRESHOLD + SCORES:
            wrong.append(f"no box near {box} with score {score} and label {label}")
    return wrong + [f"{(~taken).sum()} boxes of no pipeline"] * (not taken.all())


def edited(bundle: Path, **changes: Any) -> Path:
    """A bundle with other fields of its network input."""
    item = json.loads((bundle / "model.json").read_text())
    item["properties"]["geosod:input"] |= changes
    (bundle / "model.json").write_text(json.dumps(item))
    return bundle


def rewritten(path: Path, **changes: Any) -> None:
    """A JSON file with other values; None removes one."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


# --- Parity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", hf_models.MODELS)
def test_boxes_are_those_of_transformers(name, folders, tmp_path) -> None:
    card = pack(folders(name), tmp_path / "bundle").bundle.card
    detector = load_model(tmp_path / "bundle", **PLAIN)
    for height, width in ((437, 351), (341, 561), card.tile_size[::-1]):
        image = picture(height, width)
        wanted = expected(folders(name), image)
        assert len(wanted[0]) >= 5, "the random network finds too little to compare"
        assert differences(detector.detect(image), *wanted) == [], (height, width)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("detr", {"reverse_bands": True}),
        ("detr", {"mean": [0.0, 0.0, 0.0]}),
        ("detr", {"std": [1.0, 1.0, 1.0]}),
        ("detr", {"resize": "stretch", "size": [256, 256]}),
        ("rt_detr_v2", {"reverse_bands": True}),
        ("rt_detr_v2", {"size": [320, 256]}),
        ("d_fine", {"scale": 255.0}),
        ("d_fine", {"resampling": "bilinear"}),
        ("deformable_detr", {"mean": [0.406, 0.456, 0.485]}),
    ],
)
def test_a_wrong_input_is_seen(name, changes, folders, tmp_path) -> None:
    """The comparison above would not pass with another order of bands, mean, scale or size."""
    pack(folders(name), tmp_path / "bundle")
    image = picture(341, 561)
    found = load_model(edited(tmp_path / "bundle", **changes), **PLAIN).detect(image)
    assert differences(found, *expected(folders(name), image))


@pytest.mark.parametrize("name", hf_models.MODELS)
def test_the_contract_holds(name, folders, tmp_path) -> None:
    pack(folders(name), tmp_path / "bundle")
    detector = load_model(tmp_path / "bundle", **PLAIN)
    width, height = detector.card.tile_size
    check_detector(detector, np.stack([picture(height, width, seed) for seed in range(3)]))


def test_more_boxes_than_the_processor_keeps(folders, tmp_path) -> None:
    """Deformable DETR's keeps the best 100 pairs of query and class; --top-k asks for more."""
    folder, image = folders("deformable_detr"), picture(256, 256)
    assert pack(folder, tmp_path / "usual").bundle.card.top_k == 100
    pack(folder, tmp_path / "more", PackOptions(top_k=120))
    found = load_model(tmp_path / "more", **PLAIN).detect(image)
    assert len(found) > 100 and differences(found, *expected(folder, image, top_k=120)) == []


@pytest.mark.parametrize("seed", range(4))
def test_sizes_are_rounded_as_transformers_does(seed) -> None:
    from transformers.image_transforms import get_size_with_aspect_ratio
    from transformers.image_utils import get_image_size_for_max_height_width

    rng = np.random.default_rng(seed)
    for _ in range(3000):
        width, height, shortest, more = (int(n) for n in rng.integers(32, 1500, 4))
        if rng.random() < 0.3:
            width = shortest
        longest = min(shortest + more, 8192)
        fit = NetworkInput(size=(shortest, longest), resize="edges").fit(width, height)
        size = get_size_with_aspect_ratio((height, width), shortest, longest)
        assert (fit.inner_height, fit.inner_width) == (fit.height, fit.width) == size, (width, height, shortest)
        fit = NetworkInput(size=(shortest, longest), resize="inside").fit(width, height)
        size = get_image_size_for_max_height_width((height, width), longest, shortest)
        assert (fit.height, fit.width) == tuple(max(1, n) for n in size)


# --- What the files say -----------------------------------------------------------------------------------------------


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


# --- Weights ----------------------------------------------------------------------------------------------------------


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
    pack(folder, tmp_path / "bundle")
    image = picture(437, 351)
    found = load_model(tmp_path / "bundle", **PLAIN).detect(image)
    assert len(found) and differences(found, *expected(folder, image)) == []
    assert attempts == []


# --- Refusals ---------------------------------------------------------------------------------------------------------


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


# --- In use -----------------------------------------------------------------------------------------------------------


def test_a_folder_is_a_model(folders, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GEOSOD_CACHE", str(tmp_path))
    assert is_model_file(folders("rt_detr")) and not is_model_file(tmp_path)
    model = find_model(folders("rt_detr"))
    assert model.card.adapter == "huggingface" and open_bundle(model.bundle.folder).card == model.card
    image = picture(600, 700)
    result = geosod.detect(image, model=str(folders("rt_detr")), threshold=THRESHOLD, batch=1)
    assert len(next(iter(result.outputs.values())).detections)


def test_the_command_packs(folders, tmp_path) -> None:
    result = CliRunner().invoke(
        app, ["model", "pack", str(folders("d_fine")), "-o", str(tmp_path / "out"), "--gsd", "1"]
    )
    assert result.exit_code == 0, result.output
    info = CliRunner().invoke(app, ["model", "info", str(tmp_path / "out")])
    assert "d_fine" in info.output and "d_model" not in info.output, "the config is not for people"
