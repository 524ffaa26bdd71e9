"""A function from an image to its boxes as a detector."""

from __future__ import annotations

import functools
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import geosod
from geosod.detectors import find_model
from geosod.errors import ConfigError, ModelError
from geosod.results import Execution
from geosod.testing import check_detector

CLASSES = ("red", "green", "blue")


def answer(boxes: Any, confidence: Any = None, class_id: Any = None, **data: Any) -> SimpleNamespace:
    """What `supervision.Detections` has, without supervision."""
    return SimpleNamespace(xyxy=np.reshape(boxes, (-1, 4)), confidence=confidence, class_id=class_id, data=data)


def squares(image: np.ndarray) -> SimpleNamespace:
    """One box for each band that has bright pixels, whose score is their value; the class is the band."""
    assert image.dtype == np.uint8 and image.ndim == 3 and image.flags.c_contiguous and image.flags.writeable
    boxes, scores, ids = [], [], []
    for band in range(image.shape[2]):
        rows, cols = np.nonzero(image[..., band] > 100)
        if len(rows):
            boxes.append([cols.min(), rows.min(), cols.max() + 1, rows.max() + 1])
            scores.append(image[..., band].max() / 255)
            ids.append(band)
    image[:] = 0
    return answer(boxes, np.array(scores), np.array(ids))


def drawn(height: int = 300, width: int = 500) -> np.ndarray:
    image = np.zeros((3, height, width), np.uint8)
    image[0, 20:60, 30:41] = 250
    image[1, 100:107, 200:290] = 200
    image[2, 80:99, 400:480] = 150
    return image


def test_boxes_scores_and_classes_arrive() -> None:
    detector = geosod.from_callback(squares, classes=CLASSES, tile=512)
    found = geosod.detect(drawn(), model=detector)["array"].detections
    rows = {int(label): box for label, box in zip(found.labels, found.boxes.tolist(), strict=True)}
    assert rows == {0: [30, 20, 41, 60], 1: [200, 100, 290, 107], 2: [400, 80, 480, 99]}
    scores = dict(zip(found.labels.tolist(), found.scores.tolist(), strict=True))
    assert scores == pytest.approx({0: 250 / 255, 1: 200 / 255, 2: 150 / 255})
    assert detector.card.classes == CLASSES and detector.card.nms_iou == 1 and detector.card.name == "squares"


def test_bands_come_in_the_order_that_is_asked_for() -> None:
    """As BGR where the function expects that; the scene's bands are found by their names."""
    seen = []

    def look(image: np.ndarray) -> SimpleNamespace:
        seen.append(image[0, 0].tolist())
        return answer([])

    scene = np.stack([np.full((64, 64), value, np.uint8) for value in (10, 20, 30)])
    detector = geosod.from_callback(look, classes=("a",), tile=64, bands=("blue", "green", "red"))
    detector.detect(scene)
    assert seen == [[10, 20, 30]]
    scaled = geosod.from_callback(
        look, classes=("a",), tile=64, bands=("x",), dtype="uint16", minimum=(1000,), maximum=(3000,)
    )
    scaled.detect(np.full((1, 64, 64), 2000, np.uint16))
    scaled.detect(np.full((1, 64, 64), 65535, np.uint16))
    assert seen[1:] == [[128], [255]]


def test_all_eight_bit_values_arrive_unchanged() -> None:
    seen = []

    def look(image: np.ndarray) -> SimpleNamespace:
        seen.append(image[..., 0].copy())
        return answer([])

    scene = np.arange(256, dtype=np.uint8).repeat(16).reshape(1, 64, 64)
    geosod.from_callback(look, classes=("a",), tile=64, bands=("x",)).detect(scene)
    assert np.array_equal(seen[0], scene[0])


