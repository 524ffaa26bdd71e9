"""What users of other libraries reported about training, tried on ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import geosod
from geosod.errors import ConfigError, LabelError, OutputError
from geosod.training.config import TrainConfig
from geosod.training.from_data import estimated_anchors
from geosod.training.prepared import prepare
from tests.training.sets import labelled, squares
from tests.training.test_crops import FAST


def changed(path: Path, change) -> Path:  # type: ignore[no-untyped-def]
    """A file of COCO labels after a change of its annotations."""
    found = json.loads(path.read_text())
    found["annotations"] = change(found)
    path.write_text(json.dumps(found))
    return path


def test_images_without_objects_and_boxes_of_zeros(tmp_path: Path) -> None:
    """DeepForest#216, #218, #243: background images, also marked by a box 0, 0, 0, 0, ended training."""
    labels = labelled(tmp_path / "set", images=5, objects=6)

    def emptied(found: dict) -> list:
        first = found["images"][0]["id"]
        kept = [one for one in found["annotations"] if one["image_id"] > first + 1]
        zeros = {"id": 10_000, "image_id": first, "category_id": 1, "bbox": [0, 0, 0, 0], "area": 0, "iscrowd": 0}
        return [*kept, zeros]

    result = geosod.train(changed(labels, emptied), val=labels, out=tmp_path / "run", steps=4, negatives=1.0, **FAST)
    assert result.bundle is not None and result.exit_code == 0


def test_validation_images_without_objects(tmp_path: Path) -> None:
    """detectree2#105: an empty validation set ended training."""
    labels = labelled(tmp_path / "set", images=3, objects=6)
    empty = changed(labelled(tmp_path / "val", images=2, objects=3, seed=5), lambda _: [])
    result = geosod.train(labels, val=empty, out=tmp_path / "run", steps=4, **FAST)
    assert result.bundle is not None and result.figures["AP50"] == 0


def test_another_learning_rate_for_a_run_that_goes_on(tmp_path: Path) -> None:
    """detectron2#2312, maskrcnn-benchmark#464: the old rate was taken silently; here another run starts from it."""
    labels = labelled(tmp_path / "set", images=3, objects=6)
    first = geosod.train(labels, val=labels, out=tmp_path / "run", steps=4, **FAST)
    with pytest.raises(OutputError, match="other settings"):
        geosod.train(labels, val=labels, out=tmp_path / "run", steps=4, **(FAST | {"lr": 1e-4}))
    # Where no network is named, it is the bundle's.
    general = {name: value for name, value in FAST.items() if name not in ("network", "parameters")}
    again = general | {"lr": 1e-4, "init": str(first.bundle)}
    second = geosod.train(labels, val=labels, out=tmp_path / "two", steps=4, **again)
    assert second.bundle is not None
    cards = [geosod.load_model(run.bundle).card for run in (first, second)]
    assert cards[0].architecture == cards[1].architecture == "fcos" and cards[0].parameters == cards[1].parameters


def test_classes_that_the_validation_lacks_or_adds(tmp_path: Path) -> None:
    """A class of the validation that is not trained is named, not given another's number."""
    labels = labelled(tmp_path / "set", images=3, objects=6)
    val = labelled(tmp_path / "val", images=2, objects=6, seed=5)
    found = json.loads(val.read_text())
    found["categories"][0]["name"] = "dragon"
    val.write_text(json.dumps(found))
    with pytest.raises(geosod.GeosodError, match="dragon"):
        geosod.train(labels, val=val, out=tmp_path / "run", steps=4, **FAST)


def test_boxes_without_area_are_counted(tmp_path: Path) -> None:
    """torchvision#2740, DeepForest#243: they were left out of training without a word."""
    labels = labelled(tmp_path / "set", images=3, objects=6)

    def flattened(found: dict) -> list:
        for one, side in zip(found["annotations"], (0, 1e-4), strict=False):
            one["bbox"][2] = side
        return list(found["annotations"])

    notes = notes_of(changed(labels, flattened), val=labels, out=tmp_path / "run")
    assert "2 objects have no area and are left out; geosod dataset check names them" in notes


