"""What networks that predict at every place of a feature pyramid have in common."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from geosod.detectors.zoo.backbones import Backbone
from geosod.detectors.zoo.norms import folded, group_norm
from geosod.detectors.zoo.pyramid import Fusion, Pyramid
from geosod.errors import ConfigError

#: Logit of the first predictions, 1 %: it keeps the first steps from being swamped by empty places (Lin et al. 2017).
PRIOR_LOGIT = -4.6


class ZooNetwork(nn.Module):
    """What networks need besides their maps and their decoding."""

    def fused(self) -> Self:
        """A copy for inference, in eval mode, with batch normalisation folded into convolutions."""
        return folded(self)

    def exported(self, precision: str) -> Self:  # noqa: ARG002
        """The module to make a graph of, for a runtime that computes it in a precision."""
        return folded(self)


class PyramidNetwork(ZooNetwork):
    """A backbone and a feature pyramid, for a head of a subclass.

    Args:
        bands: channels of the input.
        classes: number of classes.
        backbone, stem_stride, norm, width: see `Backbone`.
        channels, fusion, sigma: of the pyramid, see `Pyramid`.

    Attributes:
        strides: of the levels P2 to P6, in pixels of the input.

    Raises:
        ConfigError: an argument is out of range.
    """

    #: Boxes decoded for each that may be kept, before suppression inside the tile: neighbouring places find one object.
    candidates_per_box = 10
    #: Whether the head needs P2 alone.
    only_finest = False

    def __init__(
        self,
        *,
        bands: int,
        classes: int,
        backbone: str = "resnet50",
        stem_stride: int = 2,
        norm: str = "batch",
        width: int = 24,
        channels: int = 256,
        fusion: Fusion = 1.0,
        sigma: float = 1.0,
    ) -> None:
        super().__init__()
        check_classes(classes)
        self.bands, self.classes, self.channels = bands, classes, channels
        self.backbone = Backbone(backbone, bands=bands, stem_stride=stem_stride, norm=norm, width=width)
        self.fpn = Pyramid(self.backbone.channels, channels, fusion=fusion, sigma=sigma, only_finest=self.only_finest)
        self.strides = (*self.backbone.strides, 2 * self.backbone.strides[-1])

    def levels(self, images: Tensor) -> list[Tensor]:
        """P2 to P6, or P2 alone, of images (B, bands, H, W) scaled to about 0 ... 1; H and W are multiples of 32."""
        maps: list[Tensor] = self.fpn(self.backbone(images))
        return maps


def check_classes(classes: int) -> None:
    """Refuse a network without classes.

    Raises:
        ConfigError: there is none.
    """
    if classes < 1:
        raise ConfigError(f"classes={classes} must be at least 1")


class Tower(nn.Sequential):
    """Convolutions of 3 x 3 with ReLU, that all levels share; with group normalisation where `norm` is "group"."""

    def __init__(self, channels: int, count: int, *, norm: str) -> None:
        if norm not in ("none", "group") or count < 0:
            raise ConfigError(f"head_norm={norm!r} must be 'none' or 'group', and tower={count} at least 0")
        parts: list[nn.Module] = []
        for _ in range(count):
            grouped = [group_norm(channels)] if norm == "group" else []
            parts += [head_convolution(channels, channels), *grouped, nn.ReLU(inplace=True)]
        super().__init__(*parts)


def head_convolution(inner: int, outer: int, *, bias: float = 0.0) -> nn.Conv2d:
    """A convolution of 3 x 3 with small weights, as the heads of RetinaNet and FCOS have."""
    made = nn.Conv2d(inner, outer, 3, padding=1)
    nn.init.normal_(made.weight, std=0.01)
    nn.init.constant_(made.bias, bias)  # type: ignore[arg-type]
    return made


def places(maps: Tensor, values: int) -> Tensor:
    """Maps (B, A · values, h, w) → (B, h · w · A, values), by row, column and A."""
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, values)


def best_places(values: Tensor, topk: int) -> tuple[Tensor, Tensor, Tensor]:
    """The highest of (B, N, classes).

    Returns:
        (B, K) values, descending; (B, K) int64, their places of N; and (B, K) int64, their classes. K is `topk`, or the
        number of values if that is less.
    """
    count, classes = values.shape[1:]
    best, index = values.flatten(1).topk(min(topk, count * classes), dim=1)
    return best, index.div(classes, rounding_mode="floor"), index % classes


def at_places(values: Tensor, place: Tensor) -> Tensor:
    """(B, K, C), the rows of (B, N, C) at (B, K)."""
    return values.gather(1, place[..., None].expand(-1, -1, values.shape[2]))


def probabilities(logits: Tensor) -> Tensor:
    """Sigmoid, float32, computed in float64.

    Vector and scalar code differ in the last bit, and which of them runs depends on where in a batch a tile is.
    """
    return logits.double().sigmoid().float()


def above(scores: Tensor, threshold: float) -> Tensor:
    """Scores, -inf for those below a threshold or not a number."""
    return torch.where(scores >= threshold, scores, torch.full_like(scores, -torch.inf))
