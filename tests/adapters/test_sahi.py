"""Models of SAHI as detectors: geosod finds in a tile what SAHI's own call finds in it."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import geosod
from geosod.detectors import find_model
from geosod.errors import ConfigError, ModelError
from geosod.results import Execution
from geosod.testing import check_detector
from tests.adapters.yolo import NAMES, picture, tiny_yolo
from tests.rasters import write_tif
from tests.running.helpers import PLAIN

sahi = pytest.importorskip("sahi")
from sahi.predict import get_prediction  # noqa: E402


def yolo_model(**settings: Any) -> Any:
    pytest.importorskip("ultralytics")
    from sahi.models.ultralytics import UltralyticsDetectionModel

    values = {"model": tiny_yolo(), "confidence_threshold": 0.2, "device": "cpu", "image_size": 256} | settings
    return UltralyticsDetectionModel(**values)


def torchvision_model(**settings: Any) -> Any:
    """Faster R-CNN, whose class 0 is the background."""
    import torchvision
    from sahi.models.torchvision import TorchVisionDetectionModel

    torch.manual_seed(0)
    network = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, box_score_thresh=0.01, box_detections_per_img=40
    )
    for parameter in network.roi_heads.box_predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    values = {"confidence_threshold": 0.2, "device": "cpu", "category_mapping": {"1": "car", "2": "ship"}} | settings
    return TorchVisionDetectionModel(model=network, **values)


def yolos_model(**settings: Any) -> Any:
    """A transformer of Hugging Face, whose categories have numbers as keys."""
    transformers = pytest.importorskip("transformers")
    from sahi.models.huggingface import HuggingfaceDetectionModel

    torch.manual_seed(0)
    config = transformers.YolosConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=[64, 64],
        num_detection_tokens=12, id2label={0: "car", 1: "ship"}, initializer_range=0.15,
    )  # fmt: skip
    processor = transformers.YolosImageProcessor(size={"height": 64, "width": 64})
    network = transformers.YolosForObjectDetection(config).eval()
    return HuggingfaceDetectionModel(
        model=network, processor=processor, device="cpu", confidence_threshold=0.3, **settings
    )


MODELS = {"ultralytics": yolo_model, "torchvision": torchvision_model, "hugging face": yolos_model}


def rows(found: geosod.Detections, names: tuple[str, ...]) -> list[tuple[Any, ...]]:
    columns = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    return sorted((*box, score, names[label]) for box, score, label in columns)


def theirs(model: Any, image: np.ndarray) -> list[tuple[Any, ...]]:
    """What SAHI's own call finds in an image (3, H, W)."""
    found = get_prediction(np.ascontiguousarray(image.transpose(1, 2, 0)), model).object_prediction_list
    table = [(*obj.bbox.to_xyxy(), obj.score.value, obj.category.name) for obj in found]
    return sorted((*map(float, np.array(row[:5], np.float32)), row[5]) for row in table)


@pytest.mark.parametrize("kind", MODELS)
def test_a_tile_has_the_boxes_that_sahi_finds(kind) -> None:
    model = MODELS[kind]()
    detector = geosod.from_sahi(model, tile=256)
    for seed in range(2):
        image = picture(256, 256, seed)
        expected = theirs(model, image)
        assert len(expected) >= 3
        assert rows(detector.detect(image), detector.card.classes) == expected
        assert theirs(model, image[::-1]) != expected, "the order of bands would not show"


@pytest.mark.parametrize(("width", "height"), [(320, 192), (288, 416)])
def test_tiles_that_are_not_square(width, height) -> None:
    model = yolo_model(image_size=None)
    detector = geosod.from_sahi(model, tile=(width, height))
    image = picture(height, width)
    assert len(theirs(model, image)) > 10
    assert rows(detector.detect(image), NAMES) == theirs(model, image)


def test_an_image_that_is_smaller_than_a_tile() -> None:
    """It is filled up: the model would enlarge it otherwise, unlike other tiles."""
    model = yolo_model()
    image = picture(217, 133)
    full = np.zeros((3, 256, 256), np.uint8)
    full[:, :217, :133] = image
    expected = [row for row in theirs(model, full) if row[0] < 133 and row[1] < 217]
    expected = sorted((*np.minimum(row[:4], [133, 217, 133, 217]).tolist(), *row[4:]) for row in expected)
    expected = [row for row in expected if min(row[2] - row[0], row[3] - row[1]) >= 1]
    assert len(expected) > 10
    assert rows(geosod.from_sahi(model, tile=256).detect(image), NAMES) == expected


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("batch", [1, 3])
def test_it_keeps_the_contract(kind, batch) -> None:
    detector = geosod.from_sahi(MODELS[kind](), tile=256, execution=Execution("cpu", "eager", "fp32", batch, 1))
    check_detector(detector, np.stack([picture(256, 256, seed) for seed in range(3)]))


@pytest.mark.parametrize("kind", MODELS)
def test_batches_as_one(kind, monkeypatch) -> None:
    """As on a GPU, where the model can; versions of SAHI before 0.12 cannot."""
    model = MODELS[kind]()
    images = np.stack([picture(256, 256, seed) for seed in range(3)])
    execution = Execution("cpu", "eager", "fp32", 3, 1)
    sizes = []
    infer = model.perform_batch_inference
    monkeypatch.setattr(model, "perform_batch_inference", lambda images: (sizes.append(len(images)), infer(images)))
    single = geosod.from_sahi(model, tile=256, execution=execution).detect(images)
    assert 3 not in sizes, "on a CPU each image by itself"
    together = geosod.from_sahi(model, tile=256, execution=execution, batched=True).detect(images)
    assert 3 in sizes
    for a, b in zip(together, single, strict=True):
        assert len(a) == len(b) > 2 and np.allclose(a.boxes, b.boxes, atol=1e-2)
        assert np.allclose(a.scores, b.scores, atol=1e-4) and np.array_equal(a.labels, b.labels)
    from sahi.models.base import DetectionModel

    if kind == "torchvision":
        monkeypatch.undo()
        monkeypatch.delattr(DetectionModel, "perform_batch_inference")
        old = geosod.from_sahi(model, tile=256, execution=execution, batched=True).detect(images)
        assert all(a.to_arrow().equals(b.to_arrow()) for a, b in zip(old, single, strict=True))


