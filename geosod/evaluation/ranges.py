"""Properties of objects by which figures are broken down: size on the ground, distance to the border of a tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from geosod.arrays import FloatArray
from geosod.errors import ConfigError
from geosod.evaluation.average_precision import ValueRange
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.found_scenes import Tiling
from geosod.tiling.grid import make_grid

#: Limits of √area in metres between which objects are reported.
METRES = (2.5, 5.0, 10.0, 20.0, 40.0)
#: Limits of the distance to the border of a tile in pixels.
BORDER = (0.0, 16.0, 64.0)


def metre_ranges(comparison: Comparison, limits: Sequence[float] = METRES) -> Iterator[ValueRange]:
    """Objects by √area on the ground, of images whose pixel size is known.

    Args:
        comparison: labels and detections.
        limits: metres, ascending.

    Raises:
        ConfigError: the limits do not ascend.
    """
    if not limits or not all(0 < a < b for a, b in pairwise([*limits, np.inf])):
        raise ConfigError(f"sizes {', '.join(f'{v:g}' for v in limits)}: limits are above 0 m and ascend")
    sizes = [image.metres_per_pixel or (np.nan, np.nan) for image in comparison.truth.images]
    pixel = np.sqrt(np.prod(np.array(sizes, np.float64).reshape(-1, 2), axis=1))
    truth = np.sqrt(comparison.truth.area) * pixel[comparison.truth.image]
    found = np.sqrt(np.maximum(comparison.found_area, 0)) * pixel[comparison.image]
    yield from _between("m", limits, truth, found, low=0.0)


def border_ranges(
    comparison: Comparison, tilings: Sequence[Tiling | None], limits: Sequence[float] = BORDER
) -> Iterator[ValueRange]:
    """Objects by their distance to the border of the tile that shows them best.

    Args:
        comparison: labels and detections.
        tilings: of each image; None where it is not known.
        limits: pixels, ascending. A negative distance is that of objects that no tile shows whole.
    """
    truth, found = np.full(len(comparison.truth), np.nan), np.full(len(comparison.found), np.nan)
    for i, (image, tiling) in enumerate(zip(comparison.truth.images, tilings, strict=True)):
        if tiling is None:
            continue
        for image_of, boxes, target in (
            (comparison.truth.image, comparison.truth.boxes, truth),
            (comparison.image, comparison.found.boxes, found),
        ):
            rows = np.flatnonzero(image_of == i)
            target[rows] = border_distance(boxes[rows], (image.width, image.height), tiling)
    yield from _between("px", limits, truth, found, low=-np.inf)


def border_distance(boxes: FloatArray, size: tuple[int, int], tiling: Tiling) -> FloatArray:
    """Distance of boxes to the nearest border of a tile, in the tile where that is largest.

    Borders of the scene are no borders of a tile. In a scene of one tile every distance is infinite.

    Args:
        boxes: (N, 4) ``x0, y0, x1, y1``, pixels of the file.
        size: width and height of the scene, pixels of the file.
        tiling: how it was cut.

    Returns:
        (N,) float64, pixels of the file; negative for boxes that no tile shows whole.
    """
    width, height = (max(1, round(side * scale)) for side, scale in zip(size, tiling.scale, strict=True))
    grid = make_grid(width, height, tile=tiling.tile, overlap=tiling.overlap)
    result = np.full(len(boxes), np.inf)
    for axis, (starts, side, length) in enumerate(
        ((grid.x_starts, grid.tile[0], width), (grid.y_starts, grid.tile[1], height))
    ):
        scale, best = tiling.scale[axis], np.full(len(boxes), -np.inf)
        for start in starts:
            before = boxes[:, axis] - start / scale if start > 0 else np.inf
            after = (start + side) / scale - boxes[:, axis + 2] if start + side < length else np.inf
            best = np.maximum(best, np.minimum(before, after))
        result = np.minimum(result, best)
    return result


def _between(
    unit: str, limits: Sequence[float], truth: FloatArray, found: FloatArray, *, low: float
) -> Iterator[ValueRange]:
    """A range below the first limit, one between each two, and one from the last on; each begins with its limit."""
    for start, end in pairwise([low, *limits, np.inf]):
        if start == low:
            name = f"< {end:g} {unit}"
        else:
            name = f">= {start:g} {unit}" if end == np.inf else f"{start:g}-{end:g} {unit}"
        yield ValueRange(name, start, end if end == np.inf else float(np.nextafter(end, -np.inf)), truth, found)
