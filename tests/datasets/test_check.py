"""What is wrong on purpose is found, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from geosod.datasets.check import check_labels, duplicates
from geosod.datasets.findings import CheckReport
from geosod.datasets.labels import LabelledImage, Labels
from geosod.datasets.problems import Problems
from geosod.datasets.read import Reading, read_labels
from tests.datasets.samples import sample_labels
from tests.rasters import noise, write_tif

WIDE = (LabelledImage("w", "", 400, 200),)


def made(boxes: object, labels: object = None, images: tuple[LabelledImage, ...] = WIDE, **columns: object) -> Labels:
    corners = np.array(boxes, np.float64)
    kinds = np.zeros(len(corners), int) if labels is None else labels
    image = columns.pop("image", np.zeros(len(corners), int))
    names = [f"c{k}" for k in range(int(np.max(kinds)) + 1)]
    return Labels(images=images, classes=names, image=image, boxes=corners, labels=kinds, **columns)  # type: ignore[arg-type]


def report(labels: Labels) -> CheckReport:
    return check_labels(Reading(labels, "coco", Problems(), ()), open_images=False)


def found(labels: Labels) -> dict[str, int]:
    return {one.kind: one.count for one in report(labels).findings}


def plenty(seed: int = 0, count: int = 40) -> np.ndarray:
    """Boxes well inside 400 x 200, none on another."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(200)[:count]
    corner = np.stack([cells % 20 * 20, cells // 20 * 20], axis=1) + rng.uniform(0, 6, (count, 2))
    return np.hstack([corner, corner + rng.uniform(6, 13, (count, 2))])


def test_good_labels_have_no_findings() -> None:
    assert found(made(plenty())) == {}


def test_boxes_outside_without_area_and_twice() -> None:
    boxes = plenty()
    boxes[0] = [410, 10, 420, 20]
    boxes[1] = [-30, 10, 0, 20]
    boxes[2, 2:] = [403, boxes[2, 3]]
    boxes[3, 2] = boxes[3, 0]
    boxes[4] = boxes[5]
    boxes[6] = boxes[7] + [0.1, 0, 0.1, 0]
    assert found(made(boxes)) == {"outside": 2, "beyond_edge": 1, "zero_area": 1, "duplicates": 1, "near_duplicates": 1}
    example = next(one for one in report(made(boxes)).findings if one.kind == "outside").examples[0]
    assert example == "w: 1 (410, 10, 420, 20)"


def test_duplicates_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(1)
    images = (LabelledImage("a", "", 50, 50), LabelledImage("b", "", 50, 50))
    corner, size = rng.integers(0, 6, (150, 2)), rng.integers(10, 13, (150, 2))
    some = made(np.hstack([corner, corner + size]), rng.integers(0, 2, 150), images, image=rng.integers(0, 2, 150))
    exact, near = duplicates(some)

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        shared = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
        return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))

    same = [
        [k < j and some.image[k] == some.image[j] and some.labels[k] == some.labels[j] for k in range(150)]
        for j in range(150)
    ]
    first = [any(same[j][k] and (some.boxes[j] == some.boxes[k]).all() for k in range(j)) for j in range(150)]
    close = [
        not first[j] and any(same[j][k] and not first[k] and iou(some.boxes[j], some.boxes[k]) >= 0.9 for k in range(j))
        for j in range(150)
    ]
    assert exact.tolist() == first and near.tolist() == close and sum(first) and sum(close)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda b: np.hstack([b[:, :2], b[:, :2] + b[:, 2:]]), "if their last two numbers were a corner"),
        (
            lambda b: np.hstack([(b[:, :2] + b[:, 2:]) / 2, (b[:, :2] + b[:, 2:]) / 2 + b[:, 2:] - b[:, :2]]),
            "the centre",
        ),
        (lambda b: b[:, [1, 0, 3, 2]], "if x and y were exchanged"),
        (lambda b: b / [400, 200, 400, 200], "relative to the size of the image"),
    ],
)
def test_other_box_formats_are_recognised(wrong: object, words: str) -> None:
    boxes = plenty()
    boxes[0] = [380, 180, 400, 200]
    (finding,) = [one for one in report(made(wrong(boxes))).findings if one.kind == "box_format"]  # type: ignore[operator]
    assert words in finding.message and finding.level == "error"


def test_sizes_read_as_corners_show_as_negative(tmp_path: Path) -> None:
    """x, y, w, h in a format of corners."""
    sample_labels(tmp_path)
    rows = [[30 + k, 30 + k, 5, 6] for k in range(8)]
    features = [
        {"properties": {"bounds_imcoords": ",".join(map(str, row)), "type_id": 18, "image_id": "a.tif"}} for row in rows
    ]
    (tmp_path / "x.geojson").write_text(json.dumps({"features": features}))
    reading = read_labels(tmp_path / "x.geojson", format="xview", invalid="skip")
    findings = {one.kind: one for one in check_labels(reading).findings}
    assert "x, y, width, height in a format of corners" in findings["box_format"].message
    assert check_labels(reading).problem_count == 8


def test_classes_that_are_rare_unused_or_uneven() -> None:
    kinds = np.repeat([0, 1, 3], [1500, 14, 3])
    cells = np.arange(len(kinds))
    corner = np.stack([cells % 39 * 10, cells // 39 * 4], axis=1)
    some = made(np.hstack([corner, corner + np.array([9, 3])]), kinds)
    assert found(some) == {"imbalance": 2, "rare_classes": 1, "unused_classes": 1}


def test_images_that_are_missing_other_or_turned(tmp_path: Path) -> None:
    good = sample_labels(tmp_path)
    size = LabelledImage("a", good.images[0].uri, 95, 64)
    gone = LabelledImage("gone", str(tmp_path / "gone.tif"), 10, 10)
    (tmp_path / "broken.tif").write_bytes(b"II*\0no")
    broken = LabelledImage("broken", str(tmp_path / "broken.tif"), 10, 10)
    some = Labels.concat([Labels.empty([size, gone, broken], ["car"]), good.of_images([1, 2])])
    findings = {one.kind: one.count for one in check_labels(Reading(some, "coco", Problems(), ())).findings}
    assert {k: findings[k] for k in ("image_size", "missing_images", "broken_images")} == {
        "image_size": 1, "missing_images": 1, "broken_images": 1,
    }  # fmt: skip


def test_histograms_add_up_and_metres_come_from_the_image(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", noise(3, 100, 100))
    image = LabelledImage("a", str(path), 100, 100)
    some = made([[0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 50]], images=(image,))
    histograms = check_labels(Reading(some, "coco", Problems(), ())).histograms
    assert sum(row["count"] for row in histograms["side"]["bins"]) == 2
    assert histograms["relative_scale"]["deciles"][0] == pytest.approx(0.1)
    assert histograms["relative_scale"]["deciles"][-1] == pytest.approx(0.2)
    # UTM, half a metre a pixel.
    assert histograms["side_m"]["p0"] == pytest.approx(5, rel=2e-3)
