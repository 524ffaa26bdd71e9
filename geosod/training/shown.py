"""A sample that was read: its pixels, and the labels that it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.datasets.labels import ANY_CLASS
from geosod.detectors.network_input import Fit
from geosod.scene import Window
from geosod.training.pixels import PixelReader, Pixels, resized
from geosod.training.samples import Sample
from geosod.training.targets import Targets
from geosod.training.training_set import TrainingSet

#: Relative difference of sides that count as equal.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """Labels of a part of an image, in pixels of the part.

    Attributes:
        boxes: (N, 4) float64.
        labels: (N,) int64; `ANY_CLASS` for crowds and ignored regions.
        ignored: (N,) bool, neither examples of objects nor of background.
        sides: (N,) float64, √area of the whole object, also of what the part does not show.
    """

    boxes: FloatArray
    labels: IntArray
    ignored: BoolArray
    sides: FloatArray

    def __getitem__(self, index: BoolArray | IntArray) -> Objects:
        return Objects(self.boxes[index], self.labels[index], self.ignored[index], self.sides[index])

    @classmethod
    def concat(cls, parts: Sequence[Objects]) -> Objects:
        """All of some parts."""
        names = ("boxes", "labels", "ignored", "sides")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A sample that was read.

    Attributes:
        pixels: of the sample.
        objects: in it.
        sizes: range of √area of objects that count, in pixels of the sample; None for all.
        scale: pixels of the sample for one of its image.
    """

    pixels: Pixels
    objects: Objects
    sizes: tuple[float, float] | None = None
    scale: float = 1.0


def show(data: TrainingSet, reader: PixelReader, sample: Sample, *, min_visible: float) -> Shown:
    """Read a sample and its labels, without augmentation.

    Raises:
        SceneError: it cannot be read.
    """
    pixels = resized(reader.read(sample.image, sample.scale, sample.window), sample.size)
    scene = data.scenes[sample.image]
    scaled = reader.scene(sample.image, sample.scale)
    to_scale = np.array([scaled.width / scene.width, scaled.height / scene.height])
    to_size = np.array(sample.size) / np.array([sample.window.width, sample.window.height])
    objects = labels_in(data, sample.image, sample.window, to_scale, min_visible=min_visible)
    factor = float(np.sqrt(np.prod(to_size)))
    objects = replace(objects, boxes=objects.boxes * np.tile(to_size, 2), sides=objects.sides * factor)
    factor *= float(np.sqrt(np.prod(to_scale)))
    if sample.sizes is None:
        return Shown(pixels, objects, None, factor)
    return Shown(pixels, objects, (sample.sizes[0] * factor, sample.sizes[1] * factor), factor)


def labels_in(data: TrainingSet, image: int, window: Window, to_scale: FloatArray, *, min_visible: float) -> Objects:
    """The labels that a window shows, clipped to it.

    Args:
        data: the images.
        image: index of the image.
        window: in pixels of a scale.
        to_scale: (2,) pixels of that scale for one of the image.
        min_visible: boxes of which it shows a smaller share of the area are ignored.
    """
    labels = data.labels
    # A pixel more, for the roundings of scales.
    rows = data.rows[image].near(window.row / to_scale[1] - 1, window.bottom / to_scale[1] + 1)
    low = np.array([window.col, window.row], np.float64)
    size = np.array([window.width, window.height], np.float64)
    whole = labels.boxes[rows] * np.tile(to_scale, 2) - np.tile(low, 2)
    boxes = np.clip(whole, 0, np.tile(size, 2))
    area, shown = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (whole, boxes))
    share = np.divide(shown, area, out=np.zeros(len(rows)), where=area > 0)
    seen = share > 0
    rows, boxes, share, sides = rows[seen], boxes[seen], share[seen], np.sqrt(area[seen])
    # A region may hold any class, all over.
    region = labels.ignore[rows] | labels.crowd[rows]
    classes = np.where(region, ANY_CLASS, labels.labels[rows]).astype(np.int64)
    ignored = region | (classes == ANY_CLASS) | (share < min_visible)
    return Objects(boxes, classes, ignored, sides)


def targets(shown: Shown, fit: Fit) -> Targets:
    """What the criterion gets of a sample; objects outside its range of sizes are ignored, not background.

    Args:
        shown: the sample.
        fit: of the sample, or of the batch that it is at the top left of, in the network's input.
    """
    objects, ignored = shown.objects, shown.objects.ignored
    valid_range = None
    if shown.sizes is not None:
        # Limits and sides were scaled one by one: those that were equal may differ by a rounding.
        low, high = shown.sizes[0] * (1 - _ROUNDING), shown.sizes[1] * (1 + _ROUNDING)
        ignored = ignored | (objects.sides < low) | (objects.sides > high)
        factor = float(np.sqrt(fit.inner_width / fit.image_width * fit.inner_height / fit.image_height))
        valid_range = torch.tensor(shown.sizes, dtype=torch.float32) * factor
    return Targets(
        torch.from_numpy(fit.to_input(objects.boxes).astype(np.float32)),
        torch.from_numpy(objects.labels.astype(np.int64)),
        torch.from_numpy(np.ascontiguousarray(ignored)),
        valid_range,
    )
