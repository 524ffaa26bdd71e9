"""What an evaluation compares: the labels and the detections of the same images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from geosod.arrays import FloatArray, IntArray
from geosod.datasets.labels import Labels
from geosod.detections import Detections
from geosod.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Comparison:
    """Labels and detections of a set of images.

    Attributes:
        truth: N labelled boxes. Crowds and ignored boxes count neither as found nor as missed.
        found: M detections, pixels of full resolution of their image; `Detections.labels` index `truth.classes`.
        image: (M,) int64, index of each detection's image in `truth.images`.

    Raises:
        ConfigError: the columns do not belong together.
    """

    truth: Labels
    found: Detections
    image: IntArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "image", np.ascontiguousarray(self.image, np.int64))
        if self.image.shape != (len(self.found),):
            raise ConfigError(f"Comparison: {len(self.found)} detections need as many images, got {self.image.shape}")
        for name, column, count in (
            ("image", self.image, len(self.truth.images)),
            ("label", self.found.labels, len(self.truth.classes)),
        ):
            if len(column) and not (column.min() >= 0 and column.max() < count):
                raise ConfigError(
                    f"Comparison: a detection has {name} {column[(column < 0) | (column >= count)][0]}, but the labels "
                    f"have {count}; they count from 0"
                )
        for name, values in (("boxes", self.found.boxes), ("scores", self.found.scores)):
            if not np.isfinite(values).all():
                raise ConfigError(f"Comparison: {name} of detections hold values that are not finite; drop those rows")

    @classmethod
    def of_images(cls, truth: Labels, found: Mapping[str, Detections]) -> Comparison:
        """From the detections of each image, by its `LabelledImage.id`; images that are left out have none.

        Raises:
            ConfigError: an image is not in the labels.
        """
        position = {image.id: i for i, image in enumerate(truth.images)}
        if unknown := [name for name in found if name not in position]:
            raise ConfigError(f"Comparison: image {unknown[0]!r} is not in the labels")
        image = [np.full(len(part), position[name], np.int64) for name, part in found.items()]
        return cls(truth, Detections.concat(found.values()), np.concatenate([*image, np.zeros(0, np.int64)]))

    @cached_property
    def found_area(self) -> FloatArray:
        """(M,) float64, areas of the detections in square pixels."""
        boxes = self.found.boxes
        return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))

    @cached_property
    def order(self) -> IntArray:
        """(M,) int64, detections by image, then class, then descending score; ties stay in their order."""
        return np.lexsort((-self.found.scores, self.found.labels, self.image)).astype(np.int64)

    @cached_property
    def rank(self) -> IntArray:
        """(M,) int64, how many detections of its image and class precede each one in `order`."""
        return rank_within(self.order, self.image, self.found.labels)

    @cached_property
    def rank_in_image(self) -> IntArray:
        """(M,) int64, how many detections of its image, of any class, have a higher score or the same and precede."""
        return rank_within(np.lexsort((self.found.labels, -self.found.scores, self.image)), self.image)


def rank_within(order: IntArray, *groups: npt.NDArray[np.integer]) -> IntArray:
    """(M,) int64, place of each row among the rows of its group, which are consecutive in `order`."""
    n = len(order)
    first = np.ones(n, np.bool_)
    if n:
        first[1:] = np.any([group[order[1:]] != group[order[:-1]] for group in groups], axis=0)
    start = np.maximum.accumulate(np.where(first, np.arange(n), 0)) if n else np.zeros(0, np.int64)
    rank = np.empty(n, np.int64)
    rank[order] = np.arange(n) - start
    return rank