def test_classes_come_from_the_models_mapping() -> None:
    detector = geosod.from_sahi(torchvision_model(), tile=256)
    assert detector.card.classes == ("car", "ship"), "ids that begin with 1"
    assert geosod.from_sahi(yolos_model()).card.classes == ("car", "ship"), "ids that are numbers"
    assert geosod.from_sahi(yolo_model()).card.classes == NAMES


def test_categories_that_are_remapped() -> None:
    """Two categories may become one; ids are those after it."""
    plain = yolo_model()
    model = yolo_model(category_remapping={"0": 7, "1": 7, "2": 3})
    detector = geosod.from_sahi(model, tile=256)
    assert detector.card.classes == ("tank", "plane/ship")
    image = picture(256, 256)
    joined = {"plane": "plane/ship", "ship": "plane/ship", "tank": "tank"}
    expected = sorted((*row[:5], joined[row[5]]) for row in theirs(plain, image))
    assert rows(detector.detect(image), detector.card.classes) == expected
    named = geosod.from_sahi(model, tile=256, classes={7: "vessel", 3: "vehicle"})
    assert named.card.classes == ("vehicle", "vessel") and len(named.detect(image)) == len(expected)


def test_categories_that_are_not_known() -> None:
    model = torchvision_model()
    model.category_mapping = None
    with pytest.raises(ConfigError, match="has no category_mapping; pass classes"):
        geosod.from_sahi(model)
    detector = geosod.from_sahi(model, classes=("background", "car", "ship"), tile=256)
    assert set(detector.detect(picture(256, 256)).labels.tolist()) <= {1, 2}
    with pytest.raises(ModelError, match=r"found class \d '\d', but classes has only 0 car"):
        geosod.from_sahi(model, classes=("car",), tile=256).detect(picture(256, 256))
    with pytest.raises(ConfigError, match="categories cannot be read, at 9"):
        geosod.from_sahi(yolo_model(category_remapping={"9": 1}))


def test_thresholds() -> None:
    model = yolo_model(confidence_threshold=0.3)
    detector = geosod.from_sahi(model, tile=256)
    image = picture(256, 256)
    assert detector.threshold == pytest.approx(0.3)
    high = geosod.from_sahi(model, tile=256, threshold=0.6).detect(image)
    assert rows(high, NAMES) == [row for row in theirs(model, image) if row[4] >= 0.6] != []
    with pytest.raises(ConfigError, match=r"threshold 0.1 is below the SAHI model's confidence_threshold 0.3"):
        geosod.from_sahi(model, threshold=0.1)
    with pytest.raises(ConfigError, match=r"threshold 0.1 is below the 0.3 with which the detector was loaded"):
        geosod.detect(image, model=detector, threshold=0.1)


@pytest.mark.parametrize("model", [None, "yolo.pt", torch.nn.Identity()])
def test_objects_that_are_no_models_of_sahi(model) -> None:
    with pytest.raises(ConfigError, match="no loaded sahi DetectionModel"):
        geosod.from_sahi(model)


def test_other_weights_are_another_model(tmp_path) -> None:
    models = [yolo_model(), yolo_model(), yolo_model()]
    for i, model in enumerate(models):
        model.model_path = str(tmp_path / f"{i}.pt")
        Path(model.model_path).write_bytes(b"a" if i < 2 else b"b")
    digests = [find_model(geosod.from_sahi(model)).digest for model in models]
    assert digests[0] == digests[1] != digests[2]


def test_threads_that_use_one_model(monkeypatch) -> None:
    """A model of SAHI keeps its last predictions, here for a moment until they are read."""
    model = torchvision_model()
    infer = model.perform_inference
    monkeypatch.setattr(model, "perform_inference", lambda image: (infer(image), time.sleep(0.02)))
    detector = geosod.from_sahi(model, tile=256)
    images = [picture(256, 256, seed) for seed in range(4)]
    alone = [rows(detector.detect(image), detector.card.classes) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(detector.detect, itertools.chain(images, images))
    assert [rows(found, detector.card.classes) for found in together] == alone * 2


def test_a_scene_of_many_tiles_from_a_function(tmp_path, monkeypatch) -> None:
    """The recipe of docs/adapters.md for Ray and the command line."""
    (tmp_path / "mine.py").write_text(
        "import geosod\nfrom tests.adapters.test_sahi import yolo_model\n\n\n"
        "def make(execution):\n"
        "    return geosod.from_sahi(yolo_model(device=execution.device), tile=256, execution=execution)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    scene = write_tif(tmp_path / "scene.tif", picture(400, 600))
    with pytest.raises(ModelError, match="is Python code; add --trust"):
        geosod.detect(scene, model="mine:make", **PLAIN)
    made = geosod.detect(scene, model="mine:make", trust=True, **PLAIN | {"batch": 2})["scene"]
    one = geosod.detect(scene, model=geosod.from_sahi(yolo_model(), tile=256))["scene"]
    assert len(made.detections) > 100
    assert made.detections.boxes == pytest.approx(one.detections.boxes, abs=1e-3)
    assert made.to_geopandas().crs is not None
