"""A classifier of crops is trained on what staged detection will show it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import geosod
from geosod.datasets.read import read_labels
from geosod.detectors.card import CLASSIFICATION, ModelCard
from geosod.detectors.network_input import NetworkInput
from geosod.detectors.staged import Classifier
from geosod.detectors.zoo.classifier import CropClassifier
from geosod.errors import ConfigError
from geosod.training.crop_criterion import CropCriterion
from geosod.training.overlaps import covered_matrix
from geosod.training.targets import Targets
from tests.training.sets import labelled

#: A detector that learns squares in seconds.
FAST: dict = {
    "network": "fcos",
    "parameters": {"backbone": "slim", "width": 8, "channels": 16, "tower": 1},
    "tile": 64,
    "batch": 6,
    "precision": "fp32",
    "threads": 1,
    "lr": 4e-3,
    "ema": 0.95,
    "init": "none",
}


def card(**fields: object) -> ModelCard:
    values: dict = {
        "name": "crops",
        "architecture": "classifier",
        "parameters": {"context": 0.25},
        "adapter": "zoo-classifier",
        "bands": ("red", "green", "blue"),
        "dtype": "uint8",
        "minimum": (0.0,) * 3,
        "maximum": (255.0,) * 3,
        "classes": ("dark", "bright", "background"),
        "tile": 64,
        "overlap": 0,
        "threshold": 0.25,
        "task": CLASSIFICATION,
        "input": NetworkInput(size=(32, 32)),
    }
    return ModelCard(**(values | fields))


def batch(seed: int = 0) -> tuple[torch.Tensor, list[Targets]]:
    """Two images with a dark and a bright square each, on grey."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.full((2, 3, 96, 96), 0.5) + 0.02 * torch.rand(2, 3, 96, 96, generator=generator)
    made = []
    for image in images:
        image[:, 10:30, 10:30] = 0.1
        image[:, 60:80, 50:70] = 0.9
        boxes = torch.tensor([[10.0, 10, 30, 30], [50, 60, 70, 80]])
        made.append(Targets(boxes, torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool)))
    return images, made


def criterion(**options: float) -> CropCriterion:
    torch.manual_seed(0)
    network = CropClassifier(bands=3, classes=3, backbone="slim", width=8)
    return CropCriterion(network, card=card(), **options)


def test_it_learns_and_staged_detection_says_the_same() -> None:
    made = criterion()
    optimiser = torch.optim.AdamW(made.parameters(), lr=3e-3)
    images, targets = batch()
    for step in range(60):
        torch.manual_seed(step)
        loss = made(images, targets)["class"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.5

    class Network:
        def probabilities(self, crops: torch.Tensor) -> torch.Tensor:
            return made.network.fused()(crops).softmax(dim=1)

    classifier = Classifier(card(), Network(), ("red", "green", "blue"))
    boxes = torch.tensor([[10.0, 10, 30, 30], [50, 60, 70, 80], [5, 60, 25, 80]])
    with torch.no_grad():
        labels, scores = classifier.classify(images, boxes, torch.zeros(3, dtype=torch.int64))
    assert labels.tolist() == [0, 1, 2] and scores.min() > 0.5


def test_background_overlaps_no_object() -> None:
    images, targets = batch()
    made = criterion(shift=0.0, background=3.0)
    for seed in range(20):
        torch.manual_seed(seed)
        boxes, labels, tile = made._chosen(images, targets)
        assert torch.equal(boxes[labels < 2].reshape(2, 2, 4), torch.stack([t.boxes for t in targets]))
        empty = boxes[labels == 2]
        assert len(empty) and (empty[:, :2] >= 0).all() and (empty[:, 2:] <= 96).all()
        for box in empty:
            for truth in targets[0].boxes:
                shared = (torch.minimum(box[2:], truth[2:]) - torch.maximum(box[:2], truth[:2])).clamp(min=0).prod()
                assert shared / (800 - shared) <= 0.2 + 1e-6
        assert tile.tolist() == sorted(tile.tolist())


def test_of_many_objects_a_bounded_number_is_drawn() -> None:
    images, _ = batch()
    corner = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)) * 92
    many = Targets(torch.cat([corner, corner + 4], dim=1), torch.arange(2000) % 2, torch.zeros(2000, dtype=torch.bool))
    made, drawn = criterion(crops=60), []
    for seed in range(3):
        torch.manual_seed(seed)
        boxes, labels, tile = made._chosen(images, [many, many])
        assert len(boxes) == len(labels) == len(tile) == 60
        assert {0, 1} <= set(labels.tolist()) and set(tile.tolist()) == {0, 1}
        drawn.append(boxes)
    assert not torch.equal(drawn[0], drawn[1])
    assert made(images, [many, many])["class"].isfinite()


