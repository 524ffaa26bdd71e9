"""Staged detection: what is found is named by a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

import geosod
from geosod.detectors.card import CLASSIFICATION
from geosod.detectors.packing import pack
from geosod.detectors.packing.options import PackOptions
from geosod.detectors.staged import CROPS, Classifier
from geosod.errors import ModelError
from geosod.testing import BrightSpots, check_detector, fake_card, fake_detector

RGB = ("red", "green", "blue")
NAMES = ("ruby", "emerald", "sapphire", "background")
SIDE = 32


def classifier_graph(path: Path, *, batch: int | None = None, softmax: bool = False, classes: int = 4) -> Path:
    """Logits of a crop (B, 3, 32, 32): ten times the mean of each band; of the fourth class, 6."""
    values = {
        "axes": np.array([2, 3], np.int64),
        "weights": np.hstack([np.eye(3), np.zeros((3, classes - 3))]).astype(np.float32) * 10,
        "bias": np.array([0, 0, 0, *[6] * (classes - 3)], np.float32),
    }
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["sums"]),
        helper.make_node("Add", ["sums", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["output"], axis=1)
        if softmax
        else helper.make_node("Identity", ["logits"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, (batch or "n", 3, SIDE, SIDE))],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, (batch or "n", classes))],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


PLAIN = {"mean": (0.0,), "std": (1.0,)}


@pytest.fixture
def classifier(tmp_path) -> Path:
    options = PackOptions(classes=NAMES, unreported=("background",), context=0.0, threshold=0.1, input=PLAIN)
    return pack(classifier_graph(tmp_path / "gems.onnx"), tmp_path / "gems", options).bundle.folder


def make_detector(execution: Any) -> geosod.Detector:
    return fake_detector(execution, bands=RGB, tile=128, overlap=64)


@pytest.fixture
def scene() -> np.ndarray:
    """(3, 300, 400): spots that the detector, which looks at the first band alone, cannot tell apart."""
    image = np.zeros((3, 300, 400), np.uint8)
    for x, y, colour in (
        (20, 20, (200, 0, 0)),
        (100, 110, (200, 255, 0)),
        (250, 40, (200, 0, 255)),
        (330, 200, (140, 0, 0)),
    ):
        image[:, y : y + 24, x : x + 24] = np.array(colour)[:, None, None]
    return image


def test_detections_are_named_by_the_classifier(classifier, scene) -> None:
    model = "tests.detectors.test_staged:make_detector"
    plain = geosod.detect(scene, model=model, trust=True)["array"].detections
    result = geosod.detect(scene, model=model, trust=True, classifier=str(classifier))["array"]
    found = result.detections
    # The spot of (140, 0, 0) has logits 5.5 and 6: background, which is not reported.
    assert len(plain) == 4 and len(found) == 3
    assert sorted(result.to_geopandas().label) == ["emerald", "ruby", "sapphire"]
    colours = {"ruby": (200, 0, 0), "emerald": (200, 255, 0), "sapphire": (200, 0, 255)}
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        colour = colours[NAMES[label]]
        assert scene[:, int(box[1]), int(box[0])].tolist() == list(colour)
        logits = np.array([*np.array(colour) / 255 * 10, 6])
        probability = np.exp(logits[label]) / np.exp(logits).sum()
        twin = plain.scores[(plain.boxes == box).all(axis=1)]
        assert score == pytest.approx(float(twin[0]) * probability, rel=0.03)


def test_what_is_not_reported_can_be_asked_for(classifier, scene) -> None:
    model = "tests.detectors.test_staged:make_detector"
    options = {"model": model, "trust": True, "classifier": classifier}
    asked = geosod.detect(scene, classes=["background", "ruby"], **options)["array"].detections
    names = {NAMES[i] for i in asked.labels}
    assert names == {"background", "ruby"}, "classes are dropped before boxes are merged"
    assert [330, 200, 354, 224] in asked.boxes.tolist()
    high = geosod.detect(scene, threshold={"ruby": 0.99}, **options)["array"].detections
    assert sorted(NAMES[i] for i in high.labels) == ["emerald", "sapphire"]


def test_every_engine_names_alike(classifier, scene) -> None:
    options = {"model": "tests.detectors.test_staged:make_detector", "trust": True, "classifier": classifier}
    tables = [
        geosod.detect(scene, engine=engine, **options)["array"].detections.to_arrow() for engine in ("serial", "local")
    ]
    assert tables[0].equals(tables[1])


def test_a_tile_does_not_depend_on_its_batch(classifier) -> None:
    model = geosod.load_model(
        "tests.detectors.test_staged:make_detector", classifier=classifier, trust=True, threshold=0.05
    )
    rng = np.random.default_rng(0)
    images = np.zeros((5, 3, 128, 128), np.uint8)
    for image in images:
        for _ in range(CROPS // 4):
            x, y = rng.integers(0, 100, 2)
            image[:, y : y + 16, x : x + 16] = np.array([200, *rng.integers(0, 256, 2)])[:, None, None]
    check_detector(model, images)


def test_views_of_one_object_in_two_tiles_are_merged_whatever_their_names(classifier) -> None:
    """One tile shows the left, redder part of an object, and the other the greener rest."""
    scene = np.zeros((3, 128, 192), np.uint8)
    scene[0, 10:110, 40:140] = 200
    scene[1, 10:110, 64:140] = 255
    options = {"model": "tests.detectors.test_staged:make_detector", "trust": True, "classifier": classifier}
    assert len(geosod.detect(scene, **options)["array"].detections) == 1
    apart = geosod.detect(scene, class_agnostic=False, **options)["array"].detections
    assert len(apart) == 2, "the tiles named it alike, so the test shows nothing"


def card_of(**fields: Any) -> geosod.ModelCard:
    parameters = fields.pop("parameters", {})
    return geosod.ModelCard(
        **{
            "name": "c",
            "bands": RGB,
            "dtype": "uint8",
            "minimum": (0.0,) * 3,
            "maximum": (255.0,) * 3,
            "classes": NAMES,
            "tile": 32,
            "overlap": 0,
            "threshold": 0.1,
            "task": CLASSIFICATION,
            "parameters": parameters,
        }
        | fields
    )


class Means:
    """Probabilities that are the means of the bands, and 0."""

    def probabilities(self, crops: torch.Tensor) -> torch.Tensor:
        return F.pad(crops.mean(dim=(2, 3)), (0, 1))


def test_crops_are_what_cutting_and_resizing_gives() -> None:
    rng = np.random.default_rng(0)
    tiles = torch.from_numpy(rng.random((2, 3, 128, 128), np.float32))
    classifier = Classifier(card_of(parameters={"context": 0.5}), Means(), RGB)
    boxes = torch.tensor([[40.0, 40.0, 72.0, 72.0], [50.0, 60.0, 58.0, 68.0]])
    regions = classifier.crops.regions(boxes, torch.tensor([0, 1]))
    assert regions.tolist() == [[0, 24, 24, 88, 88], [1, 46, 56, 62, 72]]
    crops = classifier.crops.cut(tiles, regions)
    half = F.interpolate(tiles[:1, :, 24:88, 24:88], size=32, mode="area")
    torch.testing.assert_close(crops[:1], half, atol=1e-5, rtol=0)
    # Enlarged; at the edge of a crop its surroundings are seen, which cutting first cannot.
    double = F.interpolate(tiles[1:, :, 55:73, 45:63], size=36, mode="bilinear", align_corners=False)[..., 2:-2, 2:-2]
    torch.testing.assert_close(crops[1:], double, atol=1e-5, rtol=0)


def test_crops_keep_the_ratio_of_sides_and_show_fill_outside_the_tile() -> None:
    card = card_of(
        parameters={"context": 0.0}, input=geosod.detectors.network_input.NetworkInput(size=(64, 32), fill=0.25)
    )
    classifier = Classifier(card, Means(), RGB)
    regions = classifier.crops.regions(torch.tensor([[0.0, 0.0, 10.0, 40.0]]), torch.tensor([0]))
    assert regions.tolist() == [[0, -35, 0, 45, 40]]
    crop = classifier.crops.cut(torch.ones(1, 3, 64, 64), regions)[0]
    assert crop.shape == (3, 32, 64)
    assert torch.allclose(crop[:, :, :26], torch.tensor(0.25)) and torch.allclose(crop[:, 1:, 30:], torch.tensor(1.0))


def test_a_graph_with_probabilities_and_a_batch_of_its_own(scene, tmp_path) -> None:
    options = PackOptions(classes=NAMES, context=0.0, threshold=0.1, input=PLAIN)
    bundles = [
        pack(classifier_graph(tmp_path / f"{i}.onnx", **kind), tmp_path / str(i), options).bundle
        for i, kind in enumerate(({}, {"softmax": True}, {"batch": 5}, {"batch": 1, "softmax": True}))
    ]
    assert [bundle.card.parameters["logits"] for bundle in bundles] == [True, False, True, False]
    model = "tests.detectors.test_staged:make_detector"
    found = [geosod.detect(scene, model=model, trust=True, classifier=b.folder)["array"].detections for b in bundles]
    for other in found[1:]:
        assert other.labels.tolist() == found[0].labels.tolist()
        np.testing.assert_allclose(other.scores, found[0].scores, atol=1e-6)


def test_ultralytics_classifiers_need_no_further_question(tmp_path) -> None:
    path = classifier_graph(tmp_path / "gems-cls.onnx", softmax=True)
    model = onnx.load(path)
    for key, value in {"task": "classify", "names": str(dict(enumerate(NAMES))), "imgsz": "[32, 32]"}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, path)
    card = pack(path, tmp_path / "bundle").bundle.card
    assert card.task == CLASSIFICATION and card.classes == NAMES and card.input.size == (32, 32)


def test_what_cannot_work_is_refused(classifier, scene, tmp_path) -> None:
    with pytest.raises(ModelError, match="use it with --classifier"):
        geosod.detect(scene, model=str(classifier))
    with pytest.raises(ModelError, match="is a model for object-detection; give a classifier"):
        geosod.detect(scene, model="demo-harbour", classifier="demo-harbour")
    model = "geosod.testing:fake_detector"
    with pytest.raises(ModelError, match="takes the bands red, green, blue, which 'bright-spots' does not read"):
        geosod.detect(scene[:1], model=model, trust=True, classifier=str(classifier))
    graph = classifier_graph(tmp_path / "x.onnx")
    with pytest.raises(ModelError, match=r"add --mean and --std \(what its training used"):
        pack(graph, tmp_path / "x", PackOptions(classes=NAMES))
    other = pack(graph, tmp_path / "y", PackOptions(classes=NAMES, maximum=(100.0,), input=PLAIN)).bundle.folder
    with pytest.raises(ModelError, match="scales pixel values otherwise"):
        geosod.detect(scene, model="tests.detectors.test_staged:make_detector", trust=True, classifier=other)
    detector = geosod.Detector(fake_card(bands=RGB), BrightSpots())
    with pytest.raises(ModelError, match="no such folder"):
        geosod.detect(scene, model=detector, classifier="nothing")
