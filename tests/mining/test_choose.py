"""The order in which crops are chosen, and what makes one uncertain."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import geosod
from geosod.detectors.features import tile_features
from geosod.mining.choose import choose
from geosod.mining.doubt import entropy, lowest_score, relative_scores
from geosod.scene import TileBatch
from tests.rasters import random_bundle

_NUMBERS = st.floats(-5, 5, width=32)


@st.composite
def cases(draw):
    count, known, size = draw(st.integers(1, 9)), draw(st.integers(0, 3)), draw(st.integers(1, 3))
    vectors = draw(
        st.lists(st.lists(_NUMBERS, min_size=size, max_size=size), min_size=count + known, max_size=count + known)
    )
    worth = draw(st.lists(st.sampled_from([0.0, 0.3, 1.0, 2.5, 10.0]), min_size=count, max_size=count))
    return np.array(worth), np.array(vectors[:count]), np.array(vectors[count:]).reshape(known, size)


@settings(max_examples=150, deadline=None)
@given(cases(), st.integers(1, 10))
def test_each_has_the_highest_product_of_worth_and_novelty(case, count) -> None:
    """Against loops over all pairs of rows."""
    worth, features, known = case
    found = choose(worth, features, known, count)
    rows = np.concatenate([features, known])
    spread = rows.std(axis=0)
    kept = spread > 1e-6 * np.maximum(np.abs(rows).mean(axis=0), 1e-6)
    rows = rows[:, kept] / spread[kept] / np.sqrt(2 * kept.sum()) if kept.any() else np.zeros((len(rows), 1))
    before = list(range(len(worth), len(rows)))
    far = 2.0 if before else 1.0
    for row, novelty in zip(found.rows.tolist(), found.novelty.tolist(), strict=True):
        new = [
            min([far, *(float(np.linalg.norm(rows[k] - rows[other])) for other in before)]) for k in range(len(worth))
        ]
        assert novelty == pytest.approx(new[row], abs=1e-9) and worth[row] > 0
        others = [k for k in range(len(worth)) if k not in before]
        assert worth[row] * new[row] ** 2 >= max(worth[k] * new[k] ** 2 for k in others) - 1e-6
        before.append(row)
        far = 2.0
    assert len(set(found.rows.tolist())) == len(found.rows) <= count
    if len(found.rows) < min(count, int((worth > 0).sum())):
        left = [k for k in range(len(worth)) if k not in found.rows and worth[k] > 0]
        near = [min(float(np.linalg.norm(rows[k] - rows[o])) for o in before) for k in left]
        assert max(near) < 1e-3, "only those that look like others are left"


def test_crops_of_equal_worth_cover_the_others() -> None:
    """At most twice the smallest radius that any choice of so many has (Gonzalez 1985)."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.uniform(0, 0.2, (10, 2)) + rng.integers(0, 3, (10, 2))
        apart = np.linalg.norm((points[:, None] - points[None]) / points.std(axis=0), axis=2)
        chosen = choose(np.ones(10), points, np.empty((0, 2)), 3).rows
        radius = apart[chosen].min(axis=0).max()
        best = min(apart[list(some)].min(axis=0).max() for some in itertools.combinations(range(10), 3))
        assert radius <= 2 * best + 1e-9


@given(st.floats(0.02, 0.98), st.floats(0.0, 1.0))
def test_entropy_is_highest_at_the_threshold(threshold, score) -> None:
    p = relative_scores(np.array([score, threshold]), threshold)
    bits = entropy(p)
    assert 0 <= bits[0] <= bits[1] == pytest.approx(1.0)
    assert (p[0] >= 0.5) == (score >= threshold) or abs(score - threshold) < 1e-3
    assert relative_scores(lowest_score(threshold), threshold) == pytest.approx(0.05, abs=0.01)
    assert 0 < lowest_score(threshold) < threshold


def tiles(pixels: np.ndarray, valid: np.ndarray | None = None) -> TileBatch:
    count, _, height, width = pixels.shape
    window = np.tile(np.array([[0, 0, width, height]]), (count, 1))
    return TileBatch(pixels, window, valid, window[:, 2:])


@pytest.mark.parametrize("backbone", [True, False])
def test_features_tell_kinds_of_ground_apart(backbone, model, tmp_path) -> None:
    folder = model if backbone else random_bundle(tmp_path / "m", bands=("red", "green", "blue"))
    detector = geosod.load_model(folder, precision="fp32", backend="eager")
    rng = np.random.default_rng(0)
    smooth = rng.integers(90, 110, (4, 3, 140, 150)).astype(np.uint8)
    rough = rng.integers(20, 180, (4, 3, 140, 150)).astype(np.uint8)
    found = tile_features(detector, tiles(np.concatenate([smooth, rough]))).astype(np.float64)
    assert np.isfinite(found).all() and (len(found[0]) == 30) == (not backbone)
    scaled = found[:, found.std(axis=0) > 0] / found.std(axis=0)[found.std(axis=0) > 0]
    apart = np.linalg.norm(scaled[:, None] - scaled[None], axis=2)
    nearest = (apart + np.diag(np.full(8, np.inf))).argmin(axis=1)
    assert ((nearest < 4) == (np.arange(8) < 4)).all()
    alone = np.concatenate([tile_features(detector, tiles(one[None])) for one in (*smooth, *rough)])
    assert np.array_equal(alone, found.astype(np.float32)), "no tile depends on the others"


def test_invalid_pixels_do_not_count(model) -> None:
    detector = geosod.load_model(model, precision="fp32", backend="eager")
    rng = np.random.default_rng(1)
    pixels = rng.integers(1, 255, (1, 3, 64, 64)).astype(np.uint8)
    valid = np.ones((1, 64, 64), np.bool_)
    valid[:, :, 40:] = False
    other = pixels.copy()
    other[:, :, :, 40:] = 200
    assert np.array_equal(*(tile_features(detector, tiles(some, valid)) for some in (pixels, other)))


def test_statistics_are_those_of_valid_pixels(tmp_path) -> None:
    detector = geosod.load_model(random_bundle(tmp_path / "m", bands=("red", "green", "blue")), precision="fp32")
    pixels = np.full((1, 3, 64, 64), 100, np.uint8)
    valid = np.ones((1, 64, 64), np.bool_)
    valid[:, 20:, 30:] = False
    some, whole = (tile_features(detector, tiles(pixels, shown))[0] for shown in (valid, None))
    np.testing.assert_allclose(some, whole, atol=1e-6)
    assert not some[:3].any() and some[3:12] == pytest.approx(100 / 255), "no deviation, and quantiles of one value"
