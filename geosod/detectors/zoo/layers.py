"""Parts that networks of the zoo have in common."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ConvNorm(nn.Module):
    """Convolution, batch normalisation, ReLU; a residual sum before the ReLU where `residual` is set."""

    def __init__(self, inner: int, outer: int, *, kernel: int = 3, stride: int = 1, residual: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, kernel, stride, (kernel - 1) // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outer)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, outer, H, W), or of a part of H and W with a stride."""
        y: Tensor = self.norm(self.conv(x))
        return F.relu(y.add_(x) if self.residual else y, inplace=True)


def stage(inner: int, outer: int, *, blocks: int) -> nn.Sequential:
    """A convolution of stride 2, and residual ones of stride 1."""
    first = ConvNorm(inner, outer, stride=2)
    return nn.Sequential(first, *(ConvNorm(outer, outer, residual=True) for _ in range(blocks)))


def double(x: Tensor) -> Tensor:
    """Maps (B, C, H, W) of twice the height and width, by repetition."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
