"""What users of other libraries reported about training, tried on ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import geosod
from geosod.errors import OutputError
from tests.training.sets import labelled
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
