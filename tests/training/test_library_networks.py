"""torchvision's networks, trained by their own losses, in bundles that detect what torchvision finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import geosod
from geosod.datasets.contract import Target
from geosod.datasets.formats.coco import write_coco
from geosod.detectors.adapters.detection_networks import build
from geosod.detectors.bundle import open_bundle
from geosod.detectors.packing import pack
from geosod.detectors.packing.options import PackOptions
from geosod.errors import ConfigError, TrainingError
from geosod.training.config import make_train_config
from geosod.training.criteria import criterion_of
from geosod.training.library_criterion import without_ignored
from geosod.training.prepared import batch_maker, prepare
from geosod.training.state import State
from tests.training.samples import SIDE, drawn, targets
from tests.training.sets import squares

RCNN, LITE, RETINA = "fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn"
SMALL: dict[str, Any] = {"tile": 64, "batch": 2, "precision": "fp32", "threads": 1, "loaders": 0, "device": "cpu"}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights would be downloaded")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)


def network(name: str = RCNN, *, outputs: int = 3, **parameters: Any) -> Any:
    torch.manual_seed(0)
    return build(name, {"outputs": outputs, "min_size": None, "max_size": None} | parameters, channels=3)


def step_losses(criterion: Any, images: torch.Tensor, labelled: list) -> dict[str, float]:
    torch.manual_seed(5)
    with torch.no_grad():
        return {name: float(loss) for name, loss in criterion.train()(images, labelled).items()}


def test_losses_are_torchvisions() -> None:
    """Called by itself, with a transform that resizes images to the size they have."""
    images, labelled = drawn()
    model = network()
    found = step_losses(criterion_of(network(), labels=[1, 2]), images, labelled)
    model.transform.min_size, model.transform.max_size = (SIDE,), SIDE
    torch.manual_seed(5)
    with torch.no_grad():
        wanted = model.train()(list(images), [{"boxes": t.boxes, "labels": t.labels + 1} for t in labelled])
    assert set(found) == set(wanted) and len(found) == 4
    assert all(found[name] == pytest.approx(float(wanted[name]), rel=1e-4, abs=1e-6) for name in wanted)
    swapped = step_losses(criterion_of(network(), labels=[2, 1]), images, labelled)
    assert swapped["loss_classifier"] != found["loss_classifier"]


def test_one_batch_is_learnt_by_heart() -> None:
    images, labelled = drawn()
    criterion = criterion_of(network(), labels=[1, 2]).train()
    optimiser = torch.optim.AdamW(criterion.parameters(), 1e-3)
    losses = []
    for step in range(9):
        torch.manual_seed(step)
        total = sum(criterion(images, labelled).values())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        losses.append(float(total.detach()))
    assert np.mean(losses[-3:]) < 0.7 * losses[0]


@pytest.mark.parametrize("name", [RCNN, LITE])
def test_odd_boxes_and_images_without_objects(name: str) -> None:
    """torchvision refuses boxes without area, which clipping can make."""
    odd = [[-30.0, -30, -2, -2], [10, 10, 10, 30], [60, 60, 90, 90], [0, 0, 64, 64], [float("nan"), 0, 9, 9]]
    labelled = [targets(odd, [0, 1, 0, 1, 0]), targets([])]
    criterion = criterion_of(network(name), labels=[1, 2]).train()
    losses = criterion(drawn()[0], labelled)
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_a_batch_that_torch_refuses_is_explained() -> None:
    """The last map of SSD has one cell, too few for the normalisation of one image."""
    images, labelled = drawn(count=1)
    with pytest.raises(TrainingError, match=r"refuses a batch of 1 images of 64 x 64 px: .*a larger --batch"):
        criterion_of(network(LITE), labels=[1, 2]).train()(images, labelled)


class TestIgnored:
    def test_their_pixels_become_the_mean(self) -> None:
        """Pixel by pixel."""
        image = torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(1))
        boxes = [[2.0, 3, 10.5, 12], [8, 8, 14, 13], [-5, -5, 1.2, 2], [30, 2, 40, 9]]
        one = targets(boxes, [0, 1, -1, 0], [True, False, True, True])
        found = without_ignored(image, [one])
        hidden = np.zeros((20, 24), np.bool_)
        for y in range(20):
            for x in range(24):
                hidden[y, x] = (2 <= x < 11 and 3 <= y < 12) or (x < 2 and y < 2)
                hidden[y, x] &= not (8 <= x < 14 and 8 <= y < 13)
        wanted = image.numpy().copy()
        wanted[0, :, hidden] = wanted[0][:, ~hidden].mean(axis=1)
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)

    @pytest.mark.parametrize(("mode", "matters"), [("mask", False), ("drop", True)])
    def test_what_is_there_asks_nothing_of_the_network(self, mode: str, matters: bool) -> None:
        images, labelled = drawn(count=1)
        one = targets(labelled[0].boxes.tolist(), labelled[0].labels.tolist(), [True, False, False, False])
        x0, y0, x1, y1 = labelled[0].boxes[0].int().tolist()
        other = images.clone()
        other[0, :, y0:y1, x0:x1] = torch.rand(3, y1 - y0, x1 - x0, generator=torch.Generator().manual_seed(2))
        criterion = criterion_of(network(), labels=[1, 2], ignored=mode)
        assert (step_losses(criterion, images, [one]) != step_losses(criterion, other, [one])) == matters


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    made = squares(folder / "images", images=3, size=(96, 96), objects=5, sides=(14, 30))
    write_coco(made, Target(folder / "labels.json", folder / "labels.json"))
    return folder / "labels.json"


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("val")
    made = squares(folder / "images", images=1, size=(64, 64), objects=3, sides=(14, 30), seed=4)
    write_coco(made, Target(folder / "labels.json", folder / "labels.json"))
    return folder / "labels.json"


@pytest.fixture(scope="module")
def trained(labels: Path, val: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "rcnn"
    settings = SMALL | {"network": f"torchvision/{RCNN}", "steps": 10, "validate_every": 99, "ema": 0}
    settings["parameters"] = {"rpn_post_nms_top_n_test": 40}
    result = geosod.train(labels, val=val, out=out, **settings)
    assert result.bundle is not None and result.step == 10
    return result.bundle


def test_the_bundle_finds_what_torchvision_finds(trained: Path, labels: Path) -> None:
    """The same weights in torchvision's own network, called by itself on a tile."""
    from torchvision.models import detection

    card = open_bundle(trained).card
    assert card.adapter == "torchvision" and card.classes == ("bright", "red") and card.parameters["labels"] == [1, 2]
    model = getattr(detection, RCNN)(
        weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64, box_score_thresh=0.05,
        rpn_post_nms_top_n_test=40,
        box_nms_thresh=card.nms_iou, box_detections_per_img=card.top_k,
    )  # fmt: skip
    model.load_state_dict(load_file(trained / "model.safetensors"))
    pixels = np.random.default_rng(0).integers(0, 60, (3, 64, 64)).astype(np.uint8)
    pixels[:, 10:30, 20:44] = 200
    with torch.no_grad():
        (wanted,) = model.eval()([torch.from_numpy(pixels).float() / 255])
    found = geosod.load_model(trained, threshold=0.05, precision="fp32", backend="eager", batch=1).detect(pixels)
    assert len(found) == len(wanted["boxes"]) > 3
    order = [int(np.abs(wanted["boxes"].numpy() - box).max(axis=1).argmin()) for box in found.boxes]
    np.testing.assert_allclose(found.boxes, wanted["boxes"].numpy()[order], atol=1e-3)
    np.testing.assert_allclose(found.scores, wanted["scores"].numpy()[order], atol=1e-4)
    assert sorted(found.labels + 1) == sorted(wanted["labels"].tolist())
    image = next((labels.parent / "images").glob("*.tif"))
    result = geosod.detect(str(image), model=trained, threshold=0.05, engine="serial", tile=64)
    assert result.exit_code == 0 and len(result[image.stem].detections)


