"""Pixels depend only on their position, and show the objects of the ground truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.demo.layout import Layout, make_layout
from geosod.demo.render import render
from geosod.demo.terrain import inside_swath
from geosod.errors import ConfigError
from geosod.scene import Window

SIZE = 2304


@pytest.fixture(scope="module")
def layout() -> Layout:
    return make_layout(SIZE, 7)


@pytest.fixture(scope="module")
def whole(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    return render(layout, Window(0, 0, SIZE, SIZE))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_window_is_part_of_the_whole_scene(layout: Layout, whole, data) -> None:
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


def test_objects_are_drawn_at_their_true_boxes(layout: Layout) -> None:
    """Pixels that change when an object's body is not drawn span its box, to a pixel."""
    gaps = []
    for i in np.random.default_rng(1).choice(len(layout.boxes), 80, replace=False):
        x0, y0, x1, y1 = box = layout.boxes[i]
        cx, cy = layout.shapes[:, 1], layout.shapes[:, 2]
        if ((layout.boxes[:, :2] < box[2:] + 4) & (layout.boxes[:, 2:] > box[:2] - 4)).all(1).sum() > 1:
            continue
        body = (cx > x0) & (cx < x1) & (cy > y0) & (cy < y1) & (layout.shapes[:, 13] == 1.0)
        body &= layout.shapes[:, 5] <= np.hypot(x1 - x0, y1 - y0) / 2
        shapes = layout.shapes.copy()
        shapes[body, 10] = 0.0
        col, row = int(x0) - 8, int(y0) - 8
        window = Window(col, row, min(SIZE - col, int(x1 - x0) + 18), min(SIZE - row, int(y1 - y0) + 18))
        with_it, without = (render(x, window)[0].astype(int) for x in (layout, replace(layout, shapes=shapes)))
        rows, cols = np.nonzero(np.abs(with_it - without).sum(0) > 6)
        drawn = np.array([cols.min() + col, rows.min() + row, cols.max() + 1 + col, rows.max() + 1 + row])
        gaps.append(np.abs(drawn - box).max())
        assert (drawn[:2] >= box[:2] - 1.5).all() and (drawn[2:] <= box[2:] + 1.5).all()
    assert len(gaps) > 20
    assert np.quantile(gaps, 0.9) <= 1.5


def test_overhanging_windows_are_refused(layout: Layout) -> None:
    for window in (Window(-1, 0, 8, 8), Window(0, 0, SIZE + 1, 8), Window(0, 0, 0, 8)):
        with pytest.raises(ConfigError, match="Window"):
            render(layout, window)
