"""torchvision's detection networks in bundles find what torchvision itself finds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import geosod
from geosod.detectors.adapters.detection_networks import ARCHITECTURES, build
from geosod.detectors.detector import Detector
from geosod.detectors.packing import pack
from geosod.detectors.packing.class_names import COCO, COCO_IDS
from geosod.detectors.packing.options import PackOptions
from geosod.errors import ModelError
from geosod.testing import check_detector
from tests.detectors.torchvision_samples import calibrate, difference, expected, image, network, saved

NAMES = tuple("abcde")
LITE = "ssdlite320_mobilenet_v3_large"
RCNN = "fasterrcnn_mobilenet_v3_large_320_fpn"
#: Thresholds with which the networks find 20 to 100 boxes.
CUT = {LITE: 0.1, RCNN: 0.2, "fcos_resnet50_fpn": 0.55, "fasterrcnn_resnet50_fpn": 0.4, "retinanet_resnet50_fpn": 0.3}
HEAVY = [name for name in ARCHITECTURES if name not in (LITE, RCNN, "retinanet_resnet50_fpn")]


@pytest.fixture(autouse=True)
def _no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights would be downloaded")

    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", refuse)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Several processes run tests at once, and would fight for the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def sample(name: str, outputs: int = 0) -> Any:
    """The network with five classes besides a background that it counts, or of so many outputs."""
    return network(name, outputs or len(NAMES) + ARCHITECTURES[name].background)


def bundle(model: Any, folder: Path, name: str = "w.pth", **options: Any) -> Path:
    made = pack(saved(model, folder / name), folder / "bundle", PackOptions(**({"classes": NAMES} | options)))
    return made.bundle.folder


def edit(folder: Path, **parameters: Any) -> None:
    path = folder / "model.json"
    item = json.loads(path.read_text())
    item["properties"]["geosod:parameters"] |= parameters
    path.write_text(json.dumps(item))


def load(folder: Path, **options: Any) -> Detector:
    plain: dict[str, Any] = {"precision": "fp32", "backend": "eager", "device": "cpu", "batch": 1, "threads": 1}
    return geosod.load_model(folder, **(plain | options))


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in HEAVY else ()) for n in ARCHITECTURES])
def test_boxes_are_torchvisions(name, tmp_path) -> None:
    """An image of odd sides, larger than a tile, against the same network called by itself."""
    model, kind, threshold = sample(name), ARCHITECTURES[name], CUT.get(name, 0.3)
    folder = bundle(model, tmp_path, architecture=name, threshold=threshold, tile=(352, 352))
    usual = model.transform.min_size, model.transform.max_size
    if name in HEAVY and kind.fixed is None:
        edit(folder, min_size=224, max_size=300)
        model.transform.min_size, model.transform.max_size = (224,), 300
    try:
        pixels = image(509, 381, seed=3)
        found = load(folder).detect(pixels)
        labels = list(range(kind.background, 5 + kind.background))
        boxes, scores = difference(found, expected(model, pixels, labels), threshold)
    finally:
        model.transform.min_size, model.transform.max_size = usual
    assert boxes < 1e-3 and scores < 1e-4
    assert len(found) >= 10 and len(set(found.labels)) >= 3


def test_the_comparison_notices_what_may_go_wrong(tmp_path) -> None:
    """Order of bands, scale, offset, labels and resizing."""
    model, threshold = sample(LITE), CUT[LITE]
    detector = load(bundle(model, tmp_path, threshold=threshold, tile=(320, 320)))
    pixels, labels = image(509, 381, seed=3), [1, 2, 3, 4, 5]
    assert max(difference(detector.detect(pixels), expected(model, pixels, labels), threshold)) < 1e-3
    wrong = {
        "bands": expected(model, pixels[::-1], labels),
        "offset": expected(model, np.roll(pixels, 1, axis=2), labels),
        "scale": expected(model, pixels // 2, labels),
        "labels": expected(model, pixels, [0, 1, 2, 3, 4]),
        "size": expected(model, pixels[:, :380], labels),
    }
    for what, other in wrong.items():
        boxes, _ = difference(detector.detect(pixels), other, threshold)
        assert boxes > 0.01, what


def test_tiles_may_pass_as_they_are(tmp_path) -> None:
    """--upscale 1: the network does not resize them, and finds what torchvision finds where that does not."""
    model, threshold = sample(RCNN), 0.3
    options: dict[str, Any] = {"architecture": RCNN, "threshold": threshold, "tile": (128, 128)}
    detector = load(bundle(model, tmp_path, **options, input={"upscale": 1.0}))
    pixels, usual = image(301, 215, seed=4), (model.transform.min_size, model.transform.max_size)
    model.transform.min_size, model.transform.max_size = (215,), 301
    try:
        wanted = expected(model, pixels, [1, 2, 3, 4, 5])
    finally:
        model.transform.min_size, model.transform.max_size = usual
    found = detector.detect(pixels)
    assert max(difference(found, wanted, threshold)) < 1e-3 and len(found) >= 10


@pytest.mark.parametrize("name", [LITE, RCNN, pytest.param("retinanet_resnet50_fpn", marks=pytest.mark.slow)])
def test_the_contract_holds(name, tmp_path) -> None:
    """Also for Faster R-CNN, where torchvision joins the proposals of a batch."""
    options: dict[str, Any] = {"input": {"upscale": 1.0}} if name != LITE else {}
    folder = bundle(sample(name), tmp_path, architecture=name, threshold=CUT[name], tile=(128, 128), **options)
    images = np.stack([image(128, 128, seed) for seed in range(3)])
    check_detector(load(folder, batch=3), images)


def test_a_tile_does_not_depend_on_the_proposals_of_others(tmp_path, monkeypatch) -> None:
    """A product of matrices with three rows rounds otherwise than one with hundreds."""
    adapter: Any = load(bundle(sample(RCNN), tmp_path, architecture=RCNN, threshold=0.0), batch=2).adapter
    corners = torch.from_numpy(np.random.default_rng(0).uniform(0, 200, (300, 2))).float()
    boxes = torch.cat([corners, corners + 60], dim=1)
    images = torch.stack([torch.from_numpy(image(320, 320, seed)).float() / 255 for seed in (1, 2)])
    found = []
    for others in (0, 300):
        monkeypatch.setattr(adapter._model.rpn, "forward", lambda *_, n=others: ([boxes[:3], boxes[:n]], {}))
        with torch.inference_mode():
            raw = adapter.predict(images.clone())
        found.append(raw.scores[raw.tile == 0])
    assert len(found[0]) > 5 and torch.equal(*found)


def test_threshold_and_number_of_boxes_are_the_networks(tmp_path) -> None:
    model = sample(RCNN)
    pixels = image(352, 352, seed=5)
    few = load(bundle(model, tmp_path, architecture=RCNN, threshold=0.5))
    assert few.card.top_k == 100 and few.card.nms_iou == 0.5 and few.card.tile_size == (320, 320)
    many = load(tmp_path / "bundle", threshold=0.01)
    assert len(few.detect(pixels)) < len(many.detect(pixels)) == 100
    (tmp_path / "more").mkdir()
    more = load(bundle(model, tmp_path / "more", architecture=RCNN, threshold=0.01, top_k=2000, nms_iou=0.9))
    found = more.detect(pixels)
    assert 100 < len(found) <= 2000 and found.scores.min() < 0.05, "torchvision's own threshold"


def test_defaults_are_torchvisions() -> None:
    for name, kind in ARCHITECTURES.items():
        model = build(name, {"outputs": 3}, channels=3)
        heads = model.roi_heads if hasattr(model, "roi_heads") else model
        assert (heads.nms_thresh, heads.detections_per_img) == (kind.nms_iou, kind.top_k), name
        if kind.fixed:
            assert model.transform.fixed_size == (kind.fixed, kind.fixed), name
        else:
            assert (model.transform.min_size, model.transform.max_size) == ((kind.min_size,), kind.max_size), name


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "module.", "model.", "model.module.", "_orig_mod."])
def test_wrappers_and_prefixes_are_undone(wrapper, tmp_path) -> None:
    state = sample(LITE).state_dict()
    other = {"criterion.weight": torch.zeros(3), "epoch": 3}
    if wrapper.endswith("."):
        content = {f"{wrapper}{name}": value for name, value in state.items()} | other
    else:
        content = {wrapper: state, "optimizer": {"lr": 0.1}, "epoch": 3}
    torch.save(content, tmp_path / "w.ckpt")
    made = pack(tmp_path / "w.ckpt", tmp_path / "wrapped", PackOptions(classes=NAMES)).bundle
    (tmp_path / "plain").mkdir()
    plain = pack(saved(sample(LITE), tmp_path / "plain/w.safetensors"), tmp_path / "b", PackOptions(classes=NAMES))
    assert made.card.weights_digest == plain.bundle.card.weights_digest
    assert made.card.architecture == LITE and made.card.adapter == "torchvision"


@pytest.mark.slow
def test_names_of_older_versions_are_read(tmp_path) -> None:
    """As in torchvision's own files of COCO: layers of heads and of the pyramid had one level less."""
    model = sample("retinanet_resnet50_fpn")
    state = {}
    for name, value in model.state_dict().items():
        parts = name.split(".")
        short = (parts[0] == "head" and parts[2] == "conv") or parts[2:3] in (["inner_blocks"], ["layer_blocks"])
        if short and parts[0] == "head":
            parts[3] = str(2 * int(parts[3]))
        state[".".join(parts[:4] + parts[5:]) if short else name] = value
    assert "backbone.fpn.inner_blocks.0.weight" in state and "head.regression_head.conv.6.bias" in state
    torch.save(state, tmp_path / "old.pth")
    old = pack(tmp_path / "old.pth", tmp_path / "o", PackOptions(classes=NAMES)).bundle
    new = pack(saved(model, tmp_path / "new.pth"), tmp_path / "n", PackOptions(classes=NAMES)).bundle
    assert old.card.weights_digest == new.card.weights_digest


