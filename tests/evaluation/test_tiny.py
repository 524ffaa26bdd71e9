"""TinyPerson's metrics compared with plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.evaluation.comparison import Comparison
from geosod.evaluation.overlaps import overlaps_of
from geosod.evaluation.tiny import TINY_RANGES, TINY_THRESHOLDS, log_average, miss_rate, tiny_average_precision

from .test_coco import random_comparison


def _shared(a, b) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _area(a) -> float:
    return (a[2] - a[0]) * (a[3] - a[1])


def _with_ignored(seed: int) -> Comparison:
    made = random_comparison(seed, side=120, n_images=3, classes=2)
    truth = made.truth.with_columns(ignore=np.random.default_rng(seed).random(len(made.truth)) < 0.2)
    return Comparison(truth, made.found, made.image)


def _ap_by_hand(comparison: Comparison, k: int, threshold: float, low: float, high: float) -> float:
    """AP with at most 200 detections, by the rules as TinyBenchmark states them."""
    truth, found = comparison.truth, comparison.found
    rows, objects = [], 0
    for image in range(len(truth.images)):
        own = [t for t in range(len(truth)) if truth.image[t] == image and truth.labels[t] == k]
        out = {t: bool(truth.crowd[t] or truth.ignore[t] or not low <= math.sqrt(truth.area[t]) <= high) for t in own}
        objects += sum(not out[t] for t in own)
        taken = set()
        ranked = [d for d in range(len(found)) if comparison.image[d] == image and found.labels[d] == k]
        for d in sorted(ranked, key=lambda d: -found.scores[d])[:200]:
            box = found.boxes[d]
            shared = {t: _shared(truth.boxes[t], box) for t in own}
            value = {t: s / (_area(box) if truth.crowd[t] else _area(box) + _area(truth.boxes[t]) - s)
                     for t, s in shared.items()}  # fmt: skip
            options = [(value[t], t) for t in own if value[t] >= threshold and (t not in taken or truth.crowd[t])]
            best = max([o for o in options if not out[o[1]]] or options, default=None)
            excused = any(out[t] and _shared(truth.boxes[t], box) / _area(box) >= threshold for t in own)
            outside = not low <= math.sqrt(_area(box)) <= high
            if best is not None:
                taken.add(best[1])
                if not out[best[1]]:
                    rows.append((-found.scores[d], image, True))
            elif not (excused or outside):
                rows.append((-found.scores[d], image, False))
    if not objects:
        return math.nan
    hits = [hit for *_, hit in sorted(rows, key=lambda row: row[:2])]
    points = [(sum(hits[: i + 1]) / objects, sum(hits[: i + 1]) / (i + 1)) for i in range(len(hits))]
    return sum(max([p for r, p in points if r >= at], default=0.0) for at in np.linspace(0, 1, 101)) / 101


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_average_precision_agrees_with_plain_loops(seed: int) -> None:
    comparison = _with_ignored(seed)
    result = tiny_average_precision(comparison, overlaps_of(comparison))
    for r, (low, high) in enumerate([(-1.0, math.inf), *TINY_RANGES.values()]):
        for t, threshold in enumerate(TINY_THRESHOLDS):
            for k in range(2):
                by_hand = _ap_by_hand(comparison, k, threshold, low, high)
                assert result.ap[t, k, r] == pytest.approx(by_hand, abs=1e-9, nan_ok=True)


def _miss_rate_by_hand(comparison: Comparison, k: int, threshold: float, low: float, high: float) -> float:
    truth, found = comparison.truth, comparison.found
    rows, objects = [], 0
    for image in range(len(truth.images)):
        own = [t for t in range(len(truth)) if truth.image[t] == image and truth.labels[t] == k]
        out = {t: bool(truth.crowd[t] or truth.ignore[t] or not low <= math.sqrt(truth.area[t]) <= high) for t in own}
        objects += sum(not out[t] for t in own)
        taken = set()
        ranked = [d for d in range(len(found)) if comparison.image[d] == image and found.labels[d] == k]
        for d in sorted(ranked, key=lambda d: -found.scores[d])[:1000]:
            box, size = found.boxes[d], math.sqrt(_area(found.boxes[d]))
            if not low / 1.25 <= size < high * 1.25:
                continue
            shared = {t: _shared(truth.boxes[t], box) for t in own}
            iou = {t: s / (_area(box) + _area(truth.boxes[t]) - s) for t, s in shared.items()}
            options = [(iou[t], t) for t in own if not out[t] and t not in taken and iou[t] >= threshold]
            if options:
                taken.add(max(options)[1])
                rows.append((-found.scores[d], image, True))
            elif not any(out[t] and shared[t] / _area(box) >= threshold for t in own):
                rows.append((-found.scores[d], image, False))
    if not objects:
        return math.nan
    hits = [hit for *_, hit in sorted(rows, key=lambda row: row[:2])]
    logs = []
    for limit in [10 ** (-2 + i / 4) for i in range(9)]:
        recall, wrong, right = 0.0, 0, 0
        for hit in hits:
            right, wrong = right + hit, wrong + (not hit)
            if wrong / len(truth.images) <= limit + 1e-12:
                recall = right / objects
        logs.append(math.log(max(1 - recall, 1e-10)))
    return math.exp(sum(logs) / 9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_miss_rate_agrees_with_plain_loops(seed: int) -> None:
    comparison = _with_ignored(seed)
    result = miss_rate(comparison, overlaps_of(comparison))
    for r, (low, high) in enumerate([(-1.0, math.inf), *TINY_RANGES.values()]):
        for t, threshold in enumerate(TINY_THRESHOLDS):
            for k in range(2):
                by_hand = _miss_rate_by_hand(comparison, k, threshold, low, high)
                assert result.values[t, k, r] == pytest.approx(by_hand, rel=1e-9, nan_ok=True)


def test_miss_rates_by_hand() -> None:
    assert log_average(np.zeros(0, bool), 3, 10) == 1.0
    # Half of the objects with no false positive, all with one false positive: 0.5 where that is too many.
    assert log_average(np.array([True, False, True]), 2, 100) == pytest.approx(1e-10)
    assert log_average(np.array([True, False, True]), 2, 50) == pytest.approx((0.5**2 * 1e-10**7) ** (1 / 9))
    assert log_average(np.array([False, True]), 2, 10) == pytest.approx(0.5 ** (5 / 9))
