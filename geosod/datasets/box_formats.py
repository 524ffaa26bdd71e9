"""Boxes that were likely written in another format than they were read in: corners for sizes, relative for pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from geosod.arrays import BoolArray, FloatArray
from geosod.datasets.findings import Finding
from geosod.datasets.labels import Labels
from geosod.datasets.problems import Problems

#: Another format is likely where so many boxes fit their image in it, and at least so many do not as they were read.
_FITS, _MISFITS = 0.99, 0.02
#: Relative coordinates are at most this; images are larger than so many pixels.
_MAX_RELATIVE, _MIN_IMAGE = 2.0, 32
_MIN_BOXES = 5


def format_findings(labels: Labels, problems: Problems) -> Iterator[Finding]:
    """Findings on the format of the boxes; at most one of another format, the likeliest first."""
    negative = sum("negative" in one.message for one in problems.found)
    if negative >= max(_MIN_BOXES, 0.2 * (len(labels) + negative)):
        message = (
            f"{negative:,} boxes have a negative size: they may be x, y, width, height in a format of corners, or "
            "corners in the wrong order"
        )
        yield Finding("box_format", "error", negative, message)
    if labels.points or len(labels) < _MIN_BOXES:
        return
    size = np.array([(image.width, image.height) for image in labels.images], np.float64)[labels.image]
    boxes = labels.boxes
    if np.abs(boxes).max() <= _MAX_RELATIVE and (size > _MIN_IMAGE).all():
        message = "all boxes lie within two pixels of the corner: they are likely relative to the size of the image"
        yield Finding("box_format", "error", len(labels), message)
        return
    outside = ~_inside(boxes, size)
    if outside.mean() < _MISFITS:
        return
    for other, meaning in _readings(boxes):
        fits = _inside(other, size) & (other[:, 2:] >= other[:, :2]).all(axis=1)
        if fits.mean() >= _FITS:
            message = (
                f"{int(outside.sum()):,} of {len(labels):,} boxes extend beyond their image, and {fits.mean():.1%} "
                f"would fit {meaning}"
            )
            yield Finding("box_format", "error", int(outside.sum()), message)
            return


def _inside(boxes: FloatArray, size: FloatArray) -> BoolArray:
    return np.asarray((boxes >= -1).all(axis=1) & (boxes[:, 2:] <= size + 1).all(axis=1))


def _readings(boxes: FloatArray) -> Iterator[tuple[FloatArray, str]]:
    """The same numbers in other formats, and what that would mean."""
    corner, wh = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    yield np.hstack([corner, wh]), "if their last two numbers were a corner (x0, y0, x1, y1), not a size"
    yield np.hstack([corner - wh / 2, corner + wh / 2]), "if their first two numbers were the centre, not a corner"
    yield boxes[:, [1, 0, 3, 2]], "if x and y were exchanged"
