"""Detectors of transformers trained by their own loss: a tiny DETR from a folder, its bundle, and that one further."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import geosod
from geosod.datasets.contract import Target
from geosod.datasets.formats.coco import write_coco
from geosod.detectors.adapters.huggingface import network_of
from geosod.detectors.bundle import open_bundle
from geosod.errors import ConfigError, TrainingError
from geosod.training.config import make_train_config
from geosod.training.prepared import prepare
from geosod.training.targets import Targets
from tests.training.samples import drawn
from tests.training.sets import squares

transformers = pytest.importorskip("transformers")
from tests.adapters import hf_models  # noqa: E402

SMALL: dict[str, Any] = {"tile": 64, "batch": 2, "precision": "fp32", "threads": 1, "loaders": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    made = squares(folder / "images", images=3, size=(96, 96), objects=5, sides=(14, 30))
    write_coco(made, Target(folder / "labels.json", folder / "labels.json"))
    return folder / "labels.json"


def folder_of(kind: str, path: Path) -> Path:
    """A network as `save_pretrained` writes it, with random weights."""
    torch.manual_seed(0)
    config = getattr(hf_models, kind)()
    network = transformers.MODEL_FOR_OBJECT_DETECTION_MAPPING[type(config)](config)
    network.save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", ["detr", "deformable_detr", "rt_detr"])
def test_a_loss_is_that_of_transformers(kind: str, labels: Path, tmp_path: Path) -> None:
    folder = folder_of(kind, tmp_path / kind)
    ready = prepare(make_train_config(labels=labels, val=str(labels), network=str(folder), **SMALL))
    images, labelled = drawn()
    torch.manual_seed(3)
    found = ready.criterion.eval()(images, labelled)
    boxes = (
        [(t.boxes[:, :2] + t.boxes[:, 2:]) / 2 for t in labelled],
        [t.boxes[:, 2:] - t.boxes[:, :2] for t in labelled],
    )
    given = [
        {"class_labels": one.labels, "boxes": torch.cat([centre, size], dim=1) / 64}
        for one, centre, size in zip(labelled, *boxes, strict=True)
    ]
    torch.manual_seed(3)
    wanted = ready.criterion.network.eval()(pixel_values=images, labels=given).loss
    assert float(found["detection"].detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)


def test_one_batch_is_learnt_by_heart(labels: Path, tmp_path: Path) -> None:
    folder = folder_of("detr", tmp_path / "detr")
    criterion = prepare(make_train_config(labels=labels, val=str(labels), network=str(folder), **SMALL)).criterion
    images, labelled = drawn()
    optimiser = torch.optim.AdamW(criterion.parameters(), 2e-3)
    losses = []
    for step in range(40):
        torch.manual_seed(step)
        total = criterion.train()(images, labelled)["detection"]
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        losses.append(float(total.detach()))
    assert np.mean(losses[-5:]) < 0.75 * losses[0]


@pytest.fixture(scope="module")
def trained(labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    settings = SMALL | {"network": str(folder_of("detr", folder / "detr")), "steps": 10, "validate_every": 99}
    result = geosod.train(labels, val=labels, out=folder / "run", **settings)
    assert result.bundle is not None
    return result.bundle


def test_the_bundle_finds_what_transformers_finds(trained: Path, labels: Path) -> None:
    card = open_bundle(trained).card
    assert card.adapter == "huggingface" and card.classes == ("bright", "red") and card.parameters["pad"] is None
    model = network_of(card.parameters["config"], load_file(trained / "model.safetensors"), "test")
    pixels = np.random.default_rng(0).integers(0, 255, (3, 64, 64)).astype(np.uint8)
    values = torch.from_numpy(pixels).float() / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (card.input.mean, card.input.std))
    with torch.no_grad():
        out = model(pixel_values=((values - mean) / std)[None])
    scores, classes = out.logits.softmax(-1)[0, :, :-1].max(-1)
    centre, size = out.pred_boxes[0, :, :2], out.pred_boxes[0, :, 2:]
    wanted = torch.cat([centre - size / 2, centre + size / 2], dim=1) * 64
    found = geosod.load_model(trained, threshold=0.02, batch=1).detect(pixels)
    assert len(found) == int((scores >= 0.02).sum()) > 3
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        row = int((scores - float(score)).abs().argmin())
        assert float(scores[row]) == pytest.approx(float(score), abs=1e-5) and int(classes[row]) == label
        np.testing.assert_allclose(box, wanted[row].clamp(0, 64).numpy(), atol=1e-2)
    image = next((labels.parent / "images").glob("*.tif"))
    assert geosod.detect(str(image), model=trained, threshold=0.02, engine="serial", tile=64).exit_code == 0


def test_a_bundle_is_trained_further(trained: Path, labels: Path) -> None:
    before = load_file(trained / "model.safetensors")
    ready = prepare(make_train_config(labels=labels, val=str(labels), init=str(trained), **SMALL))
    now = ready.criterion.network.state_dict()
    assert set(now) == set(before) and all(torch.equal(now[name], before[name]) for name in before)
    assert ready.card.input.mean == open_bundle(trained).card.input.mean
    settings = SMALL | {"init": str(trained), "class_agnostic": True}
    other = prepare(make_train_config(labels=labels, val=str(labels), **settings))
    now = other.criterion.network.state_dict()
    new = {name for name in now if now[name].shape != before[name].shape}
    assert new == {"class_labels_classifier.weight", "class_labels_classifier.bias"}
    assert all(torch.equal(now[name], before[name]) for name in set(now) - new)
    assert other.card.parameters["config"]["id2label"] == {"0": "object"}


def test_settings_that_mean_nothing_are_refused(trained: Path, labels: Path, tmp_path: Path) -> None:
    folder = folder_of("detr", tmp_path / "detr")
    for settings, message in (
        ({"network": str(folder), "init": str(trained)}, "brings its own weights"),
        ({"init": str(trained), "parameters": {"width": 3}}, r"takes those of its config\.json"),
    ):
        with pytest.raises(ConfigError, match=message):
            prepare(make_train_config(labels=labels, val=str(labels), **(SMALL | settings)))


@pytest.mark.parametrize("kind", ["detr", "deformable_detr", "rt_detr"])
def test_images_without_objects_and_values_that_are_none(kind: str, labels: Path, tmp_path: Path) -> None:
    """The matcher of transformers raises errors of numpy and scipy where the network's boxes are not numbers."""
    folder = folder_of(kind, tmp_path / kind)
    criterion = prepare(make_train_config(labels=labels, val=str(labels), network=str(folder), **SMALL)).criterion
    images, labelled = drawn()
    none = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    for some in ([labelled[0], none], [none, none]):
        loss = criterion.train()(images, some)["detection"]
        loss.backward()
        assert torch.isfinite(loss)
    with pytest.raises(TrainingError, match="refuses a batch of 2 images"):
        criterion(torch.full_like(images, torch.nan), labelled)


