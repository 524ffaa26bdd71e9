"""Overlays: the image's size is kept, nothing hides an object, densities count, and bars have round lengths."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from geosod.errors import ConfigError
from geosod.palette import PALETTE
from geosod.viewing import overlays
from geosod.viewing.marks import SHADOW, colour_of
from geosod.viewing.overlays import DENSITY_CELL, density, draw_density, draw_detections, draw_scale_bar, round_length


def grey(height: int, width: int, level: int = 90) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def test_boxes_have_the_colour_of_their_class_and_a_label() -> None:
    image = grey(300, 400)
    picture = draw_detections(image, [[50, 60, 120, 140]], [1], [0.87], class_names=("a", "boat"))
    pixels = np.asarray(picture)
    assert picture.size == (400, 300) and (image == 90).all()
    assert tuple(pixels[100, 49]) == tuple(pixels[100, 120]) == PALETTE[1]
    assert (pixels[63:138, 53:118] == 90).all(), "the object itself is not covered"
    assert (pixels == SHADOW).all(axis=2)[30:58, 50:120].sum() > 200, "its label is above it"
    assert (pixels[200:] == 90).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 120))
@settings(max_examples=20, deadline=None)
def test_labels_cover_no_box_and_no_label(seed, count) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 560, (count, 2))
    boxes = np.hstack([corner, corner + rng.uniform(4, 40, (count, 2))])
    areas: list[np.ndarray] = []

    class Spy(ImageDraw.ImageDraw):
        def rectangle(self, xy, fill=None, **_) -> None:  # type: ignore[no-untyped-def, override]
            if fill is not None:
                areas.append(np.array(xy))

    draw = Spy(Image.new("RGB", (600, 600)))
    texts = [f"class {i}" for i in range(count)]
    written = overlays._write_labels(draw, (600, 600), boxes, texts, np.zeros(count, int), 12, gap=3)
    assert written == len(areas) and written >= min(count, 1) * (count < 5)
    for k, area in enumerate(areas):
        others = [*boxes, *areas[:k]]
        meets = [min(area[2], o[2]) > max(area[0], o[0]) and min(area[3], o[3]) > max(area[1], o[1]) for o in others]
        assert not any(meets)
        assert area[0] >= 0 and area[1] >= 0 and area[2] <= 600 and area[3] <= 600


def test_a_legend_where_labels_have_no_room() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(250, 560, (400, 2))
    boxes = np.hstack([corner, corner + 20])
    picture = draw_detections(grey(600, 600), boxes, np.arange(400) % 3, np.full(400, 0.5), class_names=("a", "b", "c"))
    corner_pixels = np.asarray(picture)[:120, :120].reshape(-1, 3)
    assert all((corner_pixels == PALETTE[i]).all(axis=1).any() for i in range(3)), "in the empty corner"


def test_the_smallest_images_and_odd_boxes() -> None:
    for size in ((1, 1), (3, 2), (20, 9)):
        picture = draw_detections(grey(*size), [[0, 0, 1, 1], [-5, -5, 100, 100]], [0, 99], [1.0, 0.0])
        assert picture.size == size[::-1]
    assert draw_detections(grey(5, 5), np.empty((0, 4)), [], []).size == (5, 5)
    with pytest.raises(ConfigError, match="one score per box"):
        draw_detections(grey(5, 5), [[0, 0, 1, 1]], [0], [])
    with pytest.raises(ConfigError, match="needs"):
        draw_density(np.zeros((5, 5)), np.empty((0, 4)))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 200), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_densities_count_centres(width, height, count, seed) -> None:
    centres = np.random.default_rng(seed).uniform(0, 1, (count, 2)) * (width, height)
    found = density(np.hstack([centres - 1, centres + 1]), width, height)
    expected: dict[tuple[int, int], int] = {}
    for x, y in centres:
        cell = (int(y // DENSITY_CELL), int(x // DENSITY_CELL))
        expected[cell] = expected.get(cell, 0) + 1
    assert found.sum() == count and found.shape == (-(-height // DENSITY_CELL), -(-width // DENSITY_CELL))
    assert {(int(r), int(c)): int(found[r, c]) for r, c in zip(*np.nonzero(found), strict=True)} == expected


def test_denser_cells_are_lighter() -> None:
    boxes = [[6, 6, 7, 7]] * 1 + [[30, 6, 31, 7]] * 10 + [[54, 6, 55, 7]] * 100
    pixels = np.asarray(draw_density(grey(60, 300), boxes)).astype(int)
    lightness = [pixels[6, x] @ (299, 587, 114) for x in (6, 30, 54)]
    assert lightness == sorted(lightness) and lightness[2] > 2 * lightness[0] / 1.5
    assert (pixels[6, 18] == 54).all(), "ground without objects is dimmed"
    ramp = overlays._ramp(np.linspace(0, 1, 50)) @ (0.299, 0.587, 0.114)
    assert (np.diff(ramp) > 0).all(), "in lightness alone the order is the same"


@given(st.floats(1e-3, 1e7))
def test_round_lengths(longest) -> None:
    length, text = round_length(longest, in_m=True)
    assert 0.39 * longest <= length <= longest * (1 + 1e-6)
    number, unit = re.fullmatch(r"([\d.e+-]+) (km|m|cm|mm)", text).groups()  # type: ignore[union-attr]
    assert float(number) * {"km": 1000, "m": 1, "cm": 0.01, "mm": 0.001}[unit] == pytest.approx(length)
    assert float(f"{length:e}".partition("e")[0]) in (1, 2, 5)


@pytest.mark.parametrize(
    ("pixel", "in_m", "expected"), [(0.5, True, 50 / 0.5), (10.0, True, 1000 / 10), (1.0, False, 100)]
)
def test_scale_bars_are_as_long_as_they_say(pixel, in_m, expected) -> None:
    picture = Image.fromarray(grey(200, 400))
    draw_scale_bar(picture, pixel, in_m=in_m, height=200)
    bar = (np.asarray(picture)[190:] == (236, 238, 240)).all(axis=2).any(axis=0).sum()
    assert bar == pytest.approx(expected, abs=1)


def test_colours_are_the_same_in_all_pictures() -> None:
    assert len(set(PALETTE)) == len(PALETTE) and colour_of(0) == colour_of(len(PALETTE))
