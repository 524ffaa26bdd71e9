"""The change of AP is that of the two, and nothing is a change that is none."""

from __future__ import annotations

import pytest

from geosod.evaluation.average_precision import average_precision
from geosod.evaluation.changes import changes
from geosod.evaluation.join import join
from geosod.evaluation.overlaps import overlaps_of

from .scenes import found_scene, grid_of_spots, labels_of


def test_ap_of_two_ways_of_running_a_model() -> None:
    boxes = {f"s{i}": grid_of_spots(10 + i) for i in range(8)}
    labels = labels_of(boxes)
    exact = [found_scene(name, rows) for name, rows in boxes.items()]
    worse = [found_scene(name, rows[i % 3 :] + 1.5) for i, (name, rows) in enumerate(boxes.items())]
    result = changes(labels, {"a": exact, "b": worse, "c": exact}, "a")
    comparison = join(labels, worse).comparison
    expected = average_precision(comparison, overlaps_of(comparison))
    assert (result["a"].ap, result["a"].ap50_change, result["a"].interval) == (pytest.approx(1.0), 0.0, None)
    assert result["b"].ap == pytest.approx(expected.mean()) and result["b"].ap < 0.9
    assert result["b"].ap50_change == pytest.approx(expected.mean(threshold=0.5) - 1)
    low, high = result["b"].interval
    assert low <= result["b"].ap50_change <= high < 0
    assert result["c"].ap50_change == 0.0 and result["c"].interval == (0.0, 0.0)