def test_four_bands(tmp_path) -> None:
    """Values that the weights do not contain are asked for, and are used."""
    model = build(LITE, {"outputs": 6, "image_mean": [0.5] * 4, "image_std": [0.25] * 4}, channels=4)
    calibrate(model)
    with pytest.raises(ModelError, match=r"add --mean .of 4 bands.*--std.*--bands"):
        bundle(model, tmp_path)
    spec = {"mean": (0.5,), "std": (0.25,)}
    detector = load(bundle(model, tmp_path, bands=tuple("rgbn"), input=spec, threshold=0.1, tile=(320, 320)))
    pixels = image(352, 320, seed=1, bands=4)
    found = detector.detect(pixels)
    assert max(difference(found, expected(model, pixels, [1, 2, 3, 4, 5]), 0.1)) < 1e-3 and len(found) >= 10


def test_ssdlite_trained_from_a_backbone(tmp_path) -> None:
    """Its last block has twice the channels; the sizes of the weights show it."""
    model = build(LITE, {"outputs": 6, "reduced_tail": False}, channels=3)
    calibrate(model)
    folder = bundle(model, tmp_path, threshold=0.1, tile=(320, 320))
    pixels = image(400, 333, seed=9)
    found = load(folder).detect(pixels)
    assert max(difference(found, expected(model, pixels, [1, 2, 3, 4, 5]), 0.1)) < 1e-3 and len(found) >= 10


