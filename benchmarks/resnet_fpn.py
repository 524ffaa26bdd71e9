"""A plain detector network with random weights: ResNet-18 (He et al. 2016), a feature pyramid, a head at stride 4."""

from __future__ import annotations

import copy
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from geosod.detectors.zoo.fpn import SmallFPN

#: Channels of the pyramid and of the head.
WIDTH = 128


class ResNetFPN(nn.Module):
    """The raw maps of `SmallFPN`, (B, classes + 4, H / 4, W / 4), from torchvision's ResNet-18.

    H and W of the images (B, bands, H, W) are multiples of 32.
    """

    def __init__(self, *, bands: int, classes: int) -> None:
        from torchvision.models import resnet18

        super().__init__()
        body = resnet18(weights=None)
        first = nn.Conv2d(bands, 64, 7, 2, 3, bias=False)
        self.stem = nn.Sequential(first, body.bn1, body.relu, body.maxpool)
        self.levels = nn.ModuleList([body.layer1, body.layer2, body.layer3, body.layer4])
        self.lateral = nn.ModuleList(nn.Conv2d(n, WIDTH, 1) for n in (64, 128, 256, 512))
        self.head = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU()
        )
        self.out = nn.Conv2d(WIDTH, classes + 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.stem(x)]
        for level in self.levels:
            maps.append(level(maps[-1]))
        top = self.lateral[3](maps[4])
        for i in (2, 1, 0):
            top = self.lateral[i](maps[i + 1]) + F.interpolate(top, scale_factor=2.0, mode="nearest")
        raw: Tensor = self.out(self.head(top))
        return raw

    def fused(self) -> ResNetFPN:
        """A copy in eval mode; folding of normalisation is left to the runtimes, as in a network of a user's."""
        return copy.deepcopy(self).eval().requires_grad_(False)

    def exported(self, precision: str) -> ResNetFPN:  # noqa: ARG002
        """As `fused`."""
        return self.fused()

    def decode(self, raw: Tensor, *, size: tuple[int, int], threshold: float, topk: int) -> Any:
        """As the zoo's pyramid."""
        return SmallFPN.decode(self, raw, size=size, threshold=threshold, topk=topk)  # type: ignore[arg-type]

    stride, candidates_per_box = SmallFPN.stride, SmallFPN.candidates_per_box
