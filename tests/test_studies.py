"""The studies of training methods: their files, their folds, and a run of one on drawn squares."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmarks.studies.fitted import fitted
from benchmarks.studies.folds import Fold, fold_of
from benchmarks.studies.measure import Runner
from benchmarks.studies.study import NAMES, Row, Study, read_study
from geosod.config import RunConfig
from geosod.datasets.contract import Target
from geosod.datasets.formats.coco import write_coco
from geosod.datasets.labels import LabelledImage, Labels
from geosod.errors import ConfigError
from geosod.training.config import TrainConfig
from tests.training.sets import squares

TINY = {"network": "fcos", "parameters": {"backbone": "slim", "width": 8, "channels": 16}, "init": "none", "tile": 64}


@pytest.mark.parametrize("name", NAMES)
def test_every_study_has_settings_that_exist(name: str) -> None:
    study = read_study(name)
    for settings in study.trainings.values():
        TrainConfig(**{**study.train, **settings})
    for row in study.rows.values():
        RunConfig(**{**study.detect, **row.detect})


def test_a_row_of_an_unknown_training_is_refused() -> None:
    with pytest.raises(ValidationError, match="unknown training sliced"):
        Study(name="x", title="X", track="t", train={}, trainings={"plain": {}}, rows={"SF": Row(training="sliced")})


@given(st.lists(st.integers(0, 50), min_size=2, max_size=12), st.integers(2, 4), st.data())
def test_folds_keep_ground_together(boxes: list[int], folds: int, data: st.DataObject) -> None:
    images = [LabelledImage(f"i{k}.tif", f"i{k}.tif", 10, 10, number=k + 1) for k in range(len(boxes))]
    owner = np.repeat(np.arange(len(boxes)), boxes)
    labels = Labels(
        images=images, classes=["a"], image=owner, boxes=np.tile([0.0, 0, 1, 1], (len(owner), 1)), labels=0 * owner
    )
    one, other = data.draw(st.lists(st.integers(0, len(boxes) - 1), min_size=2, max_size=2, unique=True))
    fold = fold_of(labels, ((f"i{one}", f"i{other}"),), folds)
    assert fold[one] == fold[other] and fold.min() >= 0 and fold.max() < folds
    assert len(set(fold.tolist())) == min(folds, len(boxes) - 1)
    # No fold has more boxes than the one with the fewest and one group.
    shares = np.bincount(fold, boxes, minlength=folds)
    largest = max(*boxes, boxes[one] + boxes[other])
    assert shares.max() <= shares.min() + largest


def test_a_run_of_other_settings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was made before settings were kept is taken as it is."""
    monkeypatch.setattr("geosod.train", lambda *_, out, **__: out.mkdir(parents=True))
    study = Study(name="x", title="X", track="t", train={"steps": 9}, trainings={"plain": {}}, rows={})
    fold = Fold(*(tmp_path / name for name in ("train", "test", "check")))

    def trained(effort: float, study: Study = study) -> Path:
        runner = Runner(study, tmp_path, tmp_path, effort=effort, say=lambda _: None)
        return runner.trained(tmp_path, 3, fold, "plain", 0)[0]

    run = tmp_path / "runs" / "plain-0-3"
    assert trained(1.0) == trained(1.0) == run / "model"
    with pytest.raises(ConfigError, match=r"effort 1\.0, but the study now has 0\.05; give another --work"):
        trained(0.05)
    with pytest.raises(ConfigError, match=r"made with training .*'lr': 1"):
        trained(1.0, study.model_copy(update={"trainings": {"plain": {"lr": 1}}}))
    (run / "study.settings").unlink()
    assert trained(0.05) == run / "model"


def test_a_training_starts_from_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def train(*_: Any, out: Path, **settings: Any) -> None:
        out.mkdir(parents=True)
        asked[out.name] = settings.get("init")

    monkeypatch.setattr("geosod.train", train)
    trainings: dict[str, Any] = {"large": {}, "larger": {}}
    about = {"title": "X", "track": "t", "train": {"steps": 9}, "trainings": trainings, "rows": {}}
    study = Study(name="x", starts_from={"larger": "large"}, **about)
    fold = Fold(*(tmp_path / name for name in ("train", "test", "check")))
    bundle, minutes = Runner(study, tmp_path, tmp_path, say=lambda _: None).trained(tmp_path, 1, fold, "larger", 2)
    assert asked == {"large-2-1": None, "larger-2-1": tmp_path / "runs" / "large-2-1" / "model"}
    assert bundle == tmp_path / "runs" / "larger-2-1" / "model"
    each = [json.loads((tmp_path / "runs" / name / "minutes.json").read_text()) for name in asked]
    assert minutes == pytest.approx(sum(each))
    with pytest.raises(ValueError, match="unknown training huge"):
        Study(name="x", starts_from={"larger": "huge"}, **about)
    with pytest.raises(ValueError, match="starts from one that is no such training itself"):
        Study(name="x", starts_from={"larger": "large", "large": "larger"}, **about)


