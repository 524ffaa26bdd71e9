"""Thresholds per class, a choice of classes and new names in runs: the same on every engine, and what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import geosod
from geosod.detectors.bundle import open_bundle
from geosod.detectors.contract import RawBoxes
from geosod.detectors.detector import Detector
from tests.rasters import noise, random_bundle, write_tif
from tests.running.helpers import PLAIN, detect, files, tables

NAMES = ("ship", "car", "van")
#: All of them at once.
SETTINGS: dict[str, Any] = {
    "threshold": {"default": 0.02, "van": 0.05},
    "classes": "car,2",
    "rename_classes": "car=vehicle,van=vehicle",
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "three"
    groups = ("", "road", "road")
    return random_bundle(
        folder, bands=("red", "green", "blue"), classes=NAMES, top_k=2000, nms_iou=0.5, supercategories=groups
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_tif(tmp_path_factory.mktemp("scenes") / "s.tif", noise(3, 300, 420))


def rows(scene: Path, bundle: Path, **settings: Any) -> set[tuple[Any, ...]]:
    """Boxes, scores and labels that a run returns; fragments are treated as ordinary boxes."""
    outputs = geosod.detect(scene, model=bundle, borders=False, **(PLAIN | settings))["s"]
    d, names = outputs.detections, outputs.provenance.classes
    return set(zip(*d.boxes.T.tolist(), d.scores.tolist(), (names[k] for k in d.labels), strict=True))


def test_a_choice_of_classes_is_their_part_of_all(scene, bundle) -> None:
    everything = rows(scene, bundle)
    assert {row[5] for row in everything} == set(NAMES)
    chosen = rows(scene, bundle, classes=["ship", "van"])
    assert chosen == {row for row in everything if row[5] != "car"}


def test_thresholds_keep_each_class_from_its_score(scene, bundle) -> None:
    everything = rows(scene, bundle)
    middle = {name: float(np.median([row[4] for row in everything if row[5] == name])) for name in NAMES}
    kept = rows(scene, bundle, threshold={"ship": middle["ship"], "car": middle["car"]})
    # Greedy NMS never lets a box drop a better one, so the others are the same.
    assert kept == {row for row in everything if row[4] >= middle.get(row[5], 0) or row[5] == "van"}
    assert 0 < len(kept) < len(everything)


class Renamed:
    """Another adapter's boxes with other labels."""

    def __init__(self, adapter: Any, labels: list[int]) -> None:
        self._adapter, self._labels = adapter, torch.tensor(labels)

    def predict(self, images: torch.Tensor) -> RawBoxes:
        raw = self._adapter.predict(images)
        return RawBoxes(raw.boxes, raw.scores, self._labels[raw.labels], raw.tile, raw.tiles, raw.broken)


def test_renamed_classes_are_merged_as_one(scene, bundle) -> None:
    loaded = geosod.load_model(bundle, **{k: v for k, v in PLAIN.items() if k != "engine"})  # type: ignore[arg-type]
    # A model that knows one class of these names, and one more that it never finds.
    oracle = Detector(loaded.card, Renamed(loaded.adapter, [0, 1, 1]), loaded.execution)
    expected = geosod.detect(scene, model=oracle)["s"].detections
    names = {"car": "vehicle", "van": "vehicle"}
    found = geosod.detect(scene, model=loaded, rename_classes=names)["s"]
    assert found.detections.to_arrow().equals(expected.to_arrow())
    assert found.provenance.classes == ("ship", "vehicle", "vehicle")
    apart = geosod.detect(scene, model=loaded)["s"].detections
    assert len(apart) > len(expected) > 50


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_engines_agree(scene, bundle, tmp_path, engine, request) -> None:
    if engine == "ray":
        request.getfixturevalue("cluster")
    for name in ("serial", engine):
        assert detect(scene, bundle, tmp_path / name, engine=name, **SETTINGS).exit_code == 0
    assert tables(tmp_path / "serial") == tables(tmp_path / engine) and files(tmp_path / engine)


def test_what_the_outputs_say(scene, bundle, tmp_path) -> None:
    assert detect(scene, bundle, tmp_path / "out", **SETTINGS).exit_code == 0
    table = pq.read_table(next((tmp_path / "out/detections").rglob("*.parquet")))
    assert set(table["label"].to_pylist()) == {"vehicle"} and set(table["label_id"].to_pylist()) == {1}
    assert len(table) > 20 and min(table["score"].to_pylist()) >= 0.02
    about = json.loads(table.schema.metadata[b"geosod"])
    assert about["classes"] == ["ship", "vehicle", "vehicle"] and about["supercategories"] == ["", "road", "road"]
    options = about["options"]
    assert options["threshold"] == {"car": 0.02, "van": 0.05} and options["classes"] == ["car", "van"]
    assert options["rename_classes"] == {"car": "vehicle", "van": "vehicle"}
    assert open_bundle(bundle).card.classes == NAMES