def test_two_stages_with_refined_boxes(labels: Path, tmp_path: Path) -> None:
    """Weights that several modules share are one in the bundle's network, too."""
    import transformers

    torch.manual_seed(0)
    config = hf_models.deformable_detr()
    config.two_stage = config.with_box_refine = True
    config.two_stage_num_proposals = 60
    transformers.DeformableDetrForObjectDetection(config).save_pretrained(tmp_path / "two")
    ready = prepare(make_train_config(labels=labels, val=str(labels), network=str(tmp_path / "two"), **SMALL))
    images, labelled = drawn()
    with pytest.raises(TrainingError, match="larger --tile"):
        ready.criterion(images[..., :32, :32], labelled)
    losses = []
    optimiser = torch.optim.AdamW(ready.criterion.parameters(), 1e-3)
    for step in range(12):
        torch.manual_seed(step)
        total = ready.criterion.train()(images, labelled)["detection"]
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        losses.append(float(total.detach()))
    assert losses[-1] < losses[0]
    state = ready.criterion.network.state_dict()
    again = network_of(ready.card.parameters["config"], {name: value.clone() for name, value in state.items()}, "test")
    with torch.no_grad():
        one, other = (net.eval()(pixel_values=images).logits for net in (ready.criterion.network, again))
    torch.testing.assert_close(one, other)
