"""Situations in which users of other programs got wrong figures, or none."""

from __future__ import annotations

import json

import numpy as np
import pytest

from geosod.datasets.labels import LabelledImage, Labels
from geosod.datasets.read import read_labels
from geosod.detections import Detections
from geosod.evaluation.as_json import as_json
from geosod.evaluation.evaluate import evaluate
from geosod.evaluation.figures import EvaluationSettings
from geosod.evaluation.report import report

from .scenes import SIDE, found_scene, grid_of_spots, labels_of

NO_INTERVALS = EvaluationSettings(resamples=0)


def test_labels_as_detections_give_one_with_identifiers_from_0(tmp_path) -> None:
    """pycocotools takes a match with annotation 0 for none."""
    boxes = grid_of_spots(7)
    annotations = [
        {"id": i, "image_id": 0, "category_id": 0, "bbox": [*b[:2], *(b[2:] - b[:2])], "area": 0.0}
        for i, b in enumerate(boxes)
    ]
    images = [{"id": 0, "file_name": "a.png", "width": SIDE, "height": SIDE}]
    (tmp_path / "a.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 0, "name": "spot"}]})
    )
    result = evaluate(read_labels(tmp_path / "a.json").labels, [found_scene("a", boxes)], NO_INTERVALS)
    assert result.boxes.ap.mean() == pytest.approx(1.0) and result.boxes.at_iou.f_score == 1.0


def test_images_without_objects_count_false_alarms() -> None:
    images = [LabelledImage(f"s{i}", "", SIDE, SIDE) for i in range(6)]
    scenes = [found_scene(f"s{i}", grid_of_spots(3)) for i in range(6)]
    result = evaluate(Labels.empty(images, ["spot"]), scenes)
    assert np.isnan(result.boxes.ap.mean())
    assert (result.boxes.at_iou.found, result.boxes.at_iou.precision, result.boxes.at_iou.objects) == (18, 0.0, 0)
    assert as_json(result)["boxes"]["AP"] is None
    assert "18 detections" in report(result)


def test_false_alarms_in_images_without_objects_lower_ap() -> None:
    labels = labels_of({"a": grid_of_spots(4), "b": np.zeros((0, 4))})
    good = found_scene("a", grid_of_spots(4), np.full(4, 0.5))
    alone = evaluate(labels, [good, found_scene("b", np.zeros((0, 4)))], NO_INTERVALS)
    worse = evaluate(labels, [good, found_scene("b", grid_of_spots(6), np.full(6, 0.9))], NO_INTERVALS)
    assert alone.boxes.ap.mean() == pytest.approx(1.0) and worse.boxes.ap.mean() == pytest.approx(0.4)


def test_nothing_found_is_a_recall_of_0() -> None:
    labels = labels_of({f"s{i}": grid_of_spots(4) for i in range(6)})
    scenes = [found_scene(f"s{i}", np.zeros((0, 4))) for i in range(6)]
    result = evaluate(labels, scenes, EvaluationSettings(radius=5))
    assert result.boxes.ap.mean() == 0.0 and result.boxes.tiny_miss_rate.mean(0.5, "all") == 1.0
    assert result.points.score.recall == 0.0 and result.boxes.at_iou.recall == 0.0
    assert json.dumps(as_json(result), allow_nan=False) and "<svg" in report(result)


def test_classes_without_objects_do_not_move_others() -> None:
    """Categories that no annotation uses, in the middle of the others."""
    boxes = grid_of_spots(6)
    labels = labels_of({"a": boxes}, classes=("spot", "unused", "dot")).with_columns(labels=[0, 0, 0, 2, 2, 2])
    found = Detections(boxes=boxes, scores=np.full(6, 0.5), labels=[0, 0, 0, 1, 1, 0])
    scene = found_scene("a", boxes, found=found, classes=("spot", "dot"))
    result = evaluate(labels, [scene], NO_INTERVALS)
    assert result.boxes.ap.classes == ("spot", "dot") and result.boxes.ap.objects[:, 0].tolist() == [3, 3]
    assert result.boxes.ap.mean(label=1) == pytest.approx(67 / 101)
    assert not np.isnan(result.boxes.errors.ap).any()


def test_curves_follow_the_iou_that_is_asked_for() -> None:
    boxes = grid_of_spots(10)
    labels, scene = labels_of({"a": boxes}), found_scene("a", boxes + 2.0)
    recall = {
        iou: evaluate(labels, [scene], EvaluationSettings(iou=iou, resamples=0)).boxes.curves["spot"].recall[-1]
        for iou in (0.5, 0.95)
    }
    assert recall == {0.5: 1.0, 0.95: 0.0}


def test_boxes_without_area_are_no_matches() -> None:
    flat = np.array([[10.0, 10, 10, 30], [50, 50, 70, 70]])
    result = evaluate(labels_of({"a": flat}), [found_scene("a", flat)], NO_INTERVALS)
    assert (result.boxes.at_iou.matched, result.boxes.at_iou.found, result.boxes.at_iou.objects) == (1, 2, 2)


def test_an_image_with_more_objects_than_the_limit_is_noted() -> None:
    corner = np.stack(np.mgrid[0:30, 0:20], axis=-1).reshape(-1, 2) * 13.0
    boxes = np.hstack([corner, corner + 10])
    labels, scene = labels_of({"a": boxes}), found_scene("a", boxes)
    limited = evaluate(labels, [scene], NO_INTERVALS)
    assert "an image has 600 labels, but only 500 detections" in limited.notes[0]
    assert limited.boxes.ap.mean_recall() == pytest.approx(500 / 600)
    assert evaluate(labels, [scene], EvaluationSettings(max_detections=None, resamples=0)).boxes.ap.mean() == 1.0
