"""Scoring compared with plain loops and with cases computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.errors import ConfigError
from geosod.evaluation.scene_score import crosses_edges, match, score


def _overlap(a, b) -> tuple[float, float]:
    inter = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    sizes = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return (inter / (sum(sizes) - inter), inter / min(sizes)) if inter else (0.0, 0.0)


def _match_by_hand(truth, truth_labels, found, found_labels, scores):
    taken: dict[int, int] = {}
    result = [-1] * len(found)
    for d in sorted(range(len(found)), key=lambda i: (-scores[i], i)):
        options = [
            (-_overlap(truth[t], found[d])[0], t)
            for t in range(len(truth))
            if truth_labels[t] == found_labels[d] and t not in taken and _overlap(truth[t], found[d])[0] > 0.5
        ]
        if options:
            result[d] = min(options)[1]
            taken[result[d]] = d
    repeats = [
        result[d] < 0
        and any(truth_labels[t] == found_labels[d] and _overlap(truth[t], found[d])[1] >= 0.5 for t in taken)
        for d in range(len(found))
    ]
    return result, repeats


def _random(rng: np.random.Generator, n: int, *, spread: float) -> np.ndarray:
    corner = rng.uniform(-spread, spread, (n, 2)) + 1000
    return np.concatenate([corner, corner + rng.uniform(4, 90, (n, 2))], axis=1)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(0, 25), m=st.integers(0, 40), spread=st.sampled_from([10.0, 80, 400]))
def test_matching_agrees_with_plain_loops(seed: int, n: int, m: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    truth = _random(rng, n, spread=spread)
    near = truth[rng.integers(0, n, m)] + rng.normal(0, 3, (m, 4)) if n else _random(rng, m, spread=spread)
    found = np.where(rng.random((m, 1)) < 0.8, near, _random(rng, m, spread=spread))
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    truth_labels, labels = rng.integers(0, 2, n), rng.integers(0, 2, m)
    scores = rng.integers(0, 5, m) / 4
    matched, repeats = match(truth, truth_labels, found, labels, scores)
    by_hand = _match_by_hand(truth, truth_labels, found, labels, scores)
    assert matched.tolist() == by_hand[0]
    assert repeats.tolist() == by_hand[1]


def test_case_computed_by_hand() -> None:
    truth = [[0, 0, 10, 10], [100, 0, 110, 10], [200, 0, 210, 10]]
    found = [[0, 0, 10, 9], [0, 0, 10, 10], [100, 0, 110, 10], [400, 0, 410, 10], [200, 0, 210, 10]]
    result = score(
        truth, [0, 0, 1], found, [0, 0, 1, 0, 1], [0.9, 0.8, 0.7, 0.6, 0.5], x_edges=[105, 300], y_edges=[0, 10]
    )
    assert (result.objects, result.detections) == (3, 5)
    assert result.recall == pytest.approx(2 / 3) and result.precision == pytest.approx(2 / 5)
    assert result.objects_at_borders == 1 and result.recall_at_borders == 0 and result.recall_elsewhere == 1
    assert (result.duplicates, result.false_positives, result.missed) == (1, 3, 1)


def test_empty_inputs() -> None:
    empty = np.empty((0, 4))
    none = score(empty, [], empty, [], [])
    assert none.objects == none.duplicates == none.missed == 0 and np.isnan(none.recall) and np.isnan(none.precision)
    assert score([[0, 0, 1, 1]], [0], empty, [], []).missed == 1
    assert score(empty, [], [[0, 0, 1, 1]], [0], [1.0]).false_positives == 1


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 20)] * 2), min_size=1, max_size=10),
    st.lists(st.integers(0, 80), max_size=4),
    st.lists(st.integers(0, 80), max_size=4),
)
def test_borders_against_plain_loops(boxes, xs, ys) -> None:
    corners = np.array([[x, y, x + w, y + h] for x, y, w, h in boxes], float)
    expected = [any(b[0] < x < b[2] for x in xs) or any(b[1] < y < b[3] for y in ys) for b in corners]
    assert crosses_edges(corners, x_edges=xs, y_edges=ys).tolist() == expected


def test_lengths_that_differ_are_reported() -> None:
    with pytest.raises(ConfigError, match="as many labels"):
        match([[0, 0, 1, 1]], [0, 1], np.empty((0, 4)), [], [])
    with pytest.raises(ConfigError, match=r"iou=0\.0 must be from 0\.1"):
        match([[0, 0, 1, 1]], [0], np.empty((0, 4)), [], [], iou=0.0)


@pytest.mark.timeout(60)  # comparing all pairs would take hours
def test_sixty_thousand_objects() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 32768, (60_000, 2))
    truth = np.concatenate([corner, corner + rng.uniform(6, 60, (60_000, 2))], axis=1)
    labels = rng.integers(0, 3, 60_000)
    result = score(truth, labels, truth + 0.5, labels, rng.random(60_000), x_edges=np.arange(0, 32768, 400.0))
    assert result.recall > 0.95
