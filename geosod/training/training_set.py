"""What is trained on: labels whose images were opened, and how their pixels become values from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from geosod.arrays import FloatArray, IntArray
from geosod.datasets.image_files import scene_of
from geosod.datasets.labels import ANY_CLASS, LabelledImage, Labels
from geosod.datasets.problems import Problems
from geosod.detectors.card import ModelCard
from geosod.errors import ConfigError, GeosodError, LabelError, ModelError
from geosod.scene import Scene, SceneRef
from geosod.scenes.bands import choose_bands
from geosod.scenes.open import open_scene, shown_turned
from geosod.training.config import TrainConfig
from geosod.training.targets import MIN_SIDE


@dataclass(frozen=True, slots=True, eq=False)
class ImageRows:
    """Which labels of an image lie near some of its rows of pixels; an image may have millions.

    Attributes:
        rows: (N,) int64, rows of the labels, by their boxes' upper side.
        upper: (N,) float64, these sides in pixels.
        tallest: height of the tallest box in pixels.
    """

    rows: IntArray
    upper: FloatArray
    tallest: float

    @classmethod
    def of(cls, labels: Labels, rows: IntArray) -> Self:
        """The rows of an image."""
        boxes = labels.boxes[rows]
        order = np.argsort(boxes[:, 1], kind="stable")
        return cls(rows[order], boxes[order, 1], float((boxes[:, 3] - boxes[:, 1]).max(initial=0)))

    def near(self, top: float, bottom: float) -> IntArray:
        """Rows of all boxes that reach between two heights, and of some others, in the order of the labels."""
        first, last = np.searchsorted(self.upper, (top - self.tallest, bottom))
        return np.sort(self.rows[first:last])


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSet:
    """Labelled images that can be read.

    Attributes:
        labels: of these images; points have become boxes.
        scenes: (images,) the opened scene of each.
        bands: (images,) its 1-based bands in the model's order.
        card: how pixels are scaled, and what else the model will state.
        objects: (M,) int64, rows of `labels` that are objects: neither ignored nor crowds, nor outside their image.
        outside: number of those that are wholly outside their image.
        empty: number of those without an area.
        rows: for every image those of its boxes.
    """

    labels: Labels
    scenes: tuple[Scene, ...]
    bands: tuple[tuple[int, ...], ...]
    card: ModelCard
    objects: IntArray
    outside: int
    empty: int
    rows: tuple[ImageRows, ...]

    @property
    def sizes(self) -> FloatArray:
        """(images, 2) width and height in pixels."""
        return np.array([(scene.width, scene.height) for scene in self.scenes], np.float64).reshape(-1, 2)


def open_set(labels: Labels, card: ModelCard, config: TrainConfig, problems: Problems) -> TrainingSet:
    """Open the images of labels; those that cannot be used are recorded and left out.

    Args:
        labels: with the classes of the card.
        card: of the model to be.
        config: `bands`, `alpha`, `box_size`, `on_error`.
        problems: what is left out is added here.

    Raises:
        LabelError: no image is left.
        GeosodError: an image cannot be used, and the settings say to stop.
    """
    kept, scenes, bands = [], [], []
    for k, image in enumerate(labels.images):
        try:
            scene, mine = _opened(image, card, config)
        except GeosodError as error:
            if config.on_error == "stop":
                raise
            problems.add(image.uri, "", str(error).removeprefix(f"{image.uri}: "))
            continue
        kept.append(k)
        scenes.append(scene)
        bands.append(mine)
    if not kept:
        first = problems.found[0] if problems.found else "there is none"
        raise LabelError(f"no image of the labels can be used; the first problem: {first}")
    return _training_set(labels.of_images(kept), scenes, bands, card)


def _training_set(
    labels: Labels, scenes: Sequence[Scene], bands: Sequence[tuple[int, ...]], card: ModelCard
) -> TrainingSet:
    counted = ~labels.ignore & ~labels.crowd & (labels.labels != ANY_CLASS)
    solid = (labels.boxes[:, 2:] - labels.boxes[:, :2] > MIN_SIDE).all(axis=1)
    empty = int((counted & ~solid).sum())
    counted &= solid
    sizes = np.array([(scene.width, scene.height) for scene in scenes], np.float64)[labels.image]
    inside = (labels.boxes[:, 2:] > 0).all(axis=1) & (labels.boxes[:, :2] < sizes).all(axis=1)
    objects, outside = np.flatnonzero(counted & inside), int((counted & ~inside).sum())
    rows = tuple(ImageRows.of(labels, mine) for mine in labels.by_image()) if labels.images else ()
    return TrainingSet(labels, tuple(scenes), tuple(bands), card, objects, outside, empty, rows)


def as_boxes(labels: Labels, side: float | None) -> Labels:
    """Labels whose points have become boxes of a side in pixels.

    Raises:
        ConfigError: objects are points, and there is no side.
    """
    if not labels.points:
        return labels
    if side is None:
        raise ConfigError("the labels are points: add --box-size PIXELS, the side of the boxes to train and report")
    half = side / 2
    boxes = labels.boxes + np.array([-half, -half, half, half])
    return labels.with_columns(boxes=boxes, area=np.full(len(labels), side * side), points=False)


def _opened(image: LabelledImage, card: ModelCard, config: TrainConfig) -> tuple[Scene, tuple[int, ...]]:
    scene = open_image(image, config)
    if (scene.width, scene.height) != (image.width, image.height):
        turned = (
            "; it is tagged to be shown rotated, and geosod takes pixels as they are stored: rotate the image, or the "
            "boxes"
        )
        raise ModelError(
            f"{image.uri}: has {scene.width} x {scene.height} pixels, but the labels are for "
            f"{image.width} x {image.height}{turned if shown_turned(scene) else ''}"
        )
    if card.scaling == "stored" and scene.dtype != card.dtype:
        raise ModelError(
            f"{image.uri}: pixels are {scene.dtype}, but the model is trained on {card.dtype}; convert the image, or "
            "train with --scaling percentile"
        )
    return scene, choose_bands(scene, card.bands, config.bands)


def open_image(image: LabelledImage, config: TrainConfig) -> Scene:
    """The header of an image, its alpha band used as the settings say; SceneError where it cannot be opened."""
    if config.alpha == "auto":
        return scene_of(image)
    return open_scene(SceneRef(image.uri, image.id), alpha=config.alpha)


def one_class(labels: Labels) -> Labels:
    """All classes as one, "object", for a detector that finds things and leaves it to a classifier to name them."""
    merged = np.where(labels.labels == ANY_CLASS, ANY_CLASS, 0)
    return labels.with_columns(classes=("object",), supercategories=("",), class_ids=(1,), labels=merged)