@pytest.mark.parametrize("ignored", [True, False])
def test_background_lies_in_no_region_and_no_large_object(ignored: bool) -> None:
    images = torch.rand(1, 3, 256, 256)
    small = torch.tensor([[x, y, x + 10, y + 10] for x in (140.0, 180, 220) for y in (20.0, 90, 160)])
    boxes = torch.cat([torch.tensor([[0.0, 0, 128, 256]]), small])
    target = Targets(boxes, torch.zeros(10, dtype=torch.int64), torch.tensor([ignored, *[False] * 9]))
    found, labels, _ = criterion(background=8.0)._chosen(images, [target])
    empty = found[labels == 2]
    assert len(empty) > 20
    inside = (torch.minimum(empty[:, 2], torch.tensor(128.0)) - empty[:, 0]).clamp(min=0) / (empty[:, 2] - empty[:, 0])
    assert inside.max() <= 0.2 + 1e-6


def test_few_of_many_objects_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number squared would take all memory."""
    compared: list[int] = []

    def counted(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        compared.append(len(a))
        return covered_matrix(a, b)

    monkeypatch.setattr("geosod.training.crop_criterion.covered_matrix", counted)
    corner = torch.rand(3000, 2) * 92
    many = Targets(torch.cat([corner, corner + 4], dim=1), torch.zeros(3000).long(), torch.zeros(3000).bool())
    criterion(crops=50)._chosen(batch()[0], [many, many])
    assert compared == [200, 200]


def test_images_without_objects_and_ignored_ones() -> None:
    made = criterion()
    images, targets = batch()
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    loss = made(images, [nothing, nothing])["class"]
    loss.backward()
    assert float(loss.detach()) == 0 and all(p.grad is not None and not p.grad.any() for p in made.parameters())
    ignored = [Targets(t.boxes, t.labels, torch.ones(2, dtype=torch.bool)) for t in targets]
    assert float(made(images, ignored)["class"].detach()) == 0


@pytest.mark.parametrize("options", [{"shift": -1.0}, {"smoothing": 1.0}, {"background": -1.0}, {"crops": 1}])
def test_options_are_checked(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        criterion(**options)


@pytest.mark.slow
def test_staged_detection_end_to_end(tmp_path: Path) -> None:
    """A detector of one class and a classifier, both trained here, name what they find."""
    labels = labelled(tmp_path / "train", images=6, objects=10)
    val = labelled(tmp_path / "val", images=2, objects=10, seed=9)
    detector = geosod.train(labels, val=val, out=tmp_path / "detector", class_agnostic=True, steps=100, **FAST)
    assert geosod.load_model(detector.bundle).card.classes == ("object",)
    crops = {"network": "classifier", "parameters": {"backbone": "slim", "width": 8, "side": 32}}
    classifier = geosod.train(labels, val=val, out=tmp_path / "classifier", steps=100, **(FAST | crops))
    assert classifier.figures["accuracy"] > 0.9
    image = str(tmp_path / "val" / "images" / "image0.tif")
    found = geosod.detect(image, model=detector.bundle, classifier=classifier.bundle, threshold=0.2, engine="serial")
    named = found["image0"].detections
    truth = read_labels(val).labels
    boxes, classes = truth.boxes[truth.image == 0], truth.labels[truth.image == 0]
    right = 0
    for box, label in zip(named.boxes, named.labels, strict=True):
        shared = np.clip(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0, None).prod(axis=1)
        best = int(shared.argmax())
        right += bool(shared[best] > 0 and classes[best] == label)
    assert len(named) > 3 and right >= 0.8 * len(named)
