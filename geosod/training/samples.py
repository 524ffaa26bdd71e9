"""What a network is shown: parts of images, at some scale, and where they are chosen.

Which parts belong to a step depends on the seed and the step alone, so that an interrupted run goes on as if it had not
been, and workers know their share of a batch without asking.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from geosod.arrays import FloatArray, IntArray
from geosod.scene import Window
from geosod.scenes.view import MIN_SCALE, at_scale, full_scale
from geosod.training.config import TrainConfig
from geosod.training.training_set import TrainingSet


@dataclass(frozen=True, slots=True)
class Sample:
    """A part of an image.

    Attributes:
        image: index of the image.
        scale: pixels of the frame of `window` for one of the image.
        window: inside the image.
        size: (width, height) to which it is resized.
        seed: of its augmentation.
        sizes: SNIP's range of √area, in pixels of the image, of the objects that count; None for all.
    """

    image: int
    scale: float
    window: Window
    size: tuple[int, int]
    seed: tuple[int, ...]
    sizes: tuple[float, float] | None = None


class Sampler(Protocol):
    """Chooses what is shown."""

    def batch(self, step: int) -> list[Sample]:
        """The samples of a step, all that its workers share."""
        ...


class SliceSampler:
    """Slices of images, most of them around an object, and whole images beside them.

    With two sides drawn independently and resized to a width that is drawn, too, this is slicing-aided fine-tuning
    (Akyon et al. 2022, *Slicing Aided Hyper Inference and Fine-tuning for Small Object Detection*, section 3.2).

    Args:
        data: the images.
        config: `batch`, `slice`, `resize_width`, `scale_jitter`, `whole_images`, `negatives`, `balance`, `seed`.
    """

    def __init__(self, data: TrainingSet, config: TrainConfig) -> None:
        self._data, self._config = data, config
        self._sizes = data.sizes
        self._centres = Centres(data, data.objects, balance=config.balance, anywhere=config.negatives)

    def batch(self, step: int) -> list[Sample]:
        """The samples of a step."""
        rng = np.random.default_rng([self._config.seed, step])
        return [self._sample(rng, (self._config.seed, step, k)) for k in range(self._config.batch)]

    def _sample(self, rng: np.random.Generator, seed: tuple[int, ...]) -> Sample:
        c = self._config
        if rng.random() < c.whole_images:
            return self._whole(int(rng.integers(len(self._data.scenes))), rng, seed)
        sides, size = self._sides(rng)
        image, centre = self._centres(rng)
        window = window_around(centre, sides, self._sizes[image], rng)
        # An image that is smaller than the slice is shown whole, at the slice's scale.
        factors = size[0] / sides[0], size[1] / sides[1]
        shown = (max(1, round(window.width * factors[0])), max(1, round(window.height * factors[1])))
        return Sample(image, 1.0, window, shown, seed)

    def _sides(self, rng: np.random.Generator) -> tuple[tuple[int, int], tuple[int, int]]:
        """Sides of a slice in pixels of the image, and those to which it is resized."""
        c = self._config
        sides = c.tile if c.slice is None else tuple(int(n) for n in rng.integers(c.slice[0], c.slice[1] + 1, 2))
        if c.resize_width is not None:
            width = self._width(c.resize_width, rng)
            return (sides[0], sides[1]), (max(1, round(width)), max(1, round(sides[1] * width / sides[0])))
        if c.slice is not None:
            return (sides[0], sides[1]), (sides[0], sides[1])
        factor = float(np.exp(rng.uniform(-1, 1) * np.log(c.scale_jitter)))
        return (max(1, round(sides[0] / factor)), max(1, round(sides[1] / factor))), c.tile

    def _width(self, limits: tuple[int, int], rng: np.random.Generator) -> float:
        """A width to resize to, in pixels that the network's input may enlarge."""
        return int(rng.integers(limits[0], limits[1] + 1)) / self._data.card.input.upscale

    def _whole(self, image: int, rng: np.random.Generator, seed: tuple[int, ...]) -> Sample:
        """A whole image, of a width that slices are resized to, or else at most a tile."""
        c, scene = self._config, self._data.scenes[image]
        if c.resize_width is None:
            scale = full_scale(scene, c.tile)
        else:
            # A strip may be as high as the widest is wide.
            highest = c.resize_width[1] / self._data.card.input.upscale
            scale = max(MIN_SCALE, min(self._width(c.resize_width, rng) / scene.width, highest / scene.height))
        if scale < 1:
            # Read at that scale, as detection's level "full" is: the image itself may be larger than memory.
            scaled = at_scale(scene, scale)
            return Sample(image, scale, scaled.window, (scaled.width, scaled.height), seed)
        return Sample(image, 1.0, scene.window, (round(scene.width * scale), round(scene.height * scale)), seed)


class Draw:
    """Draws indices with given probabilities.

    Args:
        weights: (N,) probabilities, up to a factor.
    """

    def __init__(self, weights: FloatArray) -> None:
        self._ends = np.cumsum(weights)

    def __len__(self) -> int:
        return len(self._ends)

    def __call__(self, rng: np.random.Generator) -> int:
        """An index."""
        return int(np.searchsorted(self._ends, rng.random() * self._ends[-1], side="right"))


class Centres:
    """Draws an image and a point in it, in its pixels: the centre of an object, or any.

    Args:
        data: the images.
        objects: rows of the labels.
        balance: as for `object_weights`.
        anywhere: share of points that are any, in images without objects, too; None for none.
    """

    def __init__(self, data: TrainingSet, objects: IntArray, *, balance: float, anywhere: float | None) -> None:
        self._labels, self._sizes, self._rows, self._anywhere = data.labels, data.sizes, objects, anywhere
        self._objects = Draw(object_weights(data, objects, balance))
        self._images = Draw(self._sizes.prod(axis=1))

    def __call__(self, rng: np.random.Generator) -> tuple[int, FloatArray]:
        """An image, and (2,) ``x, y``."""
        if not len(self._rows) or (self._anywhere is not None and rng.random() < self._anywhere):
            image = self._images(rng)
            return image, rng.uniform(0, 1, 2) * self._sizes[image]
        row = self._rows[self._objects(rng)]
        box = self._labels.boxes[row]
        return int(self._labels.image[row]), (box[:2] + box[2:]) / 2


def object_weights(data: TrainingSet, objects: IntArray, balance: float) -> FloatArray:
    """(M,) how often each object is drawn: all of a class together as their count to the power of 1 - balance."""
    labels = data.labels.labels[objects]
    counts = np.bincount(labels, minlength=len(data.labels.classes)).astype(np.float64)
    return np.asarray(counts[labels] ** -balance)


def window_around(centre: FloatArray, sides: tuple[int, int], size: FloatArray, rng: np.random.Generator) -> Window:
    """A window of some sides inside an image (or as large as it is) that shows a point, anywhere in it."""
    start, length = [], []
    for k in range(2):
        side = min(sides[k], int(size[k]))
        first = int(rng.integers(int(np.ceil(centre[k])) - side, int(np.floor(centre[k])) + 1))
        start.append(int(np.clip(first, 0, int(size[k]) - side)))
        length.append(side)
    return Window(start[0], start[1], length[0], length[1])
