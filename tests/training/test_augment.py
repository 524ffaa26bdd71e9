"""Augmentation leaves labels true."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geosod.training.augment import Augmentation, blurred, occlude, paste, relit, roughened, turned
from geosod.training.donors import object_donor
from geosod.training.pixels import PixelReader, Pixels
from geosod.training.shown import Objects, Shown
from tests.training.sets import opened, squares


def sample(boxes: list[list[int]], *, size: tuple[int, int] = (40, 30), bands: int = 3) -> Shown:
    """A dark sample in which each box is filled with a value of its own, and nothing else is bright."""
    values = torch.full((bands, size[1], size[0]), 0.1)
    for k, (x0, y0, x1, y1) in enumerate(boxes):
        values[:, y0:y1, x0:x1] = 0.5 + k / 20
    count = len(boxes)
    sides = np.sqrt([(b[2] - b[0]) * (b[3] - b[1]) for b in boxes]).reshape(-1)
    array = np.array(boxes, np.float64).reshape(-1, 4)
    objects = Objects(array, np.arange(count), np.zeros(count, np.bool_), sides)
    return Shown(Pixels(values, torch.ones(size[1], size[0], dtype=torch.bool)), objects)


@given(st.integers(0, 7), st.integers(0, 99))
def test_boxes_turn_with_the_pixels(turn: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 20, 2)
    w, h = rng.integers(1, 10, 2)
    shown = turned(sample([[x, y, x + w, y + h], [33, 2, 39, 5]]), turn)
    for k, box in enumerate(shown.objects.boxes.astype(int)):
        if k == 0 and x + w > 33 and y < 5:
            continue
        rows, cols = np.nonzero(np.isclose(shown.pixels.values[0].numpy(), 0.5 + k / 20))
        assert [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1] == box.tolist()


def test_the_eight_turns_differ_and_a_quarter_is_its_own_order() -> None:
    shown = sample([[2, 3, 9, 5]])
    seen = {turned(shown, turn).pixels.values.numpy().tobytes() for turn in range(8)}
    assert len(seen) == 8
    back = shown
    for _ in range(4):
        back = turned(back, 1)
    assert torch.equal(back.pixels.values, shown.pixels.values)
    assert np.array_equal(back.objects.boxes, shown.objects.boxes)


def test_invalid_pixels_keep_their_value() -> None:
    shown = sample([[5, 5, 10, 10]])
    valid = shown.pixels.valid.clone()
    valid[:8] = False
    shown = replace(shown, pixels=Pixels(shown.pixels.values.masked_fill(~valid, 0.447), valid))
    augmented = Augmentation(photometric=2.0, noise=2.0, fill=0.447, flips="none")
    for seed in range(20):
        found = augmented(shown, np.random.default_rng(seed)).pixels
        assert (found.values[:, ~found.valid] == np.float32(0.447)).all()
        assert not torch.equal(found.values, shown.pixels.values)


def test_no_augmentation_changes_nothing() -> None:
    shown = sample([[5, 5, 10, 10]])
    same = Augmentation(flips="none", photometric=0, noise=0)(shown, np.random.default_rng(0))
    assert torch.equal(same.pixels.values, shown.pixels.values)
    assert np.array_equal(same.objects.boxes, shown.objects.boxes)


@pytest.mark.parametrize("change", [relit, roughened])
def test_values_stay_from_0_to_1(change) -> None:  # type: ignore[no-untyped-def]
    values = torch.rand(4, 20, 30)
    for seed in range(50):
        found = change(values.clone(), 3.0, np.random.default_rng(seed))
        assert found.shape == values.shape and found.min() >= 0 and found.max() <= 1 and torch.isfinite(found).all()


def test_light_changes_bands_together_and_a_little_by_themselves() -> None:
    values = torch.full((3, 8, 8), 0.5)
    values[:, :4] = 0.3
    shifts = np.array([relit(values, 1.0, np.random.default_rng(k)).mean(dim=(1, 2)).numpy() for k in range(300)])
    together = np.corrcoef(shifts[:, 0], shifts[:, 1])[0, 1]
    assert 0.6 < together < 0.99 and shifts.std() > 0.02


def test_blur_is_a_gaussian() -> None:
    values = torch.zeros(1, 31, 31)
    values[0, 15, 15] = 1
    found = blurred(values, 1.5)[0].numpy()
    y, x = np.mgrid[-15:16, -15:16]
    assert found.sum() == pytest.approx(1, abs=1e-5)
    assert (found * (x**2 + y**2)).sum() / 2 == pytest.approx(1.5**2, rel=0.06)


def test_parts_are_hidden_but_never_all() -> None:
    shown = sample([[10, 5, 30, 25]])
    for seed in range(30):
        found = occlude(shown, 1.0, np.random.default_rng(seed))
        inside = found.pixels.values[:, 5:25, 10:30]
        changed = (inside != shown.pixels.values[:, 5:25, 10:30]).any(dim=0).float().mean()
        assert 0 < changed < 0.5
        assert torch.equal(found.pixels.values[:, :, :9], shown.pixels.values[:, :, :9])
    assert torch.equal(occlude(shown, 0.0, np.random.default_rng(0)).pixels.values, shown.pixels.values)


def test_ignored_regions_are_not_hidden() -> None:
    """One may be the whole slice."""
    shown = sample([[0, 0, 40, 30], [10, 5, 30, 25]])
    shown = replace(shown, objects=replace(shown.objects, ignored=np.array([True, False])))
    for seed in range(30):
        changed = (occlude(shown, 1.0, np.random.default_rng(seed)).pixels.values != shown.pixels.values).any(dim=0)
        assert changed.any() and not changed[:5].any() and not changed[:, 30:].any()


def test_objects_are_pasted_with_their_labels(tmp_path: Path) -> None:
    data, config, _ = opened(squares(tmp_path), copy_paste=1.0)
    donor = object_donor(data, PixelReader(data, cache_mb=10), config)
    assert donor is not None
    pasted = 0
    for seed in range(30):
        shown = sample([[5, 5, 20, 20]], size=(90, 80))
        found = paste(shown, donor, np.random.default_rng(seed))
        assert len(found.objects.boxes) == len(found.objects.labels) == len(found.objects.sides)
        for box in found.objects.boxes[1:]:
            x0, y0, x1, y1 = np.round(box).astype(int)
            assert 0 <= x0 < x1 <= 90 and 0 <= y0 < y1 <= 80
            # Neighbours come with an object in part.
            assert min(x1 - x0, y1 - y0) < 8 or found.pixels.values[0, y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].min() > 0.6
            first = found.objects.boxes[0]
            assert not ((box[:2] < first[2:]).all() and (box[2:] > first[:2]).all())
            pasted += 1
        assert torch.equal(found.pixels.values[:, 5:20, 5:20], shown.pixels.values[:, 5:20, 5:20])
    assert pasted > 20


def test_nothing_to_paste(tmp_path: Path) -> None:
    made = squares(tmp_path)
    data, config, _ = opened(made[np.zeros(0, np.int64)])
    assert object_donor(data, PixelReader(data, cache_mb=10), config) is None


def test_a_seed_repeats_a_change() -> None:
    shown = sample([[5, 5, 10, 10], [20, 10, 30, 20]])
    augmented = Augmentation(occlusion=0.5)
    one, two = (augmented(shown, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(one.pixels.values, two.pixels.values)
