"""Boxes of a dense forest, as a detector would report them."""

from __future__ import annotations

import resource

import numpy as np

from geosod.arrays import FloatArray
from geosod.detections import Detections
from geosod.tiling.grid import Grid

#: Share of the ground that crowns cover, and boxes for each of them.
COVER, COPIES = 0.3, 3
TILE, OVERLAP = 1024, 96


def crowns(n: int, rng: np.random.Generator) -> tuple[FloatArray, float]:
    """(n, 4) boxes of objects, and the side of the square that they lie in."""
    side = rng.normal(30, 6, n).clip(10, 60)
    extent = float(np.sqrt((side**2).sum() / COVER))
    centre = rng.uniform(0, extent, (n, 2))
    return np.concatenate([centre - side[:, None] / 2, centre + side[:, None] / 2], axis=1), extent


def proposals(objects: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Three boxes per object, each with an independent error of about a pixel."""
    boxes = np.repeat(objects, COPIES, axis=0)
    return boxes + rng.normal(0, 1, boxes.shape)


def raw_boxes(n: int) -> Detections:
    """About `n` boxes of a forest."""
    rng = np.random.default_rng(0)
    boxes = proposals(crowns(n // COPIES, rng)[0], rng)
    scores = (1 + rng.permutation(len(boxes))) / len(boxes)
    return Detections(boxes=boxes, scores=scores, labels=np.zeros(len(boxes)))


def piled_boxes(n: int) -> Detections:
    """Boxes of about 100 pixels at one place, each shifted by some pixels."""
    rng = np.random.default_rng(0)
    boxes = np.array([0.0, 0, 100, 100]) + rng.normal(0, 5, (n, 4))
    return Detections(boxes=boxes, scores=(1 + rng.permutation(n)) / n, labels=np.zeros(n))


def tiled(grid: Grid, objects: FloatArray, rng: np.random.Generator) -> dict[tuple[int, int], Detections]:
    """The boxes of a detector for each tile: three for every object in it, clipped to it."""
    tiles = {}
    for i in range(grid.rows):
        top, bottom = grid.y_starts[i], grid.y_starts[i] + grid.tile_height
        band = objects[(objects[:, 1] < bottom - 2) & (objects[:, 3] > top + 2)]
        for j in range(grid.cols):
            left, right = grid.x_starts[j], grid.x_starts[j] + grid.tile_width
            seen = band[(band[:, 0] < right - 2) & (band[:, 2] > left + 2)]
            boxes = np.clip(proposals(seen, rng), (left, top) * 2, (right, bottom) * 2)
            boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
            inner = np.array([left > 0, top > 0, right < grid.width, bottom < grid.height])
            fragment = ((boxes == (left, top, right, bottom)) & inner) @ np.array([1, 2, 4, 8])
            tiles[top, left] = Detections(
                boxes=boxes, scores=rng.random(len(boxes)), labels=np.zeros(len(boxes)), fragment=fragment
            )
    return tiles


def merged(n: int) -> dict[str, float]:
    """Boxes that are kept of `n`, and the peak memory of this process in bytes."""
    from geosod.merging.merge import merge

    kept = len(merge(raw_boxes(n)))
    return {"kept": kept, "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
