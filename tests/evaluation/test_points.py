"""Points of labels and centres of detections, compared with a dense assignment and with plain loops."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from geosod.errors import ConfigError
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.evaluate import evaluate
from geosod.evaluation.figures import EvaluationSettings
from geosod.evaluation.points import assign, choose_threshold, count_points

from .scenes import found_scene, labels_of


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), m=st.integers(0, 60), n=st.integers(0, 60), whole=st.booleans())
def test_assignment_agrees_with_a_dense_one(seed: int, m: int, n: int, whole: bool) -> None:
    rng = np.random.default_rng(seed)
    found, truth = rng.uniform(0, 60, (m, 2)), rng.uniform(0, 60, (n, 2))
    if whole:  # equal points, and distances of exactly the limit
        found, truth = found.round(), truth.round()
    distance = np.linalg.norm(found[:, None] - truth[None], axis=2)
    price = np.where(distance <= 10, distance, 1e4)
    rows, cols = linear_sum_assignment(price)
    expected = distance[rows, cols][distance[rows, cols] <= 10]
    pairs = assign(found, truth, limit=10.0)
    assert len(pairs) == len(expected) and len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs)
    assert distance[pairs[:, 0], pairs[:, 1]].sum() == pytest.approx(expected.sum(), abs=1e-6)
    assert (distance[pairs[:, 0], pairs[:, 1]] <= 10).all()


@pytest.mark.slow
def test_a_dense_scene_of_many_points_is_assigned_in_seconds() -> None:
    """A matrix of all pairs would need 20 GB."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 3000, (50_000, 2))
    found = truth + rng.normal(0, 3, truth.shape)
    started = time.monotonic()
    pairs = assign(found, truth, limit=10.0)
    assert len(pairs) > 49_000 and time.monotonic() - started < 60


def test_counts_are_by_class_and_image_and_ignored_points_count_neither_way() -> None:
    points = np.array([[10, 10], [50, 50], [90, 90.0]])
    labels = labels_of(
        {"a": np.hstack([points, points]), "b": np.hstack([points, points])[:1]}, points=True,
        area=np.zeros(4), ignore=[False, True, False, False],
    )  # fmt: skip
    boxes = np.array([[4, 4, 20, 20], [46, 46, 58, 58], [300, 300, 310, 310.0]])
    scenes = [found_scene("a", boxes), found_scene("b", boxes[:0])]
    result = evaluate(labels, scenes, EvaluationSettings(radius=5.0))
    score = result.points.score
    assert (score.matched, score.found, score.truth) == (1, 2, 3) and result.boxes is None
    assert score.squared == pytest.approx(8.0) and np.isnan(score.rmse)
    with pytest.raises(ConfigError, match="labels are points: add --radius"):
        evaluate(labels, scenes)
    with pytest.raises(ConfigError, match="limit=nan"):
        assign(points, points, limit=float("nan"))


def test_the_threshold_is_that_with_the_highest_f_score() -> None:
    rng = np.random.default_rng(1)
    truth = rng.uniform(0, 400, (60, 2))
    wrong = rng.uniform(0, 400, (90, 2))
    scores = np.concatenate([rng.uniform(0.3, 1, 60), rng.uniform(0, 0.6, 90)]).round(2)
    centres = np.concatenate([truth + rng.normal(0, 1, truth.shape), wrong])
    labels = labels_of({"a": np.hstack([truth, truth])}, points=True, area=np.zeros(60))
    scene = found_scene("a", np.hstack([centres - 6, centres + 6]), scores)
    comparison = Comparison(labels, scene.found, np.zeros(150, int))
    by_threshold = {
        float(s): count_points(comparison, limit=4.0, min_score=float(s)).total().f_score
        for s in np.unique(scene.found.scores)
    }
    assert by_threshold[choose_threshold(comparison, limit=4.0)] == max(by_threshold.values())
