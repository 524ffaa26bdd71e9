"""ResNets (He et al. 2016, with the stride of a bottleneck in its 3 x 3 convolution), as torchvision computes them.

Names are torchvision's, so that its state dicts load. Its own modules take seconds to import.
"""

from __future__ import annotations

from torch import Tensor, nn

#: Name → blocks of the four stages, and how many times wider than its convolutions a block's output is.
_SIZES = {
    "resnet18": ((2, 2, 2, 2), 1),
    "resnet34": ((3, 4, 6, 3), 1),
    "resnet50": ((3, 4, 6, 3), 4),
    "resnet101": ((3, 4, 23, 3), 4),
}


def _conv(inner: int, outer: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    made = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made


class _Block(nn.Module):
    """Convolutions with a path around them: two of 3 x 3, or one between two of 1 x 1 (a bottleneck).

    Each stands before its normalisation, which is where that is looked for when it is folded.
    """

    def __init__(self, inner: int, width: int, outer: int, stride: int) -> None:
        super().__init__()
        deep = outer > width
        self.conv1, self.bn1 = _conv(inner, width, 1) if deep else _conv(inner, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride if deep else 1), nn.BatchNorm2d(width)
        self.conv3: nn.Module | None = _conv(width, outer, 1) if deep else None
        self.bn3: nn.Module | None = nn.BatchNorm2d(outer) if deep else None
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or inner != outer:
            self.downsample = nn.Sequential(_conv(inner, outer, 1, stride), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.conv3 is not None and self.bn3 is not None:
            y = self.bn3(self.conv3(self.relu(y)))
        out: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return out


def _stage(inner: int, width: int, outer: int, *, stride: int, count: int) -> nn.Sequential:
    further = [_Block(outer, width, outer, 1) for _ in range(count - 1)]
    return nn.Sequential(_Block(inner, width, outer, stride), *further)


class ResNet(nn.Module):
    """A ResNet without its classifier."""

    first = "conv1"
    normalised = True
    #: Of the weights that torchvision publishes.
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, *, name: str, bands: int, stem_stride: int, width: int) -> None:  # noqa: ARG002
        super().__init__()
        counts, grown = _SIZES[name]
        self.conv1 = nn.Conv2d(bands, 64, 7, stem_stride, 3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1, self.relu, self.maxpool = nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        self.channels = tuple(n * grown for n in (64, 128, 256, 512))
        inner = (64, *self.channels[:3])
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _stage(inner[i], self.channels[i] // grown, self.channels[i], stride=1 if i == 0 else 2, count=counts[i])
            for i in range(4)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Four maps, each of half the size of the one before."""
        maps: list[Tensor] = [self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))]
        for layer in (self.layer2, self.layer3, self.layer4):
            maps.append(layer(maps[-1]))
        return maps