class TestFineTuning:
    def test_a_bundle_brings_network_weights_and_values(self, trained: Path, labels: Path) -> None:
        ready = prepare(make_train_config(labels=labels, val=str(labels), init=str(trained), **SMALL))
        before = load_file(trained / "model.safetensors")
        now = ready.criterion.network.state_dict()
        assert set(now) == set(before) and all(torch.equal(now[name], before[name]) for name in before)
        assert ready.card.architecture == RCNN and ready.card.parameters == open_bundle(trained).card.parameters
        assert any(f"{len(before)} of {len(before)} tensors" in note for note in ready.notes)

    def test_other_classes_get_a_new_head_only(self, trained: Path, labels: Path) -> None:
        settings = SMALL | {"class_agnostic": True, "init": str(trained)}
        ready = prepare(make_train_config(labels=labels, val=str(labels), **settings))
        before, now = load_file(trained / "model.safetensors"), ready.criterion.network.state_dict()
        new = {name for name in now if now[name].shape != before[name].shape}
        assert new == {
            f"roi_heads.box_predictor.{p}.{q}" for p in ("cls_score", "bbox_pred") for q in ("weight", "bias")
        }
        assert all(torch.equal(now[name], before[name]) for name in set(now) - new)
        assert ready.card.classes == ("object",) and ready.card.parameters["outputs"] == 2

    def test_normalisation_of_what_was_trained_stays(self, trained: Path, labels: Path) -> None:
        config = make_train_config(labels=labels, val=str(labels), init=str(trained), ema=0, **SMALL)
        ready = prepare(config)
        state = State.new(ready.criterion, config, device=torch.device("cpu"), precision="fp32")
        state.criterion.train()
        state.train(batch_maker(ready, config)(0), config, rate=1e-3)
        before, now = load_file(trained / "model.safetensors"), state.weights()
        norms = [name for name in now if name.startswith("backbone.body") and "running" in name]
        assert norms and all(torch.equal(now[name], before[name]) for name in norms)
        assert not torch.equal(*(w["roi_heads.box_predictor.cls_score.weight"] for w in (now, before)))

    def test_a_packed_checkpoint_and_its_own_labels(self, labels: Path, tmp_path: Path) -> None:
        """SSD counts a background, and its size is fixed; the values of the card it was packed with are kept."""
        model = build(LITE, {"outputs": 3}, channels=3)
        torch.save(model.state_dict(), tmp_path / "w.pth")
        packed = pack(tmp_path / "w.pth", tmp_path / "b", PackOptions(classes=("bright", "red"), maximum=(200.0,)))
        ready = prepare(make_train_config(labels=labels, val=str(labels), init=str(packed.bundle.folder), **SMALL))
        assert ready.card.architecture == LITE and ready.card.maximum == (200.0,) * 3
        assert any("resizes tiles to 320 x 320" in note for note in ready.notes)
        plain = prepare(
            make_train_config(
                labels=labels, val=str(labels), network=f"torchvision/{LITE}", init=str(tmp_path / "w.pth"), **SMALL
            )
        )
        for made in (ready, plain):
            state = made.criterion.network.state_dict()
            assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        images, labelled = drawn(count=2)
        sum(ready.criterion.train()(images, labelled).values()).backward()


