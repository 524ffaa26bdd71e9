import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geosod.errors import ConfigError
from geosod.scene import Window
from geosod.tiling.grid import make_grid


@st.composite
def grids(draw):
    tile = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    overlap = tuple(draw(st.integers(0, side - 1)) for side in tile)
    # Bounded by steps, so that an overlap of tile - 1 does not make thousands of tiles.
    longest = [3 * side if shared > side // 2 else 150 for side, shared in zip(tile, overlap, strict=True)]
    width, height = (draw(st.integers(1, length)) for length in longest)
    return make_grid(width, height, tile=tile, overlap=overlap), overlap


@given(grids())
def test_every_pixel_lies_in_a_window_and_no_window_leaves_the_scene(case):
    grid, _ = case
    seen = np.zeros((grid.height, grid.width), bool)
    for col, row, width, height in grid.windows_array():
        assert col >= 0
        assert row >= 0
        assert col + width <= grid.width
        assert row + height <= grid.height
        assert (width, height) == (min(grid.tile[0], grid.width), min(grid.tile[1], grid.height))
        seen[row : row + height, col : col + width] = True
    assert seen.all()


@given(grids())
def test_neighbours_overlap_by_at_least_the_overlap_and_only_the_last_by_more(case):
    grid, overlaps = case
    for starts, tile, overlap in zip((grid.x_starts, grid.y_starts), grid.tile, overlaps, strict=True):
        shared = tile - np.diff(starts)
        assert (shared < tile).all(), "strictly ascending"
        assert (shared[:-1] == overlap).all()
        assert (shared >= overlap).all()


@given(grids())
def test_windows_array_is_window_in_reading_order(case):
    grid, _ = case
    expected = [grid.window(i, j) for i in range(grid.rows) for j in range(grid.cols)]
    array = grid.windows_array()
    assert array.dtype == np.int64
    assert [Window(*row) for row in array.tolist()] == expected


@given(grids())
def test_interior_edges_are_the_tile_edges_inside_the_scene(case):
    grid, _ = case
    windows = [grid.window(i, j) for i in range(grid.rows) for j in range(grid.cols)]
    x_edges, y_edges = grid.interior_edges()
    assert x_edges.tolist() == sorted({e for w in windows for e in (w.col, w.right)} - {0, grid.width})
    assert y_edges.tolist() == sorted({e for w in windows for e in (w.row, w.bottom)} - {0, grid.height})


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "starts"),
    [
        (100, 100, 20, (0,)),
        (101, 100, 20, (0, 1)),
        (180, 100, 20, (0, 80)),
        (181, 100, 20, (0, 80, 81)),
        (300, 100, 0, (0, 100, 200)),
        (30, 100, 20, (0,)),
    ],
)
def test_starts(length, tile, overlap, starts):
    grid = make_grid(length, 7, tile=tile, overlap=overlap)
    assert grid.x_starts == starts
    assert grid.y_starts == (0,)
    assert grid.window(0, 0) == Window(0, 0, min(length, tile), 7)


@pytest.mark.parametrize(
    ("width", "tile", "overlap", "named"),
    [(0, 10, 2, "width=0"), (10, 0, 0, "tile=0"), (10, 10, 10, "overlap 10 x 10"), (10, 10, -1, "overlap -1 x -1")],
)
def test_unusable_sizes_are_refused(width, tile, overlap, named):
    with pytest.raises(ConfigError, match=named):
        make_grid(width, 10, tile=tile, overlap=overlap)
