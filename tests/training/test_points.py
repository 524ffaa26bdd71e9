"""Labelled points: the protocol against brute force, augmentation of images and points, a training run."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from geosod.detectors.zoo.unet import CentreUNet
from geosod.errors import ConfigError
from geosod.evaluation.points import assign, score_points
from geosod.training import trees
from geosod.training.bundle import make_bundle
from geosod.training.points import PointImage, adjacent, augment, heat_map, hold_out, read_split
from tests.rasters import write_tif

SIDE = 64


def best_pairs(found: np.ndarray, truth: np.ndarray, limit: float) -> tuple[int, float]:
    """Maximum number of pairs, and their minimum total distance, over all one-to-one assignments."""
    swap = len(found) > len(truth)
    few, many = (truth, found) if swap else (found, truth)
    best = (0, 0.0)
    for chosen in permutations(range(len(many)), len(few)):
        distance = np.linalg.norm(few - many[list(chosen)], axis=1)
        near = distance[distance <= limit]
        best = max(best, (len(near), -float(near.sum())))
    return best[0], -best[1]


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 99999), m=st.integers(0, 5), n=st.integers(0, 5), spread=st.sampled_from([8.0, 20.0]))
def test_assignment_is_the_best_of_all(seed, m, n, spread) -> None:
    rng = np.random.default_rng(seed)
    found, truth = (rng.uniform(0, spread, (k, 2)).round(1) for k in (m, n))
    rows = assign(found, truth, limit=6.0)
    count, total = best_pairs(found, truth, 6.0)
    distance = np.linalg.norm(found[rows[:, 0]] - truth[rows[:, 1]], axis=1)
    assert len(rows) == count and (distance <= 6.0).all()
    assert distance.sum() == pytest.approx(total, abs=1e-9)
    assert len(set(rows[:, 0])) == len(set(rows[:, 1])) == len(rows)


def test_more_pairs_count_more_than_closer_ones() -> None:
    """The prediction between two trees is paired with the one that the other prediction cannot reach."""
    found, truth = np.array([[0.0, 0], [9, 0]]), np.array([[1.0, 0], [18, 0]])
    assert assign(found, truth, limit=10).tolist() == [[0, 0], [1, 1]]
    assert assign(found[1:], truth, limit=10).tolist() == [[0, 0]]
    with pytest.raises(ConfigError, match="above 0"):
        assign(found, truth, limit=0)


def test_scores_are_of_the_whole_split_in_metres() -> None:
    split = [
        (np.array([[3.0, 4], [50, 50]]), np.array([[0.0, 0]])),
        (np.zeros((0, 2)), np.array([[5.0, 5]])),
        (np.array([[1.0, 0]]), np.array([[1.0, 0], [30, 30]])),
    ]
    score = score_points(split, gsd=0.6)
    assert (score.matched, score.found, score.truth) == (2, 3, 4)
    assert score.precision == 2 / 3 and score.recall == 0.5 and score.f_score == pytest.approx(4 / 7)
    assert score.rmse == pytest.approx(0.6 * np.sqrt((25 + 0) / 2))
    assert trees.figures(score)["f_score"] == 0.5714
    nothing = score_points([], gsd=0.6)
    assert np.isnan([nothing.precision, nothing.recall, nothing.f_score, nothing.rmse]).all()


def scatter(rng: np.random.Generator, count: int, side: int, margin: float) -> np.ndarray:
    """Points with a distance of at least 14 px."""
    points: list[np.ndarray] = []
    for candidate in rng.uniform(margin, side - margin, (40 * count, 2)):
        if all(np.linalg.norm(candidate - p) > 14 for p in points):
            points.append(candidate)
    return np.floor(np.array(points[:count])) + 0.5


def picture(points: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """(4, side, side) uint8: grey ground, and around every point a disc that is dark in red and bright in nir."""
    pixels = rng.integers(100, 140, (4, side, side))
    rows, cols = np.mgrid[:side, :side] + 0.5
    for x, y in points:
        disc = (cols - x) ** 2 + (rows - y) ** 2 <= 4.6**2
        pixels[:, disc] = np.array([40, 70, 40, 210])[:, None] + rng.integers(-15, 15, (4, disc.sum()))
    return pixels.astype(np.uint8)


def write_split(folder: Path, subset: str, count: int, *, side: int, seed: int, first: int = 0) -> list[np.ndarray]:
    """A COCO file of points with its images, which lie in a row from position `first` on, with gaps between them."""
    rng = np.random.default_rng(seed)
    images, annotations, all_points = [], [], []
    for i in range(count):
        points = scatter(rng, 5 + i % 5, side, 8)
        name = f"{subset}_{i}.tif"
        place = Affine(0.6, 0, 400_000 + (first + i) * (side + 50) * 0.6, 0, -0.6, 3_700_000)
        write_tif(folder / name, picture(points, side, rng), crs="EPSG:26911", transform=place)
        images.append({"id": i + 1, "file_name": name, "width": side, "height": side})
        annotations += [{"image_id": i + 1, "point": (p - 0.5).tolist()} for p in points]
        all_points.append(points)
    (folder / f"{subset}.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return all_points


def test_a_split_is_read_as_it_was_written(tmp_path) -> None:
    points = write_split(tmp_path, "train", 3, side=SIDE, seed=1)
    images = read_split(tmp_path, "train", bands=4)
    assert [i.name for i in images] == ["train_0.tif", "train_1.tif", "train_2.tif"]
    for image, wanted in zip(images, points, strict=True):
        assert np.array_equal(image.points, wanted) and image.pixels.shape == (4, SIDE, SIDE)
        x, y = np.floor(wanted).astype(int).T
        assert (image.pixels[3, y, x] > 180).all() and (image.pixels[0, y, x] < 80).all()
        left, top, right, bottom = image.bounds
        assert right - left == pytest.approx(SIDE * 0.6) and top == pytest.approx(3_700_000 - SIDE * 0.6)
    with pytest.raises(ConfigError, match="not a COCO file with points"):
        read_split(tmp_path, "val", bands=4)
    with pytest.raises(ConfigError, match="4 bands of uint8; 3 of uint8 are needed"):
        read_split(tmp_path, "train", bands=3)


def at(name: str, left: float, top: float) -> PointImage:
    return PointImage(
        name, np.zeros((4, 8, 8), np.uint8), np.zeros((0, 2)), (left, top, left + 10, top + 10), "EPSG:26911"
    )


def test_images_that_touch_are_held_out_together() -> None:
    images = [at("a", 0, 0), at("c", 20, 20), at("b", 100, 0), at("d", 200, 0), at("e", 10, 10), at("f", 300, 0)]
    assert adjacent(images[0], images[4], overlap=False) and not adjacent(images[0], images[4], overlap=True)
    assert adjacent(images[0], at("g", 9, 9), overlap=True) and not adjacent(images[0], images[2], overlap=False)
    training, held_out = hold_out(images, every=4)
    assert [i.name for i in held_out] == ["a", "c", "e"] and [i.name for i in training] == ["b", "d", "f"]
    bare = PointImage("h", images[0].pixels, images[0].points)
    assert not adjacent(bare, bare, overlap=False)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), rotated=st.sampled_from([0.0, 1.0]))
def test_points_stay_on_what_they_mark(seed: int, rotated: float) -> None:
    rng = np.random.default_rng(seed)
    points = scatter(rng, 12, 128, 6)
    pixels, moved = augment(PointImage("a", picture(points, 128, rng), points), rng, side=SIDE, rotated=rotated)
    assert pixels.shape == (4, SIDE, SIDE) and pixels.dtype == np.float32 and 0 <= pixels.min() <= pixels.max() <= 1
    inside = moved[((moved >= 6) & (moved < SIDE - 6)).all(axis=1)]
    bright = pixels[3] - pixels[0] > 0.3
    for x, y in inside:
        rows, cols = np.nonzero(bright)
        near = np.hypot(cols + 0.5 - x, rows + 0.5 - y) < 7
        # The centre of the disc, not just any pixel of it.
        assert np.hypot(cols[near].mean() + 0.5 - x, rows[near].mean() + 0.5 - y) < 0.5
    if not rotated:
        assert np.array_equal(inside % 1, np.full_like(inside, 0.5))
        assert bright.sum() == pytest.approx(69 * len(moved[((moved >= 5) & (moved < SIDE - 5)).all(axis=1)]), abs=300)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), sigma=st.sampled_from([1.0, 3.0]))
def test_heat_is_the_maximum_of_the_gaussians(seed: int, sigma: float) -> None:
    points = np.random.default_rng(seed).uniform(-12, SIDE + 12, (6, 2))
    heat, positive = heat_map(points, side=SIDE, sigma=sigma)
    rows, cols = np.mgrid[:SIDE, :SIDE] + 0.5
    squared = (cols - points[:, :1, None]) ** 2 + (rows - points[:, 1:, None]) ** 2
    wanted = np.exp(-squared / (2 * sigma**2)).max(axis=0)
    assert np.abs(heat - wanted).max() < 0.003
    inside = points[((points >= 0) & (points < SIDE)).all(axis=1)]
    marked = np.zeros_like(positive)
    marked[inside[:, 1].astype(int), inside[:, 0].astype(int)] = True
    assert np.array_equal(positive, marked)


@pytest.mark.slow
def test_a_short_run_trains_resumes_and_writes_a_record(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(trees, "_CROP", 64)
    write_split(tmp_path, "train", 16, side=96, seed=1)
    write_split(tmp_path, "val", 3, side=96, seed=2, first=15)
    first = trees.train(tmp_path, tmp_path / "run", minutes=0.02, recipe=trees.Recipe(width=6))
    record = trees.train(tmp_path, tmp_path / "run", minutes=0.2, recipe=trees.Recipe(width=6))
    assert record["steps"] > first["steps"] > 0 and record["minutes"] > 0.1
    # The first validation image overlaps the last training image.
    assert len(record["held_out"]) == 2 and record["images"] == 13
    # On a fast machine the first part of the run may be enough.
    assert record["validation"]["f_score"] >= max(0.7, first["validation"]["f_score"])
    assert record["validation"]["rmse_m"] < 1.5
    assert json.loads((tmp_path / "run" / "training.json").read_text()) == record
    model = CentreUNet(**record["arguments"])
    model.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"))
    settings = {name: record["chosen"][name] for name in ("window", "refine", "threshold")}
    again = trees.evaluate(model, read_split(tmp_path, "val", bands=4), **settings)
    assert trees.figures(again) == record["validation"]
    card = make_bundle(tmp_path / "run", tmp_path / "bundle").card
    assert card.threshold == settings["threshold"] and card.parameters["window"] == settings["window"]
    name = "val_0.tif"
    drawn = trees.figure(tmp_path, tmp_path / "run", tmp_path / "figure.jpg", name=name)
    assert drawn.truth == 5
    with Image.open(tmp_path / "figure.jpg") as picture_of_it:
        assert picture_of_it.size == (288, 288)
