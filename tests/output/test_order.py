"""The order of rows: along a Hilbert curve, with ties in canonical order."""

from __future__ import annotations

import geopandas
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.detections import Detections
from geosod.output.order import hilbert_distance, row_order
from tests.output.samples import SCENES, random_detections


def oracle(detections: Detections) -> np.ndarray:
    """Distances of geopandas, sorted with ties in canonical order."""
    x0, y0, x1, y1 = detections.boxes.T
    points = geopandas.GeoSeries.from_xy((x0 + x1) / 2, (y0 + y1) / 2)
    distance = points.hilbert_distance(total_bounds=(0, 0, 1000, 800), level=16).to_numpy()
    canonical = detections.canonical_order()
    return canonical[np.argsort(distance[canonical], kind="stable")]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 300), st.booleans())
def test_order_is_that_of_geopandas(seed: int, n: int, duplicates: bool) -> None:
    detections = random_detections(seed, n, duplicates=duplicates)
    assert np.array_equal(row_order(SCENES["utm"], detections), oracle(detections))


def test_order_does_not_depend_on_parts(monkeypatch) -> None:
    detections = random_detections(3, 700, duplicates=True)
    monkeypatch.setattr("geosod.output.parts.PART_ROWS", 19)
    assert np.array_equal(row_order(SCENES["utm"], detections), oracle(detections))


def test_neighbours_on_the_curve_are_neighbours() -> None:
    cells = np.stack(np.meshgrid(np.arange(64.0), np.arange(64.0)), axis=-1).reshape(-1, 2)
    distance = hilbert_distance(cells)
    assert len(np.unique(distance)) == len(cells) and distance.max() == len(cells) - 1
    steps = np.abs(np.diff(cells[np.argsort(distance)], axis=0)).sum(axis=1)
    assert (steps == 1).all()


def test_boxes_beyond_the_scene_are_at_its_edge() -> None:
    boxes = np.array([[-50.0, -50, -10, -10], [1100, 900, 1200, 950], [0, 0, 2, 2]])
    order = row_order(SCENES["utm"], Detections(boxes=boxes, scores=[1, 1, 1], labels=[0, 0, 0]))
    assert sorted(order.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("n", [0, 1])
def test_few_boxes(n: int) -> None:
    assert row_order(SCENES["utm"], random_detections(0, n)).tolist() == list(range(n))
