"""Crops of images that show hits, misses and false alarms."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from geosod.arrays import FloatArray, IntArray
from geosod.datasets.image_files import scene_of
from geosod.datasets.tile_files import read_pixels
from geosod.errors import GeosodError, one_line
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.matching import Matches
from geosod.scene import Window
from geosod.viewing.pictures import draw_crop
from geosod.viewing.stretch import as_picture

#: Crops of each kind, and the side of a crop in pixels of the picture.
_COUNT, _SIDE = 8, 256


@dataclass(frozen=True, slots=True)
class Example:
    """A crop.

    Attributes:
        kind: "hit", "false alarm" or "miss".
        caption: what it shows.
        picture: a JPEG, as a data URI; "" where the image could not be read, which the caption says.
    """

    kind: str
    caption: str
    picture: str


def draw_examples(comparison: Comparison, matches: Matches, *, seed: int = 0) -> Iterator[Example]:
    """Crops of hits drawn at random, of the false alarms with the highest scores, and of missed objects.

    Detections are drawn solid, labels dashed. Images are read where their labels say they are.

    Args:
        comparison: what was compared.
        matches: of its detections.
        seed: of the random choice.
    """
    rng = np.random.default_rng(seed)
    found, truth = comparison.found, comparison.truth
    hits, wrong = np.flatnonzero(matches.hit), np.flatnonzero(~matches.hit & ~matches.ignored)
    missed = np.setdiff1d(np.flatnonzero(matches.objects), matches.truth[hits])
    worst = wrong[np.argsort(-found.scores[wrong], kind="stable")][:_COUNT]
    for kind, rows in (("hit", rng.permutation(hits)[:_COUNT]), ("false alarm", worst)):
        for row in rows.tolist():
            name = truth.classes[found.labels[row]]
            caption = f"{name} {found.scores[row]:.2f}"
            yield _example(kind, caption, comparison, int(comparison.image[row]), found.boxes[row])
    for row in rng.permutation(missed)[:_COUNT].tolist():
        name = truth.classes[truth.labels[row]]
        yield _example("miss", f"{name}, label {truth.ids[row]}", comparison, int(truth.image[row]), truth.boxes[row])


def _example(kind: str, caption: str, comparison: Comparison, image: int, box: FloatArray) -> Example:
    """The surroundings of a box, three times as large as it and at least 64 pixels."""
    shown = comparison.truth.images[image]
    caption = f"{caption}, {shown.id}"
    side = int(np.clip(3 * max(box[2] - box[0], box[3] - box[1]), 64, 1024))
    centre = (box[:2] + box[2:]) / 2
    start = np.clip(centre - side / 2, 0, [max(0, shown.width - side), max(0, shown.height - side)]).astype(int)
    window = Window(int(start[0]), int(start[1]), min(side, shown.width), min(side, shown.height))
    try:
        pixels = as_picture(read_pixels(scene_of(shown), window))
    except GeosodError as error:
        return Example(kind, f"{caption} (no picture: {one_line(error)})", "")
    zoom, corner = max(1, _SIDE // side), np.tile(start, 2)
    found, labelled = _inside(comparison.found.boxes, comparison.image, image, window), comparison.truth
    near = _inside(labelled.boxes, labelled.image, image, window)
    picture = draw_crop(
        pixels,
        comparison.found.boxes[found] - corner,
        comparison.found.labels[found],
        comparison.found.scores[found],
        class_names=labelled.classes,
        truth_boxes=labelled.boxes[near] - corner,
        zoom=zoom,
        smooth=True,
    )
    return Example(kind, caption, _data_uri(picture))


def _inside(boxes: FloatArray, image: Any, wanted: int, window: Window) -> IntArray:
    """Rows of boxes whose centre lies in a window of an image."""
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).T
    here = (image == wanted) & (x >= window.col) & (x < window.right) & (y >= window.row) & (y < window.bottom)
    return np.flatnonzero(here)


def _data_uri(picture: Any) -> str:
    buffer = io.BytesIO()
    picture.thumbnail((2 * _SIDE, 2 * _SIDE))
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