def test_ids_of_coco_have_gaps(tmp_path) -> None:
    from torchvision.models._meta import _COCO_CATEGORIES

    assert [_COCO_CATEGORIES[i] for i in COCO_IDS] == list(COCO)
    model = sample(LITE, 91)
    made = pack(saved(model, tmp_path / "lite_coco.pth"), tmp_path / "b")
    assert made.bundle.card.classes == COCO and "COCO" in " ".join(made.notes)
    folder = bundle(model, tmp_path, classes=COCO, threshold=0.02, tile=(320, 320))
    assert json.loads((folder / "model.json").read_text())["properties"]["geosod:parameters"]["labels"][-1] == 90
    pixels = image(400, 333, seed=6)
    found = load(folder).detect(pixels)
    wanted = expected(model, pixels, list(COCO_IDS))
    same = [wanted.nearest(found, i) for i in range(len(found))]
    away = np.abs(found.boxes - wanted.boxes[same]).max(axis=1)
    # Of two boxes whose scores are equal but for rounding, which differs by processor, either suppresses the other.
    assert (away < 1e-3).mean() > 0.98 and np.abs(found.scores - wanted.scores[same]).max() < 1e-4
    assert len(found) == len(wanted.scores) and len(set(found.labels)) > 10


@pytest.mark.slow
def test_a_retinanet_may_count_the_background(tmp_path) -> None:
    """torchvision's data sets leave output 0 unused; the number of names says which holds."""
    model, pixels = sample("retinanet_resnet50_fpn"), image(160, 160, seed=7)
    all_five = load(bundle(model, tmp_path, threshold=0.3, input={"upscale": 1.0})).detect(pixels)
    (tmp_path / "four").mkdir()
    path = saved(model, tmp_path / "w.pth")
    options = PackOptions(classes=NAMES[1:], threshold=0.3, input={"upscale": 1.0})
    made = pack(path, tmp_path / "four", options)
    assert "output 0 of 5 is taken to be the background" in " ".join(made.notes)
    four = load(made.bundle.folder).detect(pixels)
    assert len(four) == (all_five.labels > 0).sum() > 0
    assert sorted(four.labels) == sorted(all_five.labels[all_five.labels > 0] - 1)
    with pytest.raises(ModelError, match=r"3 names .* has 5 classes; give 5 names, or 4 where output 0"):
        pack(path, tmp_path / "x", PackOptions(classes=NAMES[:3]))


