"""Distances to borders of tiles compared with plain loops over tiles; curves by hand and with pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.datasets.labels import LabelledImage
from geosod.errors import ConfigError
from geosod.evaluation.average_precision import average_precision
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.curves import calibration, precision_recall, proposal_recall
from geosod.evaluation.found_scenes import Tiling
from geosod.evaluation.matching import match
from geosod.evaluation.overlaps import overlaps_of
from geosod.evaluation.ranges import border_distance, border_ranges, metre_ranges
from geosod.tiling.grid import make_grid

from .test_coco import coco_eval, random_comparison, to_coco


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(20, 900),
    height=st.integers(20, 900),
    tile=st.integers(64, 300),
    overlap=st.integers(0, 60),
    seed=st.integers(0, 999),
)
def test_border_distance_agrees_with_plain_loops(width: int, height: int, tile: int, overlap: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, [width, height], (10, 2))
    boxes = np.concatenate([corner, np.minimum(corner + rng.uniform(1, 80, (10, 2)), [width, height])], axis=1)
    grid = make_grid(width, height, tile=tile, overlap=overlap)
    expected = []
    for x0, y0, x1, y1 in boxes:
        best = -np.inf
        for col in grid.x_starts:
            for row in grid.y_starts:
                gaps = [np.inf]
                gaps += [x0 - col] if col > 0 else []
                gaps += [y0 - row] if row > 0 else []
                gaps += [col + tile - x1] if col + tile < width else []
                gaps += [row + tile - y1] if row + tile < height else []
                best = max(best, min(gaps))
        expected.append(best)
    found = border_distance(boxes, (width, height), Tiling((tile, tile), (overlap, overlap)))
    np.testing.assert_allclose(found, expected)


def test_ranges_partition_the_objects() -> None:
    made = random_comparison(5, truths=80, found=200, exact=True)
    images = [
        LabelledImage(i.id, "", 1000, 1000, metres_per_pixel=None if k == 5 else (0.5, 0.5))
        for k, i in enumerate(made.truth.images)
    ]
    comparison = Comparison(made.truth.with_columns(images=images), made.found, made.image)
    tilings = [Tiling((128, 128), (0.25, 0.25))] * 5 + [None]
    known = comparison.truth.image < 5
    for parts in (list(metre_ranges(comparison)), list(border_ranges(comparison, tilings))):
        inside = np.array([~part.truth_outside for part in parts])
        assert (inside.sum(axis=0) == known).all()
    result = average_precision(comparison, overlaps_of(comparison), ranges=tuple(metre_ranges(comparison, (8, 30))))
    assert result.ranges == ("all", "< 8 m", "8-30 m", ">= 30 m")
    with pytest.raises(ConfigError, match="sizes 5, 5: limits are above 0 m and ascend"):
        list(metre_ranges(comparison, (5, 5)))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_recall_of_proposals_equals_pycocotools(seed: int) -> None:
    comparison = random_comparison(seed)
    gt, dt = to_coco(comparison)
    recall = coco_eval(gt, dt, 100, useCats=0, maxDets=[1, 10, 100])["recall"][:, 0, 0, :]
    ours = proposal_recall(comparison, overlaps_of(comparison), numbers=(1, 10, 100))
    expected = np.where((recall == -1).all(axis=0), np.nan, recall.mean(axis=0))
    np.testing.assert_allclose(list(ours.values()), expected, rtol=0, atol=1e-9)


def test_calibration_by_hand() -> None:
    scores = np.array([0.95, 0.95, 0.91, 0.31, 1.0])
    result = calibration(scores, np.array([True, True, False, True, False]))
    assert result.count.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 4]
    assert result.precision[9] == 0.5 and result.score[3] == pytest.approx(0.31) and np.isnan(result.score[0])
    assert result.error == pytest.approx((4 * abs(3.81 / 4 - 0.5) + 0.69) / 5)
    assert np.isnan(calibration(np.zeros(0), np.zeros(0, bool)).error)


def test_the_curve_ends_at_the_recall_of_all_detections() -> None:
    comparison = random_comparison(2, truths=100, found=700, exact=True, classes=1)
    overlaps = overlaps_of(comparison)
    curve = precision_recall(comparison, match(comparison, overlaps, threshold=0.5), 0)
    result = average_precision(comparison, overlaps, thresholds=(0.5,), max_detections=None)
    assert curve.recall[-1] == result.recall[0, 0, 0] and len(curve.recall) == 200
    assert (np.diff(curve.recall) >= 0).all() and (np.diff(curve.scores) <= 0).all()
    assert (curve.envelope >= curve.precision).all() and (np.diff(curve.envelope) <= 0).all()
