"""Arrays that a user passes to a detector, as tiles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, PixelArray, percentile_limits
from geosod.detectors.card import ModelCard
from geosod.errors import ModelError
from geosod.scene import TileBatch, channels_first
from geosod.tile_size import MAX_SIDE, STRIDE


def tiles_of(array: PixelArray, card: ModelCard, *, any_size: bool, any_shape: bool = False) -> Iterator[TileBatch]:
    """Every image of an array as a batch of one tile, filled up with invalid pixels.

    To a multiple of 32, as small scenes are; or up to the card's tile size, if the network takes no other and the image
    fits into it. Where the network takes any shape, an image that is larger than a tile stays as it is.

    Args:
        array: (C, H, W), (N, C, H, W), or channels last where only that fits.
        card: bands, pixel type and limits.
        any_size: whether the network takes images of any size in multiples of 32.
        any_shape: whether the network, or what comes before it, resizes images of any shape.

    Raises:
        ModelError: the array does not fit the card.
    """
    masked = np.ma.isMaskedArray(array)
    pixels = array if masked else np.asarray(array)
    if pixels.ndim not in (3, 4):
        raise ModelError(f"an array of shape {pixels.shape} is not an image; pass (C, H, W) or (N, C, H, W)")
    if card.scaling == "stored" and pixels.dtype != np.dtype(card.dtype):
        raise ModelError(
            f"pixels are {pixels.dtype}, but {card.name} was trained on {card.dtype}; convert them on purpose, "
            f"such as image.astype({card.dtype!r})"
        )
    images = pixels if pixels.ndim == 4 else pixels[None]
    for image in images:
        yield _tile(channels_first(image, len(card.bands)), card, any_size=any_size, any_shape=any_shape)


def _tile(image: PixelArray, card: ModelCard, *, any_size: bool, any_shape: bool) -> TileBatch:
    bands, height, width = image.shape
    if min(height, width) < 1 or max(height, width) > MAX_SIDE:
        raise ModelError(
            f"an image of {width} x {height} pixels does not fit a tile of at most {MAX_SIDE} x {MAX_SIDE}; use "
            "geosod.detect(image, model=...), which cuts it into tiles"
        )
    finite = np.asarray(np.isfinite(np.ma.getdata(image)).all(axis=0))
    finite &= ~np.ma.getmaskarray(image).any(axis=0)
    image = np.ma.getdata(image)
    tile_width, tile_height = card.tile_size
    shape = (tile_height, tile_width)
    if card.input.size is not None or any_shape:
        # It is resized in any case.
        shape = (max(height, tile_height), max(width, tile_width))
    elif any_size or height > tile_height or width > tile_width:
        shape = (-(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE)
    padded = np.zeros((1, bands, *shape), image.dtype)
    valid = np.zeros((1, *padded.shape[2:]), np.bool_)
    padded[0, :, :height, :width] = np.where(finite, image, 0)
    valid[0, :height, :width] = finite
    size = np.array([[width, height]], np.int64)
    windows = np.array([[0, 0, width, height]], np.int64)
    return TileBatch(padded, windows, valid, size, _limits(image, finite, card))


def _limits(image: PixelArray, valid: BoolArray, card: ModelCard) -> npt.NDArray[np.float32] | None:
    """(1, C, 2) limits of the image where the card states percentiles; None where it states values."""
    if card.scaling != "percentile" or not valid.any():
        return None
    pairs = zip(image, zip(card.minimum, card.maximum, strict=True), strict=True)
    return np.array([[percentile_limits(band[valid], pair) for band, pair in pairs]], np.float32)