@pytest.mark.slow
def test_normalisation_without_eps(tmp_path, monkeypatch) -> None:
    """torchvision sets eps to 0 for its COCO_V1 files, which are recognised by their hash."""
    import hashlib

    model = sample("fasterrcnn_resnet50_fpn")
    for module in model.backbone.body.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.clamp_(min=2e-5)
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pth")
    options = PackOptions(classes=NAMES, input={"upscale": 1.0})
    assert "set norm_eps to 0" in " ".join(pack(tmp_path / "w.pth", tmp_path / "a", options).notes)
    begin = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()[:8]
    monkeypatch.setattr("geosod.detectors.packing.torchvision_weights._WITHOUT_EPS", (begin,))
    made = pack(tmp_path / "w.pth", tmp_path / "b", options)
    assert not made.notes and made.bundle.card.parameters["norm_eps"] == 0
    eps = build(made.bundle.card.architecture, made.bundle.card.parameters, channels=3).backbone.body.bn1.eps
    assert eps == 0


@pytest.mark.slow
def test_boxes_of_mask_rcnn(tmp_path) -> None:
    model = sample("fasterrcnn_resnet50_fpn")
    state = model.state_dict() | {"roi_heads.mask_head.0.0.weight": torch.zeros(3)}
    torch.save(state, tmp_path / "mask.pth")
    made = pack(tmp_path / "mask.pth", tmp_path / "m", PackOptions(classes=NAMES))
    assert "only its boxes" in " ".join(made.notes) and made.bundle.card.architecture == "fasterrcnn_resnet50_fpn"


def test_bf16_is_near(tmp_path) -> None:
    """Anchors and boxes stay float32: in bf16 their coordinates would be multiples of 2 beyond 256 px."""
    folder = bundle(sample(RCNN), tmp_path, architecture=RCNN, threshold=0.2, tile=(320, 320))
    pixels = image(320, 320, seed=8)
    plain, half = (load(folder, precision=precision).detect(pixels) for precision in ("fp32", "bf16"))
    strong = plain[plain.scores > 0.3]
    distance = np.abs(strong.boxes[:, None] - half.boxes[None]).max(axis=2)
    distance[strong.labels[:, None] != half.labels[None]] = np.inf
    assert len(strong) >= 5 and np.mean(distance.min(axis=1) < 2) > 0.8
    assert distance.min(axis=1).max() > 0.01, "bf16 was not used"


def test_numbers_that_are_none_are_reported(tmp_path) -> None:
    model = network(LITE, 6, seed=1)
    with torch.no_grad():
        model.backbone.features[0][0][0].weight[0] = float("nan")
    with pytest.raises(ModelError, match="not a number on 1 of 1 tiles"):
        load(bundle(model, tmp_path))


def test_a_card_with_a_wrong_parameter_is_refused(tmp_path) -> None:
    folder = bundle(sample(LITE), tmp_path)
    edit(folder, outputs=7)
    with pytest.raises(ModelError, match="does not fit the network"):
        load(folder)
    edit(folder, outputs="many")
    with pytest.raises(ModelError, match="refuses its parameters"):
        load(folder)