def test_stages_of_a_resnet_can_be_frozen() -> None:
    criterion = criterion_of(network(RETINA, outputs=2), labels=[0, 1], trainable_layers=2, frozen_norms=True)
    body = criterion.network.backbone.body
    assert not any(p.requires_grad for name in ("conv1", "bn1", "layer1", "layer2") for p in body[name].parameters())
    assert body["layer3"][0].conv1.weight.requires_grad and not body["layer3"][0].bn1.weight.requires_grad
    images, labelled = drawn(count=1)
    sum(criterion.train()(images, labelled).values()).backward()
    assert body["layer4"][0].conv1.weight.grad is not None and body["layer1"][0].conv1.weight.grad is None


def test_other_bands(tmp_path: Path) -> None:
    """The first convolution is made for four bands, and the network's own mean and deviation too."""
    made = squares(tmp_path / "images", images=2, size=(64, 64), objects=3, bands=4)
    write_coco(made, Target(tmp_path / "labels.json", tmp_path / "labels.json"))
    torch.save(network().state_dict(), tmp_path / "w.pth")
    settings = SMALL | {"network": f"torchvision/{RCNN}", "init": str(tmp_path / "w.pth")}
    ready = prepare(make_train_config(labels=tmp_path / "labels.json", val=str(tmp_path / "labels.json"), **settings))
    first = ready.criterion.network.backbone.body["0"][0].weight
    assert first.shape[1] == 4 and len(ready.card.parameters["image_mean"]) == 4 == len(ready.card.bands)
    assert any("made for this number of bands" in note for note in ready.notes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "torchvision/yolo"}, r"has no such detection network here; use torchvision/retinanet"),
        ({"network": f"torchvision/{RCNN}", "init": "imagenet"}, "torchvision downloads its weights"),
        ({"network": f"torchvision/{RCNN}", "anchors": "estimate"}, "anchors: is for networks of geosod"),
        ({"network": f"torchvision/{RCNN}", "loss": {"ignored": "keep"}}, "ignored='keep' is neither"),
        ({"network": f"torchvision/{RCNN}", "loss": {"trainable_layers": 2}}, "for networks with a ResNet"),
        ({"network": f"torchvision/{RCNN}", "init": "/nowhere.pth"}, "neither 'imagenet' nor a bundle"),
    ],
)
def test_settings_are_refused_in_one_line(labels: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(geosod.GeosodError, match=message) as caught:
        prepare(make_train_config(labels=labels, val=str(labels), **(SMALL | settings)))
    assert "\n" not in str(caught.value)


def test_a_bundle_of_another_network_is_refused(trained: Path, labels: Path) -> None:
    settings = SMALL | {"network": f"torchvision/{LITE}", "init": str(trained)}
    with pytest.raises(ConfigError, match=f"is {RCNN}, and network is torchvision/{LITE}"):
        prepare(make_train_config(labels=labels, val=str(labels), **settings))