def test_images_are_brought_to_the_input_of_a_network_with_their_boxes(tmp_path: Path) -> None:
    """A square keeps its shape where images are inscribed, and its place in the image either way."""
    made = squares(tmp_path / "images", images=1, size=(128, 32), objects=1, seed=0)
    x0, y0, x1, y1 = made.boxes[0]
    for resize, x, y, top in (("letterbox", 0.5, 0.5, 24), ("stretch", 0.5, 2.0, 0)):
        shown = fitted(made, tmp_path / resize, {"size": [64, 64], "resize": resize, "resampling": "antialias"})
        assert (shown.images[0].width, shown.images[0].height) == (64, 64)
        assert shown.boxes[0].tolist() == pytest.approx([x0 * x, y0 * y + top, x1 * x, y1 * y + top])
        assert shown.area[0] == pytest.approx(made.area[0] * x * y)
        with rasterio.open(shown.images[0].uri) as dataset, rasterio.open(made.images[0].uri) as source:
            before, after = source.read(), dataset.read()
        assert after.shape == (3, 64, 64)
        inside = after[:, top : 64 - top].astype(float)
        assert inside.mean() == pytest.approx(before.mean(), rel=0.05)
        assert (after[:, :top] == 0).all() and (after[:, 64 - top :] == 0).all()
        asked = {"size": [64, 64], "resize": resize, "resampling": "antialias"}
        assert fitted(made, tmp_path / resize, asked).boxes.tolist() == shown.boxes.tolist(), "kept"
        with pytest.raises(ConfigError, match=r"made with input .*another --work"):
            fitted(made, tmp_path / resize, asked | {"size": [32, 32]})
        with pytest.raises(ConfigError, match="made with boxes"):
            fitted(made.with_columns(boxes=made.boxes + 1), tmp_path / resize, asked)


@pytest.mark.slow
def test_a_study_is_measured_once(tmp_path: Path) -> None:
    """Each image is found once, by the model of the other fold; what is there is not trained again."""
    track = tmp_path / "data" / "drawn"
    for name, seed in (("train", 0), ("val", 1)):
        made = squares(track / name, images=2, size=(96, 96), objects=4, seed=seed)
        images = []
        for image in made.images:
            path = Path(image.uri).rename(track / f"{name}-{image.id}.tif")
            images.append(replace(image, id=path.stem, uri=str(path)))
        write_coco(made.with_columns(images=images), Target(track / f"{name}.json", track / f"{name}.json"))
    study = Study(
        name="drawn", title="Drawn", track="drawn", seeds={"plain": 2},
        train=TINY | {"steps": 4, "batch": 2, "threads": 1}, trainings={"plain": {}},
        detect={"engine": "serial"},
        rows={"one": Row(training="plain"), "two": Row(training="plain", detect={"overlap": 0.5})},
    )  # fmt: skip
    said: list[str] = []
    rows = Runner(study, tmp_path / "data", tmp_path / "work", "cpu", 0.5, said.append).rows(1.0)
    assert [(row["set-up"], row["seed"]) for row in rows] == [("one", 0), ("one", 1), ("two", 0), ("two", 1)]
    assert all(0 <= row["AP50"] <= 1 for row in rows)
    assert sum(line.endswith("training") for line in said) == 4
    folder = tmp_path / "work" / "drawn" / "scale-1"
    images = {
        part: [{i["file_name"] for i in json.loads((folder / "folds" / f"{part}-{k}.json").read_text())["images"]}
               for k in (0, 1)]
        for part in ("train", "test")
    }  # fmt: skip
    assert len(images["test"][0] | images["test"][1]) == 4 and images["test"] == images["train"][::-1]
    assert json.loads((folder / "runs" / "plain-0-0" / "training.json").read_text())
    said.clear()
    for changed, effort in ((study, 1.0), (study.model_copy(update={"train": study.train | {"lr": 1e-3}}), 0.5)):
        with pytest.raises(ConfigError, match=r"one-0\.settings.*another --work"):
            Runner(changed, tmp_path / "data", tmp_path / "work", "cpu", effort, said.append).rows(1.0)
    assert not said
    assert Runner(study, tmp_path / "data", tmp_path / "work", "cpu", 0.5, said.append).rows(1.0) == rows
    assert not said
