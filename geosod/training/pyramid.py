"""Training at several scales: SNIP and its baseline, multi-scale training.

Singh and Davis 2018, *An Analysis of Scale Invariance in Object Detection – SNIP*. One scale a step; objects outside
the range of a scale take part in the assignment and are then left out; at the finest scale only chips that hold objects
of its range are shown.
"""

from __future__ import annotations

import math

import numpy as np

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.errors import ConfigError
from geosod.scene import Window
from geosod.scenes.view import at_scale
from geosod.setting_types import LevelSetting
from geosod.training.config import TrainConfig
from geosod.training.samples import Centres, Sample, window_around
from geosod.training.training_set import TrainingSet


class PyramidSampler:
    """Windows at one of several scales a step.

    Args:
        data: the images.
        config: `levels`, `chips`, `tile`, `batch`, `negatives`, `balance`, `seed`.

    Raises:
        ConfigError: no object is in the range of any level.
    """

    def __init__(self, data: TrainingSet, config: TrainConfig) -> None:
        assert config.levels is not None
        self._data, self._config = data, config
        finest = max(float(level.scale) for level in config.levels)
        made = [_Level(data, config, level, chips=config.chips and level.scale == finest) for level in config.levels]
        self._levels = [level for level in made if level.objects]
        if not self._levels:
            raise ConfigError(f"levels: none of {len(data.objects)} objects has a size that a level counts")

    def batch(self, step: int) -> list[Sample]:
        """The samples of a step, all of one scale."""
        c = self._config
        rng = np.random.default_rng([c.seed, step])
        level = self._levels[int(rng.integers(len(self._levels)))]
        return [level.sample(rng, (c.seed, step, k)) for k in range(c.batch)]


class _Level:
    """What may be shown at one scale."""

    def __init__(self, data: TrainingSet, config: TrainConfig, level: LevelSetting, *, chips: bool) -> None:
        self._data, self._config = data, config
        self._scale = float(level.scale)
        self._sizes = sizes_of(level)
        rows = data.objects[within(data.labels.boxes[data.objects], self._sizes)]
        self._rows = rows
        # Pairs of image and scale without an object of the range are never shown.
        anywhere = config.negatives if self._sizes is None else None
        self._centres = Centres(data, rows, balance=config.balance, anywhere=anywhere)
        self._chips = chips_of(data, rows, self._scale, config.tile, config.seed) if chips and self._sizes else None

    @property
    def objects(self) -> int:
        """Number of objects that count at this scale."""
        return len(self._rows)

    def sample(self, rng: np.random.Generator, seed: tuple[int, ...]) -> Sample:
        """A chip, or a window around an object of the range; without ranges some are anywhere."""
        if self._chips is not None:
            image, window = self._chips[int(rng.integers(len(self._chips)))]
        else:
            image, centre = self._centres(rng)
            size, factor = frame(self._data, image, self._scale)
            window = window_around(centre * factor, self._config.tile, size, rng)
        return Sample(image, self._scale, window, (window.width, window.height), seed, self._sizes)


def frame(data: TrainingSet, image: int, scale: float) -> tuple[FloatArray, FloatArray]:
    """(2,) width and height of an image at a scale in pixels, and (2,) pixels of that frame for one of the image."""
    scene = data.scenes[image]
    scaled = scene if scale == 1 else at_scale(scene, scale)
    size = np.array([scaled.width, scaled.height], np.float64)
    return size, size / np.array([scene.width, scene.height])


def sizes_of(level: LevelSetting) -> tuple[float, float] | None:
    """The range of √area, in pixels of an image, that counts at a scale; None for all."""
    return None if level.sizes is None else (level.sizes[0], level.sizes[1] or math.inf)


def within(boxes: FloatArray, sizes: tuple[float, float] | None) -> BoolArray:
    """(N,) which boxes have a size in a range."""
    side = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    return np.ones(len(boxes), np.bool_) if sizes is None else (side >= sizes[0]) & (side <= sizes[1])


def chips_of(
    data: TrainingSet, rows: IntArray, scale: float, tile: tuple[int, int], seed: int
) -> list[tuple[int, Window]]:
    """Windows that together show each of some objects whole, where a window can.

    Around an object that no chip shows yet a window is placed at random, until all are shown (SNIP, section 5.3). The
    windows lie inside the images.

    Args:
        data: the images.
        rows: the objects.
        scale: pixels for one of an image.
        tile: (width, height) of a chip in pixels of that scale.
        seed: of the random numbers.
    """
    rng = np.random.default_rng([seed, 2])
    chips: list[tuple[int, Window]] = []
    order = np.argsort(data.labels.image[rows], kind="stable")
    groups = np.split(rows[order], np.flatnonzero(np.diff(data.labels.image[rows][order])) + 1)
    for mine in groups if len(rows) else []:
        image = int(data.labels.image[mine[0]])
        size, factor = frame(data, image, scale)
        boxes = data.labels.boxes[mine] * np.tile(factor, 2)
        boxes = np.clip(boxes, 0, np.tile(size, 2))
        # From top to bottom, so that a chip is compared with the objects of its rows alone.
        boxes = boxes[np.argsort(boxes[:, 1], kind="stable")]
        left = np.ones(len(boxes), np.bool_)
        for one in rng.permutation(len(boxes)):
            if left[one]:
                window = _whole_in_window(boxes[one], tile, size, rng)
                first, last = np.searchsorted(boxes[:, 1], (window.row, window.bottom))
                left[first:last] &= ~_shows(window, boxes[first:last])
                left[one] = False
                chips.append((image, window))
    return chips


def _shows(window: Window, boxes: FloatArray) -> BoolArray:
    """(N,) which boxes lie in a window as a whole."""
    low, high = np.array([window.col, window.row]), np.array([window.right, window.bottom])
    return np.asarray((boxes[:, :2] >= low).all(axis=1) & (boxes[:, 2:] <= high).all(axis=1))


def _whole_in_window(box: FloatArray, tile: tuple[int, int], size: FloatArray, rng: np.random.Generator) -> Window:
    """A window at random that holds a box, as far as it can, and lies inside the image."""
    start, length = [], []
    for k in range(2):
        side = min(tile[k], int(size[k]))
        # The first and the last start at which the box is inside.
        low, high = int(np.ceil(box[k + 2])) - side, int(np.floor(box[k]))
        first = int(rng.integers(min(low, high), max(low, high) + 1))
        start.append(int(np.clip(first, 0, int(size[k]) - side)))
        length.append(side)
    return Window(start[0], start[1], length[0], length[1])
