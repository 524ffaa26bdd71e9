"""Parts that share nothing, with the shares that were asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geosod.datasets.labels import LabelledImage, Labels
from geosod.datasets.split import split_labels
from geosod.errors import ConfigError, LabelError
from tests.rasters import noise, write_tif


def many(count: int, scenes: int | None = None, seed: int = 0) -> Labels:
    """Images with few boxes, of a common and a rare class."""
    rng = np.random.default_rng(seed)
    images = [
        LabelledImage(f"i{k}", "", 10, 10, scene="" if scenes is None else f"s{k % scenes}") for k in range(count)
    ]
    image = rng.integers(0, count, 8 * count)
    kinds = (rng.random(len(image)) < 0.03).astype(int)
    return Labels(
        images=images,
        classes=["common", "rare"],
        image=image,
        boxes=np.tile([1, 1, 2, 2], (len(image), 1)),
        labels=kinds,
    )


@given(st.integers(2, 60), st.floats(0.05, 0.95), st.integers(0, 5), st.booleans())
def test_every_image_is_in_one_part(count: int, share: float, seed: int, stratify: bool) -> None:
    some = many(count)
    parts = split_labels(some, {"train": share, "val": 1 - share}, seed=seed, stratify=stratify)
    names = [image.id for part in parts.values() for image in part.images]
    assert sorted(names) == sorted(image.id for image in some.images)
    assert sum(map(len, parts.values())) == len(some) and all(part.images for part in parts.values())
    if not stratify:
        assert abs(len(parts["train"].images) - share * count) <= 1
    for part in parts.values():
        for image, rows in zip(part.images, part.by_image(), strict=True):
            assert len(rows) == int((some.image == int(image.id[1:])).sum())


def test_a_seed_repeats_itself_and_another_divides_in_another_way() -> None:
    some, parts = many(100), {"train": 0.75, "val": 0.25}
    one, same, other = (split_labels(some, parts, seed=seed)["val"].images for seed in (1, 1, 2))
    assert one == same != other and len(one) == 25


def test_tiles_of_a_scene_stay_together() -> None:
    parts = split_labels(many(90, scenes=9), {"train": 0.6, "val": 0.2, "test": 0.2}, by="scene")
    scenes = [{image.scene for image in part.images} for part in parts.values()]
    assert not (scenes[0] & scenes[1] | scenes[0] & scenes[2] | scenes[1] & scenes[2])
    assert sum(len(some) for some in scenes) == 9 and len(parts["train"].images) in (50, 60)


def of_scenes(sizes: list[int]) -> Labels:
    """Scenes of so many tiles, with three boxes each."""
    images = [LabelledImage(f"{s}-{k}", "", 10, 10, scene=str(s)) for s, size in enumerate(sizes) for k in range(size)]
    image = np.repeat(np.arange(len(images)), 3)
    boxes, kinds = np.tile([1, 1, 2, 2], (len(image), 1)), np.zeros(len(image), int)
    return Labels(images=images, classes=["a"], image=image, boxes=boxes, labels=kinds)


@pytest.mark.parametrize("stratify", [False, True])
def test_a_large_scene_is_not_given_to_a_small_part(stratify: bool) -> None:
    for sizes, expected in (([90, 10], 10), ([10, 90], 10), ([50, 30, 20, 10, 5, 5, 3, 2], 12)):
        for seed in range(10):
            parts = split_labels(of_scenes(sizes), {"train": 0.9, "val": 0.1}, by="scene", stratify=stratify, seed=seed)
            assert len(parts["val"].images) == pytest.approx(expected, abs=1)


def test_a_rare_class_in_a_small_scene_does_not_leave_a_large_one_to_a_small_part() -> None:
    some = of_scenes([90, 10, 10, 10])
    kinds = np.zeros(len(some), int)
    kinds[-5:] = 1
    some = replace(some, classes=["a", "b"], supercategories=(), class_ids=(), labels=kinds)
    parts = split_labels(some, {"train": 0.9, "val": 0.1}, by="scene", stratify=True)
    assert len(parts["val"].images) == 10


@given(st.lists(st.integers(1, 40), min_size=2, max_size=12), st.floats(0.05, 0.95), st.integers(0, 3), st.booleans())
def test_parts_are_as_near_to_their_shares_as_the_largest_scene_allows(
    sizes: list[int], share: float, seed: int, stratify: bool
) -> None:
    parts = split_labels(of_scenes(sizes), {"train": share, "val": 1 - share}, by="scene", stratify=stratify, seed=seed)
    # A part that would be empty gets the smallest scene, however small its share.
    off = abs(len(parts["train"].images) - share * sum(sizes))
    assert off <= max(max(sizes) / 2, min(sizes)) + 1e-6 and parts["val"].images


def test_scenes_of_all_sizes_are_in_each_part() -> None:
    parts = split_labels(of_scenes([20] * 10 + [2] * 50), {"train": 0.8, "val": 0.2}, by="scene")
    sizes = [len([i for i in parts["val"].images if i.scene == s]) for s in {i.scene for i in parts["val"].images}]
    assert {2, 20} <= set(sizes) and len(parts["val"].images) == 60


def test_rare_classes_have_their_share_when_stratified() -> None:
    some = many(400, seed=3)
    parts = split_labels(some, {"train": 0.75, "val": 0.25}, stratify=True)
    for label in (0, 1):
        total = int((some.labels == label).sum())
        assert (parts["val"].labels == label).sum() == pytest.approx(0.25 * total, abs=max(1, 0.02 * total))
    # At random, the rare one varies far more.
    spread = [(split_labels(some, {"t": 0.75, "v": 0.25}, seed=k)["v"].labels == 1).sum() for k in range(20)]
    assert np.ptp(spread) > 4


def test_images_with_many_boxes_are_balanced_when_stratified() -> None:
    counts = np.random.default_rng(0).pareto(1.0, 120).astype(int) + 1
    image = np.repeat(np.arange(120), counts)
    images = [LabelledImage(f"i{k}", "", 10, 10) for k in range(120)]
    boxes, kinds = np.tile([1, 1, 2, 2], (len(image), 1)), np.zeros(len(image), int)
    some = Labels(images=images, classes=["a"], image=image, boxes=boxes, labels=kinds)
    for seed in range(5):
        parts = split_labels(some, {"train": 0.7, "val": 0.3}, stratify=True, seed=seed)
        assert len(parts["val"]) == pytest.approx(0.3 * len(some), rel=0.02)
        assert len(parts["val"].images) == pytest.approx(36, abs=8)


def test_places_that_overlap_stay_together(tmp_path: Path) -> None:
    """Three at one place in a row, one 60 m away, and three elsewhere."""
    eastings = [0, 20, 45, 140, 5000, 6000, 7000]
    images = []
    for k, east in enumerate(eastings):
        place = Affine(0.5, 0, 500_000 + east, 0, -0.5, 5_800_000)
        path = write_tif(tmp_path / f"{k}.tif", noise(1, 64, 64, seed=k), transform=place)
        images.append(LabelledImage(str(k), str(path), 64, 64))
    some = Labels.empty(images, ["car"])
    for distance, together in ((0, {"0", "1", "2"}), (80, {"0", "1", "2", "3"})):
        for seed in range(6):
            parts = split_labels(some, {"train": 0.5, "val": 0.5}, by="location", distance=distance, seed=seed)
            homes = [{image.id for image in part.images} for part in parts.values()]
            assert any(together <= home for home in homes)
    flat = write_tif(tmp_path / "flat.tif", noise(1, 64, 64), crs=None)
    with pytest.raises(LabelError, match="image flat: has no georeference"):
        split_labels(
            Labels.empty([*images, LabelledImage("flat", str(flat), 64, 64)]), {"a": 0.5, "b": 0.5}, by="location"
        )


def test_what_is_refused() -> None:
    for parts in ({"a": 1.0}, {"a": 0.5, "b": 0.6}, {"a": -0.5, "b": 1.5}, {"a": float("nan"), "b": 1}):
        with pytest.raises(ConfigError, match="give two or more shares that add up to 1"):
            split_labels(many(10), parts)
    with pytest.raises(ConfigError, match="2 groups of images by scene for 3 parts"):
        split_labels(many(10, scenes=2), {"a": 0.4, "b": 0.3, "c": 0.3}, by="scene")
    with pytest.raises(ConfigError, match="choose image, scene or location"):
        split_labels(many(10), {"a": 0.5, "b": 0.5}, by="magic")  # type: ignore[arg-type]
    assert replace(many(1).images[0], id="x").id == "x"
