"""ResNets (He et al. 2016) of torchvision's modules, under torchvision's names, so that its state dicts load."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class ResNet(nn.Module):
    """A ResNet of torchvision without its classifier."""

    first = "conv1"
    normalised = True
    #: Of the weights that torchvision publishes.
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, *, name: str, bands: int, stem_stride: int, width: int) -> None:  # noqa: ARG002
        super().__init__()
        from torchvision.models import resnet

        made: Any = getattr(resnet, name)(weights=None)
        self.conv1 = nn.Conv2d(bands, 64, 7, stem_stride, 3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1, self.relu, self.maxpool = made.bn1, made.relu, made.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = made.layer1, made.layer2, made.layer3, made.layer4
        grown = 1 if name in ("resnet18", "resnet34") else 4
        self.channels = tuple(n * grown for n in (64, 128, 256, 512))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Four maps, each of half the size of the one before."""
        maps = [self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))]
        for layer in (self.layer2, self.layer3, self.layer4):
            maps.append(layer(maps[-1]))
        return maps
