"""Backbones: images to four maps, of stride 4, 8, 16 and 32, or of half of these."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from geosod.detectors.zoo.norms import set_norm
from geosod.errors import ConfigError

#: Name → "module:class" of a torch module, built with keywords name, bands, stem_stride and width. It has `channels` of
#: its four maps, the name of its first convolution, `first`, and `mean` and `std` of its red, green and blue inputs.
BACKBONES = {
    "slim": "geosod.detectors.zoo.backbones.slim:Slim",
    "efficientnet-lite0": "geosod.detectors.zoo.backbones.lite0:EfficientNetLite0",
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101"), "geosod.detectors.zoo.backbones.resnet:ResNet"),
}


class Backbone(nn.Module):
    """A backbone with the normalisation of its input.

    Args:
        name: one of `BACKBONES`.
        bands: channels of the input. Public weights are for three, red, green and blue, which then come first.
        stem_stride: stride of the first convolution. 1 halves all strides: the first map has stride 2. Objects of a few
            pixels keep twice as many cells, for about four times the computation; enlarging the tiles twice, with the
            `upscale` of a card's input, costs the same and suits weights that were trained with stride 2 better
            (Singh and Davis 2018).
        norm: "batch", "frozen" or "group", see `geosod.detectors.zoo.norms`.
        width: channels of the first map of "slim"; the others ignore it.

    Attributes:
        channels: of the four maps.
        strides: of the four maps, in pixels of the input.

    Raises:
        ConfigError: an argument is out of range.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, *, bands: int, stem_stride: int = 2, norm: str = "batch", width: int = 24) -> None:
        super().__init__()
        if name not in BACKBONES:
            raise ConfigError(f"backbone={name!r} is none of {', '.join(BACKBONES)}")
        if bands < 1 or stem_stride not in (1, 2) or width < 4:
            raise ConfigError(
                f"backbone {name}: bands={bands} must be at least 1, stem_stride={stem_stride} 1 or 2, and "
                f"width={width} at least 4"
            )
        module, kind = BACKBONES[name].split(":")
        self.body: Any = getattr(import_module(module), kind)(
            name=name, bands=bands, stem_stride=stem_stride, width=width
        )
        set_norm(self.body, norm)
        self.channels: tuple[int, ...] = self.body.channels
        self.strides = tuple(2 * stem_stride * 2**i for i in range(4))
        for what in ("mean", "std"):
            values = torch.tensor(_per_band(getattr(self.body, what), bands))[:, None, None]
            self.register_buffer(what, values, persistent=False)

    @property
    def first(self) -> str:
        """Name of the weight of the first convolution in the backbone's state dict."""
        return f"body.{self.body.first}.weight"

    def forward(self, x: Tensor) -> list[Tensor]:
        """Four maps of images (B, bands, H, W) scaled to about 0 ... 1; H and W are multiples of 32."""
        if self.body.normalised:
            x = (x - self.mean) / self.std
        maps: list[Tensor] = self.body(x)
        return maps


def _per_band(rgb: tuple[float, float, float], bands: int) -> list[float]:
    """Values for red, green and blue, and their mean for further bands; the mean alone where there is no such three."""
    mean = sum(rgb) / 3
    return [*rgb, *[mean] * (bands - 3)] if bands >= 3 else [mean] * bands


def inflated(weight: Tensor, bands: int) -> Tensor:
    """The weight (outer, 3, k, k) of a first convolution for red, green and blue, for another number of bands.

    Further bands get the mean over the three, and fewer than three bands all do. Weights are scaled by 3 / bands: where
    bands show much the same, as those of images do, sums have the size that the layers above are used to.
    """
    if bands == 3:
        return weight
    mean = weight.mean(dim=1, keepdim=True)
    kept = weight if bands > 3 else weight[:, :0]
    return torch.cat([kept, mean.expand(-1, bands - kept.shape[1], -1, -1)], dim=1) * (3 / bands)