def test_images_that_are_tagged_to_be_shown_rotated(tmp_path: Path) -> None:
    """yolov5#405, detectron2#2463: boxes that were drawn on the rotated view are all in the wrong place."""
    labels, found = rotated(tmp_path, (64, 64))
    notes = notes_of(labels, val=str(labels), out=tmp_path / "a")
    assert any("1 image is tagged to be shown rotated" in note for note in notes), notes
    labels, found = rotated(tmp_path, (64, 96))
    for image in found["images"]:
        image["width"], image["height"] = image["height"], image["width"]
    labels.write_text(json.dumps(found))
    with pytest.raises(LabelError, match="the labels are for 96 x 64; it is tagged to be shown rotated"):
        geosod.train(labels, val=labels, out=tmp_path / "b", steps=1, **FAST)


def rotated(folder: Path, size: tuple[int, int]) -> tuple[Path, dict]:
    """Labels of one JPEG with EXIF's orientation 6."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", size, "green").save(folder / f"{size}.jpg", exif=exif)
    found = {
        "images": [{"id": 1, "file_name": f"{size}.jpg", "width": size[0], "height": size[1]}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]}],
        "categories": [{"id": 1, "name": "car"}],
    }
    path = folder / f"{size}.json"
    path.write_text(json.dumps(found))
    return path, found


def test_prior_boxes_of_a_network_without_any(tmp_path: Path) -> None:
    """The first network that people try has none; the message said that a keyword was unexpected."""
    labels = labelled(tmp_path / "set", images=3, objects=6)
    for network in ("S", "tiny"):
        with pytest.raises(ConfigError, match=f"network '{network}' .* no prior boxes .* retinanet or faster-rcnn"):
            geosod.train(labels, val=labels, out=tmp_path / "run", network=network, anchors="estimate", init="none")


def test_thin_boxes_do_not_spoil_estimated_anchors(tmp_path: Path) -> None:
    """yolov5#4528, darknet#534: with a few of them ratios were ten millions."""
    made = squares(tmp_path, images=4, size=(128, 128), objects=8, seed=0)
    boxes = made.boxes.copy()
    boxes[::3, 2] = boxes[::3, 0] + 1e-6
    found = estimated_anchors(made.with_columns(boxes=boxes), TrainConfig(network="retinanet", tile=(128, 128)))
    assert max(found.ratios) < 3


def test_a_class_that_is_spelt_otherwise_in_validation(tmp_path: Path) -> None:
    """DeepForest#574."""
    labels = labelled(tmp_path / "set", images=3, objects=6)
    other = labelled(tmp_path / "val", images=2, objects=3, seed=5)
    found = json.loads(other.read_text())
    name = found["categories"][0]["name"]
    found["categories"][0]["name"] = name.upper()
    other.write_text(json.dumps(found))
    with pytest.raises(
        ConfigError, match=f"{other.name}: the class '{name.upper()}'.*rename-classes.*did you mean '{name}'"
    ):
        geosod.train(labels, val=other, out=tmp_path / "run", steps=1, **FAST)


def test_validations_in_mid_run_that_ray_leaves_out_are_spoken_of(tmp_path: Path) -> None:
    labels = labelled(tmp_path / "set", images=3, objects=6)
    said = "validate-every: a run on Ray is validated once, at its end"
    for workers, found in ((None, 0), (2, 1)):
        notes = notes_of(labels, val=str(labels), out=str(tmp_path), validate_every=1, ray_workers=workers)
        assert notes.count(said) == found


def notes_of(labels: Path, **settings) -> list[str]:  # type: ignore[no-untyped-def]
    """What a short run says."""
    return list(prepare(TrainConfig(labels=str(labels), steps=1, **(FAST | settings))).notes)
