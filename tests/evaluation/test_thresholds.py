"""Thresholds compared with a search through all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from geosod.config import make_config
from geosod.errors import ConfigError
from geosod.evaluation.average_precision import area_under
from geosod.evaluation.matching import match
from geosod.evaluation.overlaps import overlaps_of
from geosod.evaluation.thresholds import best_threshold, fit_thresholds, precise_threshold, rounded

from .test_coco import random_comparison


def test_average_precision_computed_by_hand() -> None:
    hits = np.array([True, False, True, False])
    # Precision 1 up to recall 1/3, then 2/3 up to recall 2/3; a third object is never found.
    assert area_under(hits, 3) == pytest.approx(1 / 3 + (2 / 3) / 3)
    assert np.isnan(area_under(hits, 0))
    assert best_threshold(hits, np.array([0.9, 0.8, 0.7, 0.1]), 3) == 0.7


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=20), st.integers(0, 5), st.floats(0.1, 1))
@example(rows=[(True, 9), (False, 8)], missed=0, precision=0.5)
@example(rows=[(True, 9), (True, 9), (False, 9)], missed=0, precision=1.0)
def test_thresholds_agree_with_a_search(rows: list[tuple[bool, int]], missed: int, precision: float) -> None:
    hits, scores = np.array([h for h, _ in rows], bool), np.array([s / 10 for _, s in rows])
    objects = int(hits.sum()) + missed
    f_scores = {s: 2 * hits[scores >= s].sum() / ((scores >= s).sum() + objects) for s in scores.tolist()}
    best = best_threshold(hits, scores, objects)
    assert f_scores.get(best, 0.0) == max(f_scores.values(), default=0.0)
    precise = [s for s in scores.tolist() if hits[scores >= s].sum() >= precision * (scores >= s).sum()]
    assert precise_threshold(hits, scores, precision) == min(precise, default=None)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20), st.data())
def test_a_rounded_threshold_separates_the_same_scores(scores: list[float], data: st.DataObject) -> None:
    values = np.array(scores)
    threshold = data.draw(st.sampled_from(scores))
    assert ((values >= rounded(threshold, values)) == (values >= threshold)).all()


def test_thresholds_of_classes_are_a_setting() -> None:
    comparison = random_comparison(4, truths=80, found=300, exact=True)
    overlaps = overlaps_of(comparison)
    fitted = fit_thresholds(comparison, overlaps, min_precision=0.3)
    assert make_config(threshold=fitted).threshold == fitted and set(fitted) == set(comparison.truth.classes)
    matches = match(comparison, overlaps, threshold=0.5)
    for k, name in enumerate(comparison.truth.classes):
        kept = (comparison.found.labels == k) & (comparison.found.scores >= fitted[name]) & ~matches.ignored
        assert not kept.any() or matches.hit[kept].mean() >= 0.3
    with pytest.raises(ConfigError, match="min_precision=90"):
        fit_thresholds(comparison, overlaps, min_precision=90)
