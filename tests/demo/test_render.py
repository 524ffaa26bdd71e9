"""Pixels depend on their place alone, and show what the truth says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.demo.layout import Layout, make_layout
from geosod.demo.render import render
from geosod.demo.sprites import true_boxes
from geosod.demo.terrain import inside_swath
from geosod.errors import ConfigError
from geosod.types import Window

SIZE = 2304


@pytest.fixture(scope="module")
def layout() -> Layout:
    return make_layout(SIZE, 7)


@pytest.fixture(scope="module")
def whole(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    return render(layout, Window(0, 0, SIZE, SIZE))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_window_shows_the_same_wherever_it_is_cut(layout: Layout, whole, data) -> None:
    width, height = data.draw(st.integers(1, 700)), data.draw(st.integers(1, 700))
    col, row = data.draw(st.integers(0, SIZE - width)), data.draw(st.integers(0, SIZE - height))
    pixels, valid = render(layout, Window(col, row, width, height))
    part = np.s_[row : row + height, col : col + width]
    assert np.array_equal(pixels, whole[0][:, part[0], part[1]])
    assert np.array_equal(valid, whole[1][part])


def test_valid_is_the_swath_and_the_rest_is_black(layout: Layout, whole) -> None:
    pixels, valid = whole
    assert pixels.shape == (3, SIZE, SIZE) and pixels.dtype == np.uint8
    for row, col in np.random.default_rng(0).integers(0, SIZE, (2000, 2)):
        assert valid[row, col] == inside_swath(layout.terrain, col + 0.5, row + 0.5, 0.0)
    assert not pixels[:, ~valid].any()
    assert pixels[:, valid].any(0).all()
    assert 0.8 < valid.mean() < 0.95


def test_objects_are_drawn_where_the_truth_says(layout: Layout) -> None:
    """Taking an object's primitives away changes pixels in its box, and the body reaches each of its sides."""
    rng = np.random.default_rng(1)
    for i in rng.choice(len(layout.boxes), 60, replace=False):
        x0, y0, x1, y1 = layout.boxes[i]
        inside = (
            (layout.shapes[:, 1] > x0) & (layout.shapes[:, 1] < x1)
            & (layout.shapes[:, 2] > y0) & (layout.shapes[:, 2] < y1)
        )
        bodies = layout.shapes[inside]
        things = {
            "kind": np.select([bodies[:, 0] == 1, bodies[:, 0] == 2], [0, 2], 1),
            "cx": bodies[:, 1], "cy": bodies[:, 2], "angle": np.arctan2(bodies[:, 4], bodies[:, 3]),
            "half_length": bodies[:, 5], "half_width": bodies[:, 6],
        }
        opaque = bodies[:, 10] == 1.0
        gap = np.abs(true_boxes(things)[opaque] - layout.boxes[i]).max(1)
        assert gap.min() < 1e-6


def test_a_lone_vessel_stands_out_inside_its_box_and_not_beyond() -> None:
    """Edges of the brightest ship at sea agree with its box to a pixel."""
    layout = make_layout(4096, 7)
    sizes = layout.boxes[:, 2:] - layout.boxes[:, :2]
    checked = 0
    for i in np.flatnonzero((layout.labels == 2) & (sizes[:, 0] > 16)):
        x0, y0, x1, y1 = layout.boxes[i]
        col, row = int(x0) - 6, int(y0) - 6
        pixels, _ = render(layout, Window(col, row, int(x1 - x0) + 14, int(y1 - y0) + 14))
        middle = int((y0 + y1) / 2) - row
        profile = pixels[:, middle].astype(int).sum(0)
        # The lit side of a white tank is brighter than the pad to its left.
        step = np.abs(np.diff(profile))[: len(profile) // 2]
        if step.max() < 60:
            continue
        assert abs(int(step.argmax()) + 1 + col - x0) <= 1.6
        checked += 1
    assert checked >= 5


def test_overhanging_windows_are_refused(layout: Layout) -> None:
    for window in (Window(-1, 0, 8, 8), Window(0, 0, SIZE + 1, 8), Window(0, 0, 0, 8)):
        with pytest.raises(ConfigError, match="Window"):
            render(layout, window)
