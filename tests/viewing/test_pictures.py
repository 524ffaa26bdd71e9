"""Pictures: marks are in the right places, and the rest of the image is unchanged."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from geosod.errors import ConfigError
from geosod.palette import PALETTE
from geosod.viewing.marks import colour_of
from geosod.viewing.pictures import contact_sheet, draw_crop, draw_overview


def grey(height: int, width: int, level: int = 90) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def changed(picture: Image.Image, level: int = 90) -> np.ndarray:
    return (np.asarray(picture) != level).any(axis=-1)


def test_tiny_boxes_become_dots_at_their_centres() -> None:
    image = grey(3000, 4000)
    picture = draw_overview(image, [[1000, 600, 1008, 608], [3000, 2000, 3008, 2008]], [0, 1], class_names=("a", "b"))
    assert picture.width == 1600
    pixels = np.asarray(picture)
    for (x, y), label in (((1004, 604), 0), ((3004, 2004), 1)):
        assert tuple(pixels[int(y * 0.4), int(x * 0.4)]) == PALETTE[label]
    marks = changed(picture)[:1200]
    assert 0 < marks.sum() < 300
    rows, cols = np.nonzero(marks)
    near = [np.hypot(rows - 241.6, cols - 401.6), np.hypot(rows - 801.6, cols - 1201.6)]
    assert np.minimum(*near).max() < 8


def test_large_boxes_become_outlines() -> None:
    picture = draw_overview(grey(400, 500), [[100, 100, 200, 180]], [2])
    pixels = np.asarray(picture)
    assert picture.width == 500
    assert (
        tuple(pixels[140, 99])
        == tuple(pixels[99, 150])
        == tuple(pixels[180, 150])
        == tuple(pixels[140, 200])
        == PALETTE[2]
    )
    assert not changed(picture)[102:178, 102:198].any()
    assert not changed(picture)[:90].any()


def test_the_image_is_not_written_to() -> None:
    image = grey(100, 100)
    image.setflags(write=False)
    draw_overview(image, [[10, 10, 50, 50]], [0])
    draw_crop(image, [[10, 10, 50, 50]], [0], [0.5])


def test_legend_names_classes_by_count_and_grows_with_them() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 380, (500, 2))
    boxes = np.hstack([corner, corner + 4])
    few = draw_overview(grey(400, 400), boxes, np.zeros(500, int), class_names=("boat",))
    many = draw_overview(grey(400, 400), boxes, rng.integers(0, 30, 500))
    assert many.height > few.height > 400
    strip = np.asarray(few)[400:].reshape(-1, 3)
    assert (strip == PALETTE[0]).all(axis=1).any()
    assert not (strip == PALETTE[1]).all(axis=1).any()


def test_no_boxes() -> None:
    none = np.empty((0, 4))
    picture = draw_overview(grey(50, 60), none, [])
    assert not changed(picture)[:50].any()
    assert not changed(draw_crop(grey(50, 60), none, [], [])).any()


def test_crop_is_enlarged_and_marked() -> None:
    picture = draw_crop(
        grey(60, 80), [[20, 20, 40, 40]], [1], [0.9], class_names=("a", "boat"), truth_boxes=[[50, 30, 70, 50]], zoom=3
    )
    assert picture.size == (240, 180)
    pixels = np.asarray(picture)
    assert tuple(pixels[90, 58]) == PALETTE[1]
    assert (pixels[80:160, 140:220].reshape(-1, 3) == 255).all(axis=1).any()
    assert not changed(picture)[65:115, 65:115].any()
    with_score = changed(draw_crop(grey(60, 80), [[20, 20, 40, 40]], [1], [0.9], class_names=("a", "boat")))
    without = changed(draw_crop(grey(60, 80), [[20, 20, 40, 40]], [1], class_names=("a", "boat")))
    assert with_score.sum() > without.sum()


def test_labels_do_not_cover_one_another() -> None:
    box = [[20.0, 20, 40, 40]]
    one = changed(draw_crop(grey(60, 80), box, [0], [0.9])).sum()
    twenty = changed(draw_crop(grey(60, 80), box * 20, [0] * 20, [0.9] * 20)).sum()
    three_labels = one * 3
    assert one < twenty < three_labels  # one label above and one below, the other eighteen are left out


def test_boxes_beyond_the_edge_are_drawn() -> None:
    draw_crop(grey(40, 40), [[-10, -10, 60, 60], [39, 39, 80, 80], [5, 5, 5, 5]], [0, 1, 2], [1, 1, 1])
    draw_overview(grey(40, 40), [[-10, -10, 60, 60], [39, 39, 80, 80], [5, 5, 5, 5]], [0, 1, 2])


def test_sheet_holds_every_image() -> None:
    images = [Image.new("RGB", (30 + 10 * i, 40), colour_of(i)) for i in range(5)]
    sheet = contact_sheet(images, columns=2, captions=["short"] + ["much too long for the cell"] * 4)
    pixels = np.asarray(sheet).reshape(-1, 3)
    for i, image in enumerate(images):
        assert (pixels == colour_of(i)).all(axis=1).sum() >= image.width * image.height
    assert sheet.width == 2 * (70 + 12) + 12
    assert contact_sheet(images[:1], columns=4).size == (54, 64)


@pytest.mark.parametrize(
    "image",
    [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3)), np.zeros((3, 5, 5), np.uint8), np.zeros((0, 5, 3), np.uint8)],
)
def test_other_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="uint8"):
        draw_overview(image, [], [])


def test_columns_must_match() -> None:
    with pytest.raises(ConfigError, match="1 boxes but 2 labels"):
        draw_overview(grey(5, 5), [[0, 0, 1, 1]], [0, 1])
    with pytest.raises(ConfigError, match="1 boxes but 2 scores"):
        draw_crop(grey(5, 5), [[0, 0, 1, 1]], [0], [0.1, 0.2])
    with pytest.raises(ConfigError, match="captions"):
        contact_sheet([Image.new("RGB", (2, 2))], captions=["a", "b"])
