"""Feature vectors of tiles: what they look like to a network, or what kind of surface they show."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from geosod.detectors.detector import Detector, torch_settings
from geosod.detectors.radiometry import scaled_tiles
from geosod.detectors.resize import network_input
from geosod.scene import TileBatch
from geosod.tile_size import STRIDE

#: Shares of the valid pixels of a band, and distances in pixels over which it is differenced.
_QUANTILES, _STEPS = (0.05, 0.5, 0.95), (1, 2, 4)
#: Quantiles are those of about so many pixels.
_MAX_PIXELS = 1 << 14


def tile_features(detector: Detector, batch: TileBatch) -> npt.NDArray[np.float32]:
    """(N, D) float32 feature vectors of the N tiles of a batch.

    They are the mean and standard deviation of each channel of the maps of the network's backbone, over valid pixels,
    where the network is one of the zoo that has a backbone. For other networks they describe the pixels: for each band
    the standard deviation, three quantiles, and mean differences of pixels 1, 2 and 4 apart.

    Args:
        detector: whose radiometry and backbone are used.
        batch: tiles of the bands of its card, of any size.
    """
    # One by one, so that the vector of a tile does not depend on which others come with it.
    with torch_settings(detector.execution), torch.inference_mode():
        found = [_features(detector, batch[k : k + 1]) for k in range(len(batch))]
    return np.stack(found) if found else np.empty((0, 0), np.float32)


def _features(detector: Detector, tile: TileBatch) -> npt.NDArray[np.float32]:
    device = torch.device(detector.execution.device)
    scaled = scaled_tiles(tile, detector.card, size=1, device=device)
    height, width = scaled.shape[2:]
    shown = np.ones((1, height, width), np.bool_) if tile.valid is None else tile.valid
    valid = torch.from_numpy(np.ascontiguousarray(shown)).to(device)[:, None].float()
    right, bottom = -width % STRIDE, -height % STRIDE
    if right or bottom:
        scaled = F.pad(scaled, (0, right, 0, bottom), value=detector.card.input.fill)
        valid = F.pad(valid, (0, right, 0, bottom))
    backbone = getattr(detector.adapter, "backbone_maps", None)
    maps = None if backbone is None else backbone(network_input(scaled.clone(), detector.card)[0])
    values = list(_surface(scaled[0], valid[0, 0])) if maps is None else list(_pooled(maps, valid))
    return torch.cat(values).cpu().numpy().astype(np.float32)


def _pooled(maps: list[Tensor], valid: Tensor) -> Iterator[Tensor]:
    """Mean and standard deviation (C,) of each channel of maps (1, C, h, w), weighted by the share of valid pixels."""
    for values in maps:
        weight = F.interpolate(valid, size=values.shape[2:], mode="area")
        total = weight.sum().clamp(min=1e-6)
        mean = (values * weight).sum(dim=(2, 3), keepdim=True) / total
        yield mean.flatten()
        yield (((values - mean) ** 2 * weight).sum(dim=(2, 3)) / total).sqrt().flatten()


def _surface(values: Tensor, valid: Tensor) -> Iterator[Tensor]:
    """Descriptors (C,) of the bands of a tile (C, H, W)."""
    inside = values[:, valid > 0]
    if not inside.shape[1]:
        inside = values.flatten(1)
    yield inside.std(dim=1, unbiased=False)
    sample = inside[:, :: max(1, inside.shape[1] // _MAX_PIXELS)].float()
    yield from torch.quantile(sample, torch.tensor(_QUANTILES, device=values.device), dim=1)
    for step in _STEPS:
        both = valid[:, step:] * valid[:, :-step]
        across = ((values[:, :, step:] - values[:, :, :-step]).abs() * both).sum(dim=(1, 2))
        yield across / both.sum().clamp(min=1)
        both = valid[step:] * valid[:-step]
        down = ((values[:, step:] - values[:, :-step]).abs() * both).sum(dim=(1, 2))
        yield down / both.sum().clamp(min=1)
