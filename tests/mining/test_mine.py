"""`geosod mine`: crops of which a real network is unsure, written as they are."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window as GdalWindow
from typer.testing import CliRunner

import geosod
from geosod.cli.main import app
from geosod.datasets.read import read_labels
from geosod.errors import ConfigError, OutputError
from geosod.mining.doubt import lowest_score
from tests.mining.conftest import CLEAR, CROP, background, scene_of, striped, with_squares

FAST = {"engine": "serial", "backend": "eager", "precision": "fp32", "device": "cpu", "batch": 2}


@pytest.fixture(scope="session")
def scenes(doubtful, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[tuple[str, int, int]]]:
    """Two scenes with crops that are empty, clear or doubtful; and which are doubtful."""
    folder, value = tmp_path_factory.mktemp("scenes"), doubtful(background)
    kinds = {
        "a": [["empty", "clear", "doubtful"], ["clear", "doubtful", "empty"]],
        "b": [["clear", "empty", "clear"], ["empty", "doubtful", "clear"]],
    }
    values = {"empty": None, "clear": CLEAR, "doubtful": value}
    unsure, seed = set(), 50
    for name, rows in kinds.items():
        crops = []
        for i, row in enumerate(rows):
            crops.append([])
            for j, kind in enumerate(row):
                seed += 1
                pixels = background(seed)
                crops[-1].append(pixels if values[kind] is None else with_squares(pixels, values[kind], count=4))
                if kind == "doubtful":
                    unsure.add((name, j * CROP, i * CROP))
        scene_of(crops, folder / f"{name}.tif")
    return folder, unsure


def places(out: Path) -> list[tuple[str, int, int]]:
    rows = csv.DictReader((out / "mined.csv").read_text().splitlines())
    return [(row["scene"], int(row["col"]), int(row["row"])) for row in rows]


@pytest.fixture(scope="session")
def mined(model, scenes, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, geosod.mining.mine.MineResult]:
    out = tmp_path_factory.mktemp("mine") / "next"
    return out, geosod.mine(str(scenes[0] / "*.tif"), model=model, out=out, count=3, crop=CROP, **FAST)


def test_crops_hold_what_the_network_is_unsure_of(mined, model, scenes, tmp_path) -> None:
    out, result = mined
    assert places(out)[0] in scenes[1] and len(set(places(out)) & scenes[1]) >= 2
    assert result.exit_code == 0 and result.scenes == 2 and len(places(out)) == 3
    assert (out / "contact-sheet.png").stat().st_size > 1000
    everything = geosod.mine(str(scenes[0] / "*.tif"), model=model, out=tmp_path / "all", count=12, crop=CROP, **FAST)
    worth = dict(zip(places(tmp_path / "all"), everything.worth, strict=True))
    assert min(worth[place] for place in scenes[1]) > max(worth[place] for place in worth if place not in scenes[1])


def test_uncertainty_is_the_entropy_around_the_threshold(mined, model, scenes) -> None:
    """Computed again, box by box, from what `geosod.detect` finds with a low threshold."""
    out, result = mined
    card = geosod.load_model(model).card
    odds = card.threshold / (1 - card.threshold)
    for place, worth in zip(places(out), result.worth, strict=True):
        found = geosod.detect(
            str(scenes[0] / f"{place[0]}.tif"), model=model, threshold=lowest_score(card.threshold), **FAST
        )[place[0]]
        kept: list[np.ndarray] = []
        bits = []
        for row in np.argsort(-found.detections.scores, kind="stable"):
            box, score = found.detections.boxes[row], float(found.detections.scores[row])
            if any(smaller_overlap(box, other) >= 0.5 for other in kept):
                continue
            kept.append(box)
            x, y = (box[:2] + box[2:]) / 2
            against = ((1 - score) / score * odds) ** 2
            p = 1 / (1 + against)
            if place[1] <= x < place[1] + CROP and place[2] <= y < place[2] + CROP and p >= 0.05:
                bits.append(-p * np.log2(p) - (1 - p) * np.log2(1 - p))
        assert worth == pytest.approx(sum(sorted(bits)[-10:]), rel=1e-4)


def smaller_overlap(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    return float(np.prod(np.maximum(sides, 0)) / min(np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2])))


def test_pixels_and_boxes_are_those_of_the_scene(mined, model, scenes) -> None:
    out, result = mined
    low = json.loads((out / "labels.json").read_text())
    lowest = lowest_score(geosod.load_model(model).card.threshold)
    scores = iter([entry["score"] for entry in low["annotations"]])
    labels = read_labels(out / "labels.json").labels
    assert [image.id for image in labels.images] == [image.id for image in result.labels.images]
    assert len(labels) == len(result.labels) > 0 and labels.classes == ("object",)
    for k, (image, (scene, col, row)) in enumerate(zip(labels.images, places(out), strict=True)):
        with rasterio.open(image.uri) as crop, rasterio.open(scenes[0] / f"{scene}.tif") as whole:
            window = GdalWindow(col, row, CROP, CROP)
            assert np.array_equal(crop.read(), whole.read(window=window)) and crop.crs == whole.crs
            assert crop.transform.almost_equals(whole.window_transform(window))
        assert (image.scene, image.offset) == (scene, (col, row))
        found = geosod.detect(str(scenes[0] / f"{scene}.tif"), model=model, threshold=lowest, **FAST)[scene].detections
        boxes = np.clip(found.boxes - [col, row, col, row], 0, CROP)
        mine = labels.boxes[labels.image == k]
        for box in mine:
            distance = np.abs(boxes - box).max(axis=1)
            assert distance.min() < 1e-6
            assert next(scores) == pytest.approx(float(found.scores[distance.argmin()]), abs=1e-4)


def test_the_same_again(mined, model, scenes, tmp_path) -> None:
    out, _ = mined
    for engine in ("serial", "local"):
        again = tmp_path / engine
        files = [str(scenes[0] / "b.tif"), str(scenes[0] / "a.tif")]
        geosod.mine(files, model=model, out=again, count=3, crop=CROP, **(FAST | {"engine": engine}))
        for name in ("labels.json", "mined.csv"):
            assert (again / name).read_text() == (out / name).read_text(), engine


def test_both_kinds_of_ground_are_chosen(model, doubtful, tmp_path) -> None:
    """There are many crops of one kind, and one of another of which the network is less unsure."""
    plain, other = doubtful(background), doubtful(striped)
    row = [with_squares(background(80 + k), plain, count=4) for k in range(6)]
    scene_of([row], tmp_path / "plain.tif")
    scene_of([[with_squares(striped(99), other, count=2)]], tmp_path / "striped.tif")
    files = [str(tmp_path / f"{name}.tif") for name in ("plain", "striped")]
    result = geosod.mine(files, model=model, out=tmp_path / "two", count=3, crop=CROP, **FAST)
    assert {place[0] for place in places(tmp_path / "two")} == {"plain", "striped"}
    everything = geosod.mine(files, model=model, out=tmp_path / "all", count=7, crop=CROP, **FAST)
    rank = sorted(everything.worth, reverse=True).index(
        everything.worth[[place[0] for place in places(tmp_path / "all")].index("striped")]
    )
    assert rank >= 3, "uncertainty alone would not have chosen it"
    assert all(0 < value <= 2 for value in result.novelty)


def test_a_second_round_shows_other_ground(mined, model, scenes, tmp_path) -> None:
    out, _ = mined
    files = str(scenes[0] / "*.tif")
    geosod.mine(files, model=model, out=tmp_path / "n", count=3, crop=CROP, known=out / "labels.json", **FAST)
    assert not set(places(tmp_path / "n")) & set(places(out))
    whole = geosod.datasets.labels.Labels.empty(
        [geosod.datasets.image_files.read_image(name, scenes[0] / f"{name}.tif") for name in ("a", "b")]
    )
    with pytest.raises(ConfigError, match="labelled already"):
        geosod.mine(files, model=model, out=tmp_path / "m", count=3, crop=CROP, known=whole, **FAST)
    assert not (tmp_path / "m").exists()


def test_negatives_are_the_most_confident_false_alarms(model, doubtful, tmp_path) -> None:
    """Scenes without objects, in which bright squares are something else."""
    value = doubtful(background)
    crops = [background(7), with_squares(background(8), value), with_squares(background(9), CLEAR, count=1)]
    scene_of([crops], tmp_path / "none.tif")
    args = ["mine", str(tmp_path / "none.tif"), "--model", str(model), "-o", str(tmp_path / "out"), "--negatives"]
    ran = CliRunner().invoke(app, [*args, "--count", "2", "--crop", str(CROP), "--json", "--engine", "serial"])
    assert ran.exit_code == 0, ran.output
    assert places(tmp_path / "out") == [("none", 2 * CROP, 0), ("none", CROP, 0)]
    labels = read_labels(tmp_path / "out" / "labels.json").labels
    assert len(labels.images) == 2 and len(labels) == 0 and labels.classes == ("object",)
    assert "confidence" in (tmp_path / "out" / "mined.csv").read_text()


def test_a_corrupt_scene_is_reported_and_the_others_are_searched(model, scenes, tmp_path) -> None:
    broken = tmp_path / "broken.tif"
    broken.write_bytes((scenes[0] / "a.tif").read_bytes()[:400])
    args = ["mine", str(broken), str(scenes[0] / "b.tif"), "--model", str(model), "--crop", str(CROP), "--count", "1"]
    ran = CliRunner().invoke(app, [*args, "--engine", "serial", "-o", str(tmp_path / "out")])
    assert ran.exit_code == 3 and "broken" in ran.output
    assert len(places(tmp_path / "out")) == 1
    with pytest.raises(ConfigError, match="no scene could be searched"):
        geosod.mine(broken, model=model, out=tmp_path / "none", **FAST)
    assert not (tmp_path / "none").exists()


def test_nothing_is_overwritten_or_left_half_done(model, scenes, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"exists|not written by geosod"):
            geosod.mine(scenes[0] / "a.tif", model=model, out=tmp_path / "out", overwrite=overwrite, **FAST)
    scene_of([[np.full((3, CROP, CROP), 9, np.uint8)]], tmp_path / "flat.tif")
    with pytest.raises(ConfigError, match="finds nothing"):
        geosod.mine(tmp_path / "flat.tif", model=model, out=tmp_path / "flat", **FAST)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "flat.tif"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": 100}, "crop 100: a side must be a multiple"),
        ({"count": 0}, "count 0"),
        ({"tile_gsd": 1.0}, "tile_gsd: is no setting of mine"),
        ({"known": "/nowhere.json"}, "nowhere"),
        ({"model": "nobody"}, "nobody"),
    ],
)
def test_bad_settings_are_refused_in_one_line(model, scenes, tmp_path, settings, message) -> None:
    with pytest.raises(geosod.GeosodError, match=message) as caught:
        geosod.mine(scenes[0] / "a.tif", **({"model": model, "out": tmp_path / "out"} | FAST | settings))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
