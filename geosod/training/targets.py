"""What a batch says of the objects in its images: the input of every criterion besides the images themselves."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

#: Sides of boxes below it, in pixels, are none.
MIN_SIDE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Labelled objects of one image of a batch, in pixels of the network's input.

    Attributes:
        boxes: (N, 4) float32 ``x0, y0, x1, y1``; objects labelled by their centre have boxes as drawn by configuration.
        labels: (N,) int64, index into the classes; those of ignored objects may be -1, any class.
        ignored: (N,) bool; such an object takes part in the assignment, but is neither a positive nor a negative
            example (outside SNIP's range, ignored regions, crowds, boxes mostly cut off by the window).
        valid_range: (2,) float32 minimum and maximum of sqrt(area) in pixels of the network's input, of proposals that
            are examples (SNIP); None for any.
    """

    boxes: Tensor
    labels: Tensor
    ignored: Tensor
    valid_range: Tensor | None = None
