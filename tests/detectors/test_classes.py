"""Thresholds per class, a choice of classes, and new names: before NMS inside a tile, against plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import geosod
from geosod.config import make_config
from geosod.detectors import open_bundle
from geosod.detectors.classes import class_index, class_rules
from geosod.detectors.contract import RawBoxes
from geosod.detectors.detector import Detector
from geosod.detectors.mlm_item import from_item, to_item
from geosod.detectors.postprocess import postprocess, reported
from geosod.errors import ConfigError, ModelError
from geosod.running.detect import make_job
from geosod.testing import BrightSpots, check_detector, fake_card
from tests.cli.commands import geosod as command
from tests.detectors.test_postprocess import batch_of, one_tile, raw_boxes
from tests.rasters import noise, random_bundle

NAMES = ("car", "van", "ship")
PLAIN: dict[str, Any] = {"precision": "fp32", "backend": "eager", "device": "cpu", "batch": 2}


class Kinds(BrightSpots):
    """Every bright region three times: as classes 0, 1 and 2, with falling scores."""

    def predict(self, images: torch.Tensor) -> RawBoxes:
        raw = super().predict(images)
        parts = [(raw.boxes, raw.scores - 0.1 * k, raw.labels + k, raw.tile) for k in range(3)]
        return RawBoxes(*(torch.cat(column) for column in zip(*parts, strict=True)), raw.tiles)


def kinds(**settings: Any) -> Detector:
    return Detector(fake_card(classes=NAMES), Kinds(), **settings)


def spots() -> np.ndarray:
    """Two regions, 30 and 60 px wide: scores 0.62 and 0.74."""
    image = np.zeros((1, 256, 256), np.uint8)
    image[0, 40:80, 20:50] = image[0, 120:160, 100:160] = 255
    return image


def found(detector: Detector) -> list[tuple[str, float]]:
    boxes = detector.detect(spots())
    assert isinstance(boxes, geosod.Detections)
    names = detector.rules.names
    return sorted((names[k], round(float(s), 2)) for k, s in zip(boxes.labels, boxes.scores, strict=True))


def plain_rules(raw: RawBoxes, limits: Mapping[str, float], wanted: set[str], names: Mapping[str, str]) -> RawBoxes:
    """What `reported` should give, one box at a time."""
    new = [names.get(name, name) for name in NAMES]
    rows, labels = [], []
    for k in range(len(raw.boxes)):
        name = NAMES[int(raw.labels[k])]
        if name in wanted and float(raw.scores[k]) >= np.float32(limits[name]):
            rows.append(k)
            labels.append(new.index(names.get(name, name)))
    return RawBoxes(raw.boxes[rows], raw.scores[rows], torch.tensor(labels, dtype=torch.int64), raw.tile[rows])


@given(
    seed=st.integers(0, 2**32 - 1),
    limits=st.tuples(*[st.sampled_from([0.0, 0.2, 0.5, 0.77])] * 3),
    wanted=st.sets(st.sampled_from(NAMES), min_size=1),
    names=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["vehicle", "ship"]), max_size=3),
)
@settings(deadline=None, max_examples=150)
def test_classes_are_filtered_and_renamed_before_nms(seed, limits, wanted, names) -> None:
    rng = np.random.default_rng(seed)
    raw, card = raw_boxes(rng, 2, 60), fake_card(classes=NAMES, top_k=8)
    by_name = dict(zip(NAMES, limits, strict=True))
    rules = card.class_rules.changed(threshold=by_name, classes=wanted, rename=names)
    batch = batch_of(rng, 2, holes=False)
    result = postprocess(reported(raw, rules), batch, card, threshold=rules.min_score)
    expected = plain_rules(raw, by_name, wanted, names)
    assert rules.min_score == min(by_name[name] for name in wanted)
    for i, tile in enumerate(result.per_tile()):
        rows = [row[:6] for row in one_tile(expected, batch, i, card, 0.0)]
        assert list(zip(*tile.boxes.T.tolist(), tile.scores.tolist(), tile.labels.tolist(), strict=True)) == rows


def test_every_form_of_a_threshold() -> None:
    assert len(found(kinds())) == 6
    assert found(kinds(threshold=0.6)) == [("car", 0.62), ("car", 0.74), ("van", 0.64)]
    some = [("car", 0.62), ("car", 0.74), ("ship", 0.54), ("van", 0.64)]
    assert found(kinds(threshold={"default": 0.6, "ship": 0.5})) == some
    # Without a default the others keep that of the card, 0.1.
    assert found(kinds(threshold={"car": 0.7})) == found(kinds())[1:]
    assert found(kinds(threshold={0: 0.7})) == found(kinds(threshold={"car": 0.7}))
    assert kinds(threshold={0: 0.7, "default": 0.5}).threshold == 0.5


def test_a_choice_of_classes() -> None:
    assert {name for name, _ in found(kinds(classes=["van", 0]))} == {"car", "van"}
    # What is left out counts for nothing, also for the lowest score asked of the network.
    assert kinds(classes=["van"], threshold={"van": 0.6, "car": 0.2}).threshold == 0.6
    assert kinds(classes=["ship"]).detect(spots()).labels.tolist() == [2, 2]  # type: ignore[union-attr]


def test_classes_of_one_name_become_one_before_nms() -> None:
    detector = kinds(rename_classes={"car": "vehicle", "van": "vehicle"})
    assert found(detector) == [("ship", 0.42), ("ship", 0.54), ("vehicle", 0.62), ("vehicle", 0.74)]
    assert detector.rules.labels == (0, 0, 2)
    # The id does not depend on which of them are reported.
    only = kinds(rename_classes={0: "vehicle", 1: "vehicle"}, classes=["van"])
    assert only.rules.labels == (-1, 0, -1) and found(only) == [("vehicle", 0.52), ("vehicle", 0.64)]
    # The name of another class joins it; names may be exchanged.
    assert kinds(rename_classes={"car": "ship"}).rules.labels == (0, 1, 0)
    assert kinds(rename_classes={"car": "ship", "ship": "car"}).rules.labels == (0, 1, 2)


def test_rules_keep_the_contract() -> None:
    check_detector(kinds(threshold={"van": 0.55}, classes=["car", "van"], rename_classes={"car": "x", "van": "x"}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": {"boat": 0.5}}, "threshold names boat, but the model's classes are car, van, ship; give a name"),
        ({"threshold": {"van": 1.5}}, r"threshold of class van, 1\.5 must be from 0 to 1"),
        ({"threshold": {"default": -1}}, "threshold -1 must be from 0 to 1"),
        ({"threshold": float("nan")}, "threshold nan must be from 0 to 1"),
        ({"threshold": {"van": 0.3, 1: 0.4}}, r"threshold names class van \(id 1\) twice"),
        ({"classes": ["car", "3"]}, "classes names 3, but .* an id from 0 to 2"),
        ({"classes": []}, "classes names no class"),
        ({"rename_classes": {"boat": "x"}}, "rename_classes names boat"),
        ({"rename_classes": {"car": " "}}, "rename_classes gives a class the name ' '"),
    ],
)
def test_what_is_no_class_or_no_score_is_refused(settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        kinds(**settings)


def test_a_name_goes_before_an_id() -> None:
    names = ("1", "0", "one")
    assert [class_index(names, key, "classes") for key in ("1", 1, "2", 0)] == [0, 0, 2, 1]
    many = [str(i) + "x" for i in range(500)]
    with pytest.raises(ConfigError, match=r"29x, … \(500 in all\)"):
        class_index(many, "y", "classes")


def test_forms_of_the_command_line_and_of_yaml(tmp_path) -> None:
    assert make_config(threshold="0.4").threshold == 0.4
    assert make_config(threshold="0.4, vessel=0.6").threshold == {"default": 0.4, "vessel": 0.6}
    assert make_config(threshold={3: 0.5}).threshold == {"3": 0.5}
    assert make_config(classes="vessel, 2").classes == make_config(classes=["vessel", 2]).classes == ("vessel", "2")
    assert make_config(rename_classes="a=b=c,0=d").rename_classes == {"a=b": "c", "0": "d"}
    text = "threshold: {default: 0.4, vessel: 0.6, 3: .5}\nclasses: [vessel, 3]\nrename_classes: {3: ship}\n"
    (tmp_path / "c.yaml").write_text(text)
    config = make_config(tmp_path / "c.yaml")
    assert config.threshold == {"default": 0.4, "vessel": 0.6, "3": 0.5}
    assert (config.classes, config.rename_classes) == (("vessel", "3"), {"3": "ship"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": "0.4,0.5"}, "two defaults"),
        ({"threshold": "vessel=high"}, "must be from 0 to 1"),
        ({"threshold": {"vessel": True}}, "must be from 0 to 1"),
        ({"threshold": {}}, "names no class"),
        ({"threshold": "a=0.2,a=0.3"}, "names a class twice"),
        ({"classes": "a,,b"}, "names no class"),
        ({"classes": {"a": 1}}, "is no list of classes"),
        ({"rename_classes": "a"}, "pairs every class"),
        ({"rename_classes": "a=b,a=c"}, "names a class twice"),
        ({"rename_classes": ["a"]}, "is no list of CLASS=NAME"),
    ],
)
def test_what_cannot_be_read(values, message) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(values))} = .*{message}"):
        make_config(**values)


def test_the_digest_of_the_settings_is_that_of_what_they_mean(tmp_path) -> None:
    bundle = random_bundle(tmp_path / "m", bands=("r", "g", "b"), threshold=0.25)

    def digest(**settings: Any) -> str:
        return make_job(bundle, **settings).config_digest

    assert digest() == digest(threshold=0.25) == digest(threshold={"ship": 0.25}) == digest(classes=["car", "ship"])
    assert digest(threshold={"ship": 0.5}) == digest(threshold={0: 0.5}) == digest(threshold="0.25,0=0.5")
    assert digest(classes="car", threshold={"ship": 0.9}) == digest(classes=1)
    different = [{}, {"threshold": {"ship": 0.5}}, {"threshold": {"car": 0.5}}, {"classes": "car"}, {"classes": "ship"}]
    different += [{"rename_classes": {"car": "x"}}, {"rename_classes": {"car": "y"}}, {"rename_classes": {1: "ship"}}]
    assert len({digest(**some) for some in different}) == len(different)
    assert digest(rename_classes={"car": "x"}) == digest(rename_classes={1: "x"})


def test_merge_thresholds_are_those_of_the_names_reported(tmp_path) -> None:
    bundle = random_bundle(tmp_path / "m", bands=("r", "g", "b"), classes=NAMES)
    job = make_job(bundle, rename_classes="van=boat,ship=boat", merge_threshold_by_class="boat=0.3")
    assert job.rule.per_class == ((1, 0.3),)
    with pytest.raises(ConfigError, match="merge_threshold_by_class names ship, but the model's classes are car, boat"):
        make_job(bundle, rename_classes="van=boat,ship=boat", merge_threshold_by_class="ship=0.3")


def test_a_loaded_detector_keeps_its_rules_unless_a_run_has_others(tmp_path) -> None:
    bundle = random_bundle(tmp_path / "m", bands=("r", "g", "b"), classes=NAMES)
    detector = geosod.load_model(bundle, threshold={"default": 0.3, "van": 0.2}, classes=["van", "ship"], **PLAIN)
    assert detector.threshold == 0.2 and detector.adapter.min_score == 0.2  # type: ignore[attr-defined]
    job = make_job(detector)
    assert job.options["threshold"] == {"van": 0.2, "ship": 0.3} and job.options["classes"] == ["van", "ship"]
    assert make_job(detector, classes="ship").class_rules.min_score == 0.3
    with pytest.raises(ConfigError, match=r"threshold 0\.1 is below the 0\.2"):
        geosod.detect(noise(3, 128, 128), model=detector, threshold={"ship": 0.1})


def test_a_card_may_state_thresholds_and_supercategories(tmp_path, capsys) -> None:
    fields = {"classes": NAMES, "class_thresholds": {"van": 0.6}, "supercategories": ("vehicle", "vehicle", "")}
    bundle = open_bundle(random_bundle(tmp_path / "m", bands=("r", "g", "b"), threshold=0.3, **fields))
    assert bundle.card.class_rules.thresholds == (0.3, 0.6, 0.3)
    assert from_item(to_item(bundle.card), "x") == bundle.card
    properties = to_item(bundle.card)["properties"]
    assert properties["geosod:supercategories"] == ["vehicle", "vehicle", ""]
    assert properties["geosod:class_thresholds"] == {"van": 0.6}
    assert make_job(bundle.folder).options["threshold"] == {"car": 0.3, "van": 0.6, "ship": 0.3}
    assert make_job(bundle.folder, threshold=0.5).options["threshold"] == 0.5
    assert make_job(bundle.folder, threshold={"ship": 0.6}).class_rules.thresholds == (0.3, 0.6, 0.6)
    shown = " ".join(command("model", "info", bundle.folder).stdout.split())
    assert "supercategories vehicle: car, van" in shown and "threshold 0.3, van 0.6" in shown
    for wrong, message in [
        ({"class_thresholds": {"boat": 0.5}}, "threshold for 'boat', which is none"),
        ({"class_thresholds": {"van": 2}}, "threshold 2 of class 'van' is not in 0..1"),
        ({"supercategories": ("vehicle",)}, "has 1 supercategories, not one for each"),
    ]:
        with pytest.raises(ModelError, match=message):
            replace(bundle.card, **wrong)


def test_ten_thousand_classes() -> None:
    names = [f"class {i}" for i in range(10_000)]
    even = dict.fromkeys(range(0, 10_000, 500), "even")
    rules = class_rules(names, 0.5).changed(rename=even, threshold={"class 9": 0.1})
    assert rules.labels[1000] == 0 and rules.labels[1001] == 1001 and rules.min_score == 0.1