@pytest.mark.parametrize("batch", [1, 3])
def test_it_keeps_the_contract(batch) -> None:
    execution = Execution("cpu", "eager", "fp32", batch, 1)
    detector = geosod.from_callback(squares, classes=CLASSES, tile=128, execution=execution)
    check_detector(detector, np.stack([drawn(128, 512), drawn(128, 512)[:, ::-1], drawn(128, 512) // 2 * 2]))


def test_functions_of_several_images() -> None:
    sizes = []

    def batch(images: list[np.ndarray]) -> list[SimpleNamespace]:
        sizes.append(len(images))
        return [squares(image) for image in images]

    several = geosod.from_callback(batch, classes=CLASSES, tile=128, batch_size=4)
    single = geosod.from_callback(squares, classes=CLASSES, tile=128)
    tiles = np.stack([drawn(128, 512)[:, :, i * 90 : i * 90 + 128] for i in range(4)])
    a, b = several.detect(tiles), single.detect(tiles)
    assert sizes == [4] and sum(map(len, a)) > 2
    assert all(x.to_arrow().equals(y.to_arrow()) for x, y in zip(a, b, strict=True))
    wrong = geosod.from_callback(lambda images: squares(images[0]), classes=CLASSES, tile=128, batch_size=2)
    with pytest.raises(ModelError, match="returned a SimpleNamespace for 2 images"):
        wrong.detect(tiles)


def detect_one(made: SimpleNamespace, classes: Any = CLASSES) -> list[tuple[int, float]]:
    detector = geosod.from_callback(lambda image: made, classes=classes, tile=64)
    found = detector.detect(np.zeros((3, 64, 64), np.uint8))
    return sorted(zip(found.labels.tolist(), found.scores.tolist(), strict=True))


BOXES = [[1, 2, 9, 8], [20, 20, 40, 44]]


def test_confidence_and_class_id_may_be_missing() -> None:
    assert detect_one(answer(BOXES, class_id=np.array([2, 0]))) == [(0, 1.0), (2, 1.0)]
    assert detect_one(answer(BOXES, np.array([0.5, 0.75])), classes=("one",)) == [(0, 0.5), (0, 0.75)]
    assert detect_one(answer([])) == []
    with pytest.raises(ModelError, match="without class_id, but there are 3 classes"):
        detect_one(answer(BOXES))


def test_names_decide_where_there_are_names() -> None:
    """Ids of a library may be those of another list of classes."""
    named = answer(BOXES, np.array([0.5, 0.75]), np.array([7, 2]), class_name=np.array(["blue", "green"]))
    assert detect_one(named) == [(1, 0.75), (2, 0.5)]
    with pytest.raises(ModelError, match="class 'blue', but classes names only red"):
        detect_one(named, classes=("red", "green"))


def test_ids_may_have_gaps() -> None:
    found = answer(BOXES, np.array([0.5, 0.75]), np.array([9, 3]))
    assert detect_one(found, classes={9: "ship", "3": "car"}) == [(0, 0.75), (1, 0.5)]
    with pytest.raises(ModelError, match="found class 9 '', but classes has only 0 red, 1 green"):
        detect_one(found)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "returned a NoneType; it must return an object with xyxy, confidence, class_id"),
        (SimpleNamespace(xyxy=[[0, 0, 1, 1]], conf=[1], cls=[0]), "returned a SimpleNamespace; it must return"),
        (answer(BOXES, np.array([1.0])), "returned 2 boxes, but 1 values of confidence"),
        (answer([[500, 20, 540, 44]], class_id=[0]), r"of an image of 64 x 64 px; it must run the model on the image"),
    ],
)
def test_answers_that_cannot_be_right(made, message) -> None:
    with pytest.raises(ModelError, match=message):
        detect_one(made)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"callback": 3}, "callback is a int"), ({"classes": ()}, "classes is empty"),
        ({"classes": "car"}, "pass several names"), ({"classes": {"a": "b"}}, "whole numbers as ids"),
        ({"batch_size": 0}, "batch_size 0"), ({"dtype": "uint16"}, "pass minimum="), ({"tile": 100}, "multiple of 32"),
    ],
)  # fmt: skip
def test_what_cannot_become_a_detector(arguments, message) -> None:
    with pytest.raises((ConfigError, ModelError), match=message):
        geosod.from_callback(**{"callback": squares, "classes": CLASSES} | arguments)


def test_one_thread_at_a_time_uses_the_function() -> None:
    """Functions keep state, as models of SAHI do."""
    state: dict[str, Any] = {}

    def stateful(image: np.ndarray) -> SimpleNamespace:
        state["value"] = image.max()
        time.sleep(0.001)
        return answer([[0, 0, 9, 9]], np.array([state["value"] / 255]))

    detector = geosod.from_callback(stateful, classes=("a",), bands=("x",), tile=64)
    images = [torch.full((1, 1, 64, 64), value / 255) for value in range(1, 200)]
    with ThreadPoolExecutor(8) as pool:
        scores = [float(raw.scores[0]) for raw in pool.map(detector.adapter.predict, images)]
    assert scores == pytest.approx([value / 255 for value in range(1, 200)])


def test_another_function_is_another_model() -> None:
    detectors = [
        geosod.from_callback(squares, classes=CLASSES),
        geosod.from_callback(functools.partial(squares), classes=CLASSES, name="squares"),
        geosod.from_callback(squares, classes=CLASSES, name="trained again"),
        geosod.from_callback(answer, classes=CLASSES, name="squares"),
    ]
    digests = [find_model(detector).digest for detector in detectors]
    assert digests[0] == digests[1] and len(set(digests)) == 3
