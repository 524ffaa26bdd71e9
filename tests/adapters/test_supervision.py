"""Callbacks written for supervision's InferenceSlicer as detectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import geosod
from geosod.errors import ModelError
from geosod.testing import check_detector
from tests.adapters.yolo import NAMES, picture, tiny_yolo

sv = pytest.importorskip("supervision")


def bright(image: np.ndarray) -> Any:
    """Rows of bright pixels of each band as a box."""
    rows = [(band, *np.nonzero(image[..., band] > 200)) for band in range(3)]
    rows = [(band, y, x) for band, y, x in rows if len(y)]
    if not rows:
        return sv.Detections.empty()
    boxes = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1] for _, y, x in rows], float)
    ids = np.array([band for band, _, _ in rows])
    return sv.Detections(xyxy=boxes, confidence=(ids + 1) / 4, class_id=ids)


def scene(height: int = 333, width: int = 450) -> np.ndarray:
    image = np.zeros((3, height, width), np.uint8)
    image[0, 10:30, 20:50] = image[1, 110:130, 100:140] = image[2, 300:320, 400:440] = 255
    return image


def test_a_slicer_and_geosod_find_the_same() -> None:
    """One function, given to both; no object lies across the edge of a slice, where the slicer keeps its parts."""
    image = scene()
    slicer = sv.InferenceSlicer(bright, slice_wh=(160, 160), overlap_wh=(64, 64), iou_threshold=0.5)
    expected = slicer(np.ascontiguousarray(image.transpose(1, 2, 0)))
    detector = geosod.from_callback(bright, classes=("a", "b", "c"), tile=160, overlap=64, merge_metric="ios")
    found = geosod.detect(image, model=detector)["array"].to_supervision()
    rows = [
        sorted(zip(each.class_id.tolist(), each.xyxy.tolist(), each.confidence.tolist(), strict=True))
        for each in (found, expected)
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 3


def test_empty_detections_and_missing_columns() -> None:
    detector = geosod.from_callback(bright, classes=("a", "b", "c"), tile=128)
    assert len(detector.detect(np.zeros((3, 128, 128), np.uint8))) == 0
    boxes = np.array([[1.0, 2, 30, 40]])
    bare = geosod.from_callback(lambda image: sv.Detections(xyxy=boxes), classes=("thing",), tile=128)
    found = bare.detect(np.zeros((3, 128, 128), np.uint8))
    assert found.scores.tolist() == [1] and found.labels.tolist() == [0] and found.boxes.tolist() == [[1, 2, 30, 40]]


def test_it_keeps_the_contract() -> None:
    images = np.stack([scene(128, 160), scene(128, 160)[:, ::-1], scene(128, 160)[::-1]])
    check_detector(geosod.from_callback(bright, classes=("a", "b", "c"), tile=(160, 128)), images)


def test_ultralytics_through_supervision() -> None:
    """Names of classes come with the detections; images go as BGR, as ultralytics wants arrays."""
    pytest.importorskip("ultralytics")
    yolo = tiny_yolo()

    def callback(image: np.ndarray) -> Any:
        return sv.Detections.from_ultralytics(yolo.predict(image, imgsz=256, conf=0.2, verbose=False)[0])

    bgr = ("blue", "green", "red")
    detector = geosod.from_callback(callback, classes=tuple(reversed(NAMES)), tile=256, bands=bgr)
    image = picture(256, 256)[::-1]
    boxes = yolo.predict(np.ascontiguousarray(image.transpose(1, 2, 0)), imgsz=256, conf=0.2, verbose=False)[0].boxes
    found = detector.detect(image)
    names = [detector.card.classes[label] for label in found.labels]
    ours = sorted(zip(found.boxes.tolist(), names, found.scores.tolist(), strict=True))
    expected = zip(boxes.xyxy.tolist(), [NAMES[int(i)] for i in boxes.cls], boxes.conf.tolist(), strict=True)
    assert ours == sorted(expected) and len(ours) > 10 and len(set(names)) > 1


def test_a_callback_that_looks_at_the_whole_image() -> None:
    """As in roboflow/supervision issue 1814: the same boxes came back in every slice."""
    image = scene(320, 480)
    everything = np.ascontiguousarray(image.transpose(1, 2, 0))
    detector = geosod.from_callback(lambda tile: bright(everything), classes=("a", "b", "c"), tile=128)
    with pytest.raises(ModelError, match="must run the model on the image that it gets"):
        detector.detect(image[:, :128, :128])
