"""Pixel values of a scene to fractions of the card's range."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geosod.detectors.card import ModelCard
from geosod.detectors.network_input import NetworkInput
from geosod.scene import TileBatch


def card_limits(card: ModelCard) -> npt.NDArray[np.float32]:
    """(C, 2) float32, the pixel values that are scaled to 0 and 1 in batches without limits."""
    return np.array([card.minimum, card.maximum], np.float32).T


def scaled_tiles(batch: TileBatch, card: ModelCard, *, size: int, device: torch.device) -> Tensor:
    """The tiles of a batch, with pixel values scaled to 0…1 between their limits.

    Args:
        batch: at most `size` tiles.
        card: limits for batches without limits, gamma, and the value of invalid pixels.
        size: number of tiles to return; zeros are added. The shape is always the same, so that the numbers of a tile
            do not depend on how many others came with it.
        device: where the result is.

    Returns:
        (size, C, H, W) float32, 0 to 1, and the fill value of the card's input (0 by default) where a pixel is invalid.
    """
    limits = np.empty((len(batch), len(card.bands), 2), np.float32)
    limits[:] = card_limits(card) if batch.limits is None else batch.limits
    pixels = torch.from_numpy(np.ascontiguousarray(batch.pixels)).to(device)
    scaled = _scaled(pixels, limits, card.gamma)
    if batch.valid is not None:
        # Invalid pixels have one value after scaling, whatever 0 means in the scene's units.
        valid = torch.from_numpy(np.ascontiguousarray(batch.valid)).to(device)[:, None]
        if card.input.fill == 0:
            scaled *= valid
        else:
            scaled.masked_fill_(~valid, card.input.fill)
    if len(batch) == size:
        return scaled
    padded = scaled.new_zeros((size, *scaled.shape[1:]))
    padded[: len(batch)] = scaled
    return padded


def byte_tiles(batch: TileBatch, card: ModelCard, *, size: int) -> Tensor | None:
    """The tiles of a batch in bytes, where `scaled_tiles` and the card's input would only divide them by 255.

    Args:
        batch: at most `size` tiles.
        card: limits, gamma and input.
        size: number of tiles to return; zeros are added.

    Returns:
        (size, C, H, W) uint8 on the CPU, 0 where a pixel is invalid; None where more is done to them. The card alone
        decides: all tiles of a model go one way, whichever share a batch.
    """
    if not card.whole_values or card.input != NetworkInput():
        return None
    if batch.valid is None and len(batch) == size:
        return torch.from_numpy(np.ascontiguousarray(batch.pixels))
    tiles = np.zeros((size, *batch.pixels.shape[1:]), np.uint8)
    np.multiply(batch.pixels, True if batch.valid is None else batch.valid[:, None], out=tiles[: len(batch)])
    return torch.from_numpy(tiles)


def _scaled(pixels: Tensor, limits: npt.NDArray[np.float32], gamma: float) -> Tensor:
    """Pixels (B, C, H, W) as fractions of the distance between their band's limits (B, C, 2), gamma applied."""
    span = torch.from_numpy(limits[..., 1] - limits[..., 0]).to(pixels.device)[..., None, None]
    # A copy, also of float32: what follows changes it in place.
    scaled = pixels.to(torch.float32, copy=True)
    if limits[..., 0].any():
        scaled.sub_(torch.from_numpy(limits[..., 0]).to(pixels.device)[..., None, None])
    scaled.div_(span)
    if pixels.dtype != torch.uint8 or limits[..., 0].max() > 0 or limits[..., 1].min() < 255:
        scaled.clamp_(0, 1)
    return scaled if gamma == 1 else scaled.pow_(1 / gamma)
