"""A picture of prior boxes over labelled tiles: is every object overlapped by at least one?"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from geosod.arrays import percentile_limits
from geosod.datasets.image_files import scene_of
from geosod.datasets.labels import LabelledImage, Labels
from geosod.datasets.priors import Pyramid, best_priors
from geosod.datasets.sizes import counted_boxes, sides
from geosod.datasets.slice import Slicing, slice_labels
from geosod.datasets.statistics import IOUS, scaled_boxes
from geosod.datasets.tile_files import read_pixels
from geosod.errors import LabelError
from geosod.scene import Window
from geosod.viewing.pictures import contact_sheet, draw_crop

#: Dark and bright ends of the values of imagery that is not of 8 bits, in percent.
_STRETCH = (2.0, 98.0)
#: Tiles are enlarged to about this side.
_SIDE = 640


def draw_priors(
    labels: Labels, pyramid: Pyramid, slicing: Slicing, *, scale: float = 1.0, count: int = 4, seed: int = 0
) -> Any:
    """Tiles with their objects, dashed, and around each the prior box that overlaps it best, coloured by its level.

    Half of the tiles are those with the most objects that no prior reaches with an IoU of 0.5; the others are drawn at
    random. A caption says how many objects are missed.

    Args:
        labels: boxes whose images can be opened.
        pyramid: prior boxes in pixels of the network's input.
        slicing: tiles of training.
        scale: pixels of the network's input for one of a tile.
        count: number of tiles.
        seed: of the random numbers.

    Returns:
        A PIL image.

    Raises:
        LabelError: no tile shows an object.
        SceneError: an image cannot be read.
    """
    tiles = slice_labels(labels, slicing)
    tiles = tiles[counted_boxes(tiles) & (sides(tiles) > 0).all(axis=1)]
    boxes, inputs = scaled_boxes(tiles, scale)
    best = best_priors(boxes, inputs, pyramid)
    rows = tiles.by_image()
    missed = np.array([int((best.iou[mine] < IOUS[0]).sum()) for mine in rows], np.int64)
    chosen = _chosen(np.array([len(mine) for mine in rows]), missed, count, seed)
    if not len(chosen):
        raise LabelError("no tile shows an object, so there is nothing to draw")
    names = [f"stride {stride}" for stride in pyramid.strides]
    pictures, captions = [], []
    for k in chosen.tolist():
        image, mine = tiles.images[k], rows[k]
        pixels = _picture(image)
        zoom = max(1, _SIDE // max(pixels.shape[:2]))
        pictures.append(
            draw_crop(
                pixels,
                best.boxes[mine] / scale,
                best.level[mine],
                best.iou[mine],
                class_names=names,
                truth_boxes=tiles.boxes[mine],
                zoom=zoom,
                smooth=True,
            )
        )
        captions.append(f"{image.id}: {missed[k]:,} of {len(mine):,} objects below an IoU of {IOUS[0]:g}")
    return contact_sheet(pictures, columns=2, captions=captions)


def _chosen(objects: npt.NDArray[Any], missed: npt.NDArray[Any], count: int, seed: int) -> npt.NDArray[Any]:
    """Tiles with the most missed objects, then others at random."""
    filled = np.flatnonzero(objects)
    worst = filled[np.argsort(-missed[filled], kind="stable")][: (count + 1) // 2]
    others = np.setdiff1d(filled, worst)
    return np.concatenate([worst, np.random.default_rng(seed).permutation(others)[: count - len(worst)]])


def _picture(image: LabelledImage) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8, the first three bands of a tile, or the first one three times."""
    scene = scene_of(image)
    # A tile has the offset in its scene, of which the file may hold no more than the tile.
    whole = (scene.width, scene.height) == (image.width, image.height)
    col, row = (0, 0) if whole else image.offset
    pixels = read_pixels(scene, Window(col, row, image.width, image.height))
    bands = pixels[:3] if len(pixels) >= 3 else pixels[[0, 0, 0]]
    if bands.dtype != np.uint8:
        bands = np.stack([_stretched(band) for band in bands])
    return np.ascontiguousarray(bands.transpose(1, 2, 0))


def _stretched(band: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    low, high = percentile_limits(band[np.isfinite(band)], _STRETCH)
    return np.asarray(np.clip((band.astype(np.float64) - low) / (high - low), 0, 1) * 255).astype(np.uint8)
