"""Parts that networks of the zoo have in common."""

from __future__ import annotations

import torch
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


def exact_convolution(out: nn.Conv2d, x: Tensor, *, sums: bool) -> Tensor:
    """A convolution of 1 x 1 in float32, whatever the type of its weights and of the maps (B, C, H, W).

    Args:
        out: the convolution.
        x: maps.
        sums: compute it as products and sums, which a runtime does not round to its own precision.
    """
    weight, bias = out.weight.float(), out.bias.float()  # type: ignore[union-attr]
    if sums:
        maps = [(x.float() * kernel[None]).sum(dim=1, keepdim=True) for kernel in weight]
        return torch.cat(maps, dim=1) + bias[:, None, None]
    return F.conv2d(x.float(), weight, bias)
