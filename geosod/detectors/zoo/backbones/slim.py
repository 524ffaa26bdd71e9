"""A small backbone for CPUs, the trunk of `geosod.detectors.zoo.fpn.SmallFPN`."""

from __future__ import annotations

from torch import Tensor, nn

from geosod.detectors.zoo.layers import ConvNorm, stage


class Slim(nn.Module):
    """Maps of `width` channels at the first level, and of two, three and four times as many at the others."""

    first = "stem.0.conv"
    normalised = False
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self, *, name: str, bands: int, stem_stride: int, width: int) -> None:  # noqa: ARG002
        super().__init__()
        half = max(4, width // 2)
        self.channels = tuple(width * k for k in (1, 2, 3, 4))
        kernel = 4 if stem_stride == 2 else 3
        self.stem = nn.Sequential(
            ConvNorm(bands, half, kernel=kernel, stride=stem_stride), ConvNorm(half, width, stride=2)
        )
        self.level4 = nn.Sequential(ConvNorm(width, width, residual=True))
        self.level8 = stage(width, 2 * width, blocks=1)
        self.level16 = stage(2 * width, 3 * width, blocks=2)
        self.level32 = stage(3 * width, 4 * width, blocks=2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Four maps, each of half the size of the one before."""
        c2 = self.level4(self.stem(x))
        c3 = self.level8(c2)
        c4 = self.level16(c3)
        return [c2, c3, c4, self.level32(c4)]
