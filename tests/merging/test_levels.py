"""Merging across levels, where only boxes of different levels match: on paper. Oracles are in test_methods."""

from __future__ import annotations

import math

import numpy as np
import pytest

import geosod
from geosod.detections import RIGHT, Detections
from geosod.errors import ConfigError
from geosod.merging.methods import METHODS


def boxes(*rows: tuple[float, float, float], fragment: int = 0) -> Detections:
    """Squares of 10 px in a row: (left side, score, level)."""
    left, scores, level = np.array(rows, float).T
    corners = np.column_stack([left, 0 * left, left + 10, 0 * left + 10])
    return Detections(
        boxes=corners, scores=scores, labels=[0] * len(rows), level=level, fragment=[fragment] * len(rows)
    )


@pytest.mark.parametrize("method", sorted(METHODS))
def test_boxes_of_one_level_do_not_match(method) -> None:
    copies = boxes((0, 0.9, 1), (0, 0.8, 1), (1, 0.7, 1))
    assert geosod.merge(copies, method=method, across_levels=True).to_arrow().equals(copies.to_arrow())
    assert len(geosod.merge(copies.with_columns(level=[1, 0.5, 0.25]), method="nms", across_levels=True)) == 1


def test_soft_nms_lowers_scores_by_boxes_of_other_levels_only() -> None:
    # IoU of squares shifted by 2 is 8 / 12, by 4 it is 6 / 14.
    row = boxes((0, 0.9, 1), (2, 0.8, 0.5), (4, 0.7, 1))
    merged = geosod.merge(row, method="soft_nms", across_levels=True)
    coarse = 0.8 * math.exp(-((8 / 12) ** 2) / 0.5)
    # The last box meets the lowered coarse one, which ranks after it, and not the first of its own level.
    coarse *= math.exp(-((8 / 12) ** 2) / 0.5)
    found = dict(zip(merged.boxes[:, 0].tolist(), merged.scores.tolist(), strict=True))
    assert found == pytest.approx({0: 0.9, 4: 0.7, 2: coarse})
    within = geosod.merge(row, method="soft_nms")
    assert dict(zip(within.boxes[:, 0], within.scores, strict=True))[4] < 0.6


def test_a_cluster_takes_one_box_of_each_level() -> None:
    row = boxes((0, 0.8, 1), (1, 0.6, 1), (0.5, 0.4, 0.5), (0.5, 0.2, 0.25))
    merged = geosod.merge(row, method="wbf", across_levels=True)
    # The coarse boxes fit both; they join the first that fits best, and the others are left alone.
    assert sorted(merged.n_merged.tolist()) == [1, 3]
    assert merged.scores.tolist() == pytest.approx([0.6, 1.4 / 3])
    assert len(geosod.merge(row, method="wbf")) == 1


def test_fragments_of_one_level_are_stitched_with_those_of_another_only() -> None:
    pieces = boxes((0, 0.9, 1), (1, 0.8, 1), fragment=RIGHT)
    assert len(geosod.merge(pieces, across_levels=True)) == 2
    assert len(geosod.merge(pieces.with_columns(level=[1, 0.5]), across_levels=True)) == 1
    whole = boxes((-2, 0.1, 0.5)).with_columns(boxes=[[-2, -2, 22, 12]])
    merged = geosod.merge(Detections.concat([pieces, whole]), across_levels=True)
    assert (len(merged), merged.n_merged.tolist(), merged.level.tolist()) == (1, [3], [0.5])


def test_there_may_be_62_levels() -> None:
    many = boxes(*((0, 0.5, k) for k in range(1, 64)))
    assert len(geosod.merge(many[:62], method="wbf", across_levels=True)) == 1
    with pytest.raises(ConfigError, match="63 levels; across_levels takes at most 62"):
        geosod.merge(many, across_levels=True)
    with pytest.raises(ConfigError, match="across_levels 'yes' must be True or False"):
        geosod.merge(many, across_levels="yes")  # type: ignore[arg-type]
