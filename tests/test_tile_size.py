"""Sizes and overlaps of tiles in every form people write them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geosod.config import make_config
from geosod.errors import ConfigError
from geosod.tile_size import compact, overlap_pixels, parse_overlap, parse_tile
from geosod.tiling.grid import make_grid


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (640, (640, 640)),
        ("640", (640, 640)),
        ("640x512", (640, 512)),
        (" 640X512 ", (640, 512)),
        ((64, 96), (64, 96)),
        ([64, 96], (64, 96)),
        (np.int64(96), (96, 96)),
    ],
)
def test_tiles(written, size) -> None:
    assert parse_tile(written) == size == make_config(tile=written).tile


@pytest.mark.parametrize("wrong", [0, 100, -32, 8224, "640x", "axb", "1x2x3", 640.5, None, True, "640,512", [], 0.25])
def test_sizes_that_are_none(wrong) -> None:
    with pytest.raises(ConfigError, match=r"tile|number|one value"):
        parse_tile(wrong)


@pytest.mark.parametrize(
    ("written", "overlap", "pixels"),
    [
        (64, (64, 64), (64, 64)),
        ("64", (64, 64), (64, 64)),
        (0, (0, 0), (0, 0)),
        (0.25, (0.25, 0.25), (160, 128)),
        ("0.25", (0.25, 0.25), (160, 128)),
        (".2x0", (0.2, 0), (128, 0)),
        ("0.1x64", (0.1, 64), (64, 64)),
        ([32, 0.5], (32, 0.5), (32, 256)),
        (0.333, (0.333, 0.333), (213, 170)),
        (0.0, (0.0, 0.0), (0, 0)),
    ],
)
def test_overlaps(written, overlap, pixels) -> None:
    assert parse_overlap(written) == overlap == make_config(overlap=written).overlap
    assert overlap_pixels(parse_overlap(written), (640, 512)) == pixels


@pytest.mark.parametrize("wrong", [-1, 1.0, 1.5, "64.5", "-0.1", "nan", float("nan"), "inf", True, "25%"])
def test_overlaps_that_are_none(wrong) -> None:
    with pytest.raises(ConfigError, match=r"overlap|number"):
        parse_overlap(wrong)


def test_an_overlap_must_be_below_the_tile() -> None:
    with pytest.raises(ConfigError, match="64 x 512 must be at least 0 and below the tile's 640 x 512"):
        overlap_pixels((64, 512), (640, 512))


def test_pairs_are_written_short() -> None:
    assert (compact((64, 64)), compact((640, 512)), compact((0.25, 0.25))) == (64, [640, 512], 0.25)


sides = st.integers(1, 40)


@given(sides, sides, sides, sides, st.floats(0, 0.9), st.integers(0, 39))
def test_grids_of_any_shape_cover_the_scene_and_overlap_as_asked(width, height, tile_w, tile_h, ratio, pixels) -> None:
    """Along each axis by itself, as tiles of another shape do not matter to it."""
    overlap = (ratio, min(pixels, tile_h - 1))
    grid = make_grid(width, height, tile=(tile_w, tile_h), overlap=overlap)
    seen = np.zeros((height, width), int)
    for col, row, w, h in grid.windows_array():
        assert (w, h) == (min(tile_w, width), min(tile_h, height)) and col + w <= width and row + h <= height
        seen[row : row + h, col : col + w] += 1
    assert (seen > 0).all()
    for starts, side, least in ((grid.x_starts, tile_w, int(ratio * tile_w)), (grid.y_starts, tile_h, overlap[1])):
        assert all(first + side - second >= least for first, second in pairwise(starts))
        # As few as that overlap allows.
        assert all(third - first > side - least for first, third in zip(starts, starts[2:], strict=False))
