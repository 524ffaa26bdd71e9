"""Tiles to the network's input: resizing, filling, order of bands and values; and boxes back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from geosod.detectors.card import ModelCard
from geosod.detectors.contract import RawBoxes
from geosod.detectors.network_input import Fit, NetworkInput

#: Parts of a weight in OpenCV's fixed-point arithmetic, as a power of two.
_OPENCV_BITS = 11


def network_input(tiles: Tensor, card: ModelCard) -> tuple[Tensor, Fit]:
    """Scaled tiles as a card's network expects them, and how boxes come back.

    Args:
        tiles: (B, C, H, W) float32, 0 to 1. They may be changed in place.
        card: of the model.
    """
    fit = card.input.fit(tiles.shape[3], tiles.shape[2])
    return prepare(tiles, card.input, fit, whole=card.whole_values), fit


def prepare(images: Tensor, spec: NetworkInput, fit: Fit, *, whole: bool) -> Tensor:
    """Tiles as the network expects them.

    Args:
        images: (B, C, H, W) float32, 0 to 1. They may be changed in place.
        spec: of the card.
        fit: of W × H pixels.
        whole: pixel values were whole numbers from 0 to 255, and are so again after resizing.

    Returns:
        (B, C, fit.height, fit.width) float32.
    """
    if not fit.is_identity:
        images = _letterboxed(_resized(images, spec, fit, whole=whole), spec, fit)
    if spec.reverse_bands:
        images = images.flip(1)
    if spec.scale != 1:
        images = images.mul_(spec.scale)
    if spec.mean:
        images = images.sub_(_by_band(spec.mean, spec, images))
    if spec.std:
        images = images.div_(_by_band(spec.std, spec, images))
    return images


def boxes_in_tile(raw: RawBoxes, fit: Fit) -> RawBoxes:
    """Boxes in pixels of the network's input as boxes in pixels of the tile."""
    if fit.is_identity or not len(raw.boxes):
        return raw
    scale = (fit.image_width / fit.inner_width, fit.image_height / fit.inner_height)
    device = raw.boxes.device
    factors = torch.tensor(scale * 2, dtype=torch.float64, device=device)
    corner = torch.tensor((fit.left, fit.top) * 2, dtype=torch.float64, device=device)
    boxes = (raw.boxes.double() - corner) * factors
    return RawBoxes(boxes.float(), raw.scores, raw.labels, raw.tile, raw.tiles, raw.broken)


def _by_band(values: Sequence[float], spec: NetworkInput, images: Tensor) -> Tensor:
    ordered = values[::-1] if spec.reverse_bands else values
    return torch.tensor(ordered, dtype=torch.float32, device=images.device)[:, None, None]


def _resized(images: Tensor, spec: NetworkInput, fit: Fit, *, whole: bool) -> Tensor:
    size = (fit.inner_height, fit.inner_width)
    if tuple(images.shape[2:]) == size:
        return images
    if not whole or spec.resampling == "antialias-float":
        antialias = spec.resampling in ("antialias", "antialias-float")
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=antialias)
    pixels = (images * 255).round_()
    if spec.resampling == "opencv":
        return _as_opencv(pixels, size).float().div_(255)
    if spec.resampling == "antialias" and not pixels.is_cuda:
        # torch resizes 8-bit images as Pillow does, to within one step in a few pixels of 100.
        pixels = F.interpolate(pixels.to(torch.uint8), size=size, mode="bilinear", antialias=True).float()
    else:
        antialias = spec.resampling == "antialias"
        pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=antialias).round_()
    return pixels.div_(255)


def _as_opencv(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) of whole numbers from 0 to 255, resized in the fixed-point arithmetic of cv2.resize.

    Weights have 11 bits; rows are weighted after 4 bits of the sums along columns are dropped.
    """
    height, width = pixels.shape[2:]
    x, x_weights = _taps(width, size[1], pixels.device)
    y, y_weights = _taps(height, size[0], pixels.device)
    whole = pixels.to(torch.int32)
    across = whole[..., x[0]] * x_weights[0] + whole[..., x[1]] * x_weights[1]
    across >>= 4
    first, second = (across[:, :, y[i]] * y_weights[i][:, None] >> 16 for i in range(2))
    return (first + second + 2) >> 2


def _taps(length: int, size: int, device: torch.device) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Indices and weights of the two pixels of `length` from which each of `size` is made."""
    at = ((np.arange(size) + 0.5) * (length / size) - 0.5).astype(np.float32)
    low = np.floor(at).astype(np.int64)
    share = at - low
    share[(low < 0) | (low >= length - 1)] = 0
    low = low.clip(0, length - 1)
    one = np.float32(1 << _OPENCV_BITS)
    weights = [np.rint(part * one).astype(np.int32) for part in (1 - share, share)]
    indices = [low, np.minimum(low + 1, length - 1)]
    first, second = (torch.from_numpy(array).to(device) for array in indices)
    one_, other = (torch.from_numpy(array).to(device) for array in weights)
    return (first, second), (one_, other)


def _letterboxed(images: Tensor, spec: NetworkInput, fit: Fit) -> Tensor:
    if fit.inner == (fit.width, fit.height):
        return images
    right, bottom = fit.width - fit.inner_width - fit.left, fit.height - fit.inner_height - fit.top
    return F.pad(images, (fit.left, right, fit.top, bottom), value=spec.fill)
