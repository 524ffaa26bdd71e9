"""A feature pyramid with fusion factors: how much of a coarser level is added to a finer one.

Lin et al. 2017, *Feature Pyramid Networks for Object Detection*; Gong et al. 2021, *Effective Fusion Factor in FPN for
Tiny Object Detection*, equation 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geosod.detectors.zoo.layers import double
from geosod.errors import ConfigError

ONE, THREE, ATTENTION = "learnable-one", "learnable-three", "attention"
#: A number, three of them or one of these words.
Fusion = float | str | Sequence[float]


class Pyramid(nn.Module):
    """Levels P2 to P6 of a backbone's C2 to C5.

    P(i) = layer(i)(P'(i)) with P'(i) = inner(i)(C(i)) + α(i) · up(P'(i + 1)), where up repeats cells. P6 is a plain
    subsample of P5. With α = 1 this is torchvision's `FeaturePyramidNetwork` with `LastLevelMaxPool`, and the names of
    its weights are the same.

    Args:
        inner: channels of C2 to C5.
        channels: of every level.
        fusion: the fusion factors α. A number for all levels; three numbers, of P3 where it is added to P2, of P4 to P3
            and of P5 to P4, as `geosod stats` suggests them (S-α); "learnable-one" and "learnable-three" for parameters
            that start at 1; or "attention", factors of each cell from both maps that meet there.
        sigma: σ of the power initialisation: weights and biases of inner(i) are multiplied by σ^(i - 2), and weights of
            layer(i) divided by it. In a network without training that equals α = σ.
        only_finest: compute P2 alone.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        inner: Sequence[int],
        channels: int = 256,
        *,
        fusion: Fusion = 1.0,
        sigma: float = 1.0,
        only_finest: bool = False,
    ) -> None:
        super().__init__()
        if channels < 4 or not sigma > 0:
            raise ConfigError(f"pyramid: channels={channels} must be at least 4, and sigma={sigma} above 0")
        self.inner_blocks = nn.ModuleList(_convolution(n, channels, kernel=1) for n in inner)
        layers = 1 if only_finest else len(inner)
        self.layer_blocks = nn.ModuleList(_convolution(channels, channels, kernel=3) for _ in range(layers))
        self.alpha = _factors(fusion, channels)
        if sigma != 1.0:
            self._scale(sigma)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """P2 to P6 (B, channels, h, w) of C2 to C5, each of which has half the size of the one before; or P2 alone."""
        merged: list[Tensor] = [self.inner_blocks[-1](maps[-1])]
        for i in range(len(maps) - 2, -1, -1):
            merged.insert(0, self.alpha(self.inner_blocks[i](maps[i]), double(merged[0]), i))
        levels = [layer(one) for layer, one in zip(self.layer_blocks, merged, strict=False)]
        return levels if len(levels) < len(maps) else [*levels, F.max_pool2d(levels[-1], kernel_size=1, stride=2)]

    @torch.no_grad()
    def _scale(self, sigma: float) -> None:
        inner: Any = self.inner_blocks
        layers: Any = self.layer_blocks
        for power, block in enumerate(inner):
            block[0].weight *= sigma**power
            block[0].bias *= sigma**power
        for power, block in enumerate(layers):
            block[0].weight /= sigma**power


class _Fixed(nn.Module):
    """Factors that are not trained."""

    def __init__(self, factors: tuple[float, float, float]) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, fine: Tensor, coarse: Tensor, level: int) -> Tensor:
        """The sum of the finer map and a part of the coarser one."""
        alpha = self.factors[level]
        return fine + coarse if alpha == 1.0 else fine + alpha * coarse


class _Learnable(nn.Module):
    """Factors that are parameters: one for all levels, or one each."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(count))

    def forward(self, fine: Tensor, coarse: Tensor, level: int) -> Tensor:
        """The sum of the finer map and a part of the coarser one."""
        return fine + self.factors[level % len(self.factors)].to(fine.dtype) * coarse


class _Attention(nn.Module):
    """Factors of each cell, from 0 to 2, by a 1 x 1 convolution of both maps; 1 before training.

    They depend on the cell alone and on nothing that is pooled over the tile, so that an object has the same factors in
    every tile that shows its surroundings.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.Conv2d(2 * channels, 1, 1) for _ in range(3))
        for gate in self.gates:
            nn.init.zeros_(gate.weight)  # type: ignore[arg-type]
            nn.init.zeros_(gate.bias)  # type: ignore[arg-type]

    def forward(self, fine: Tensor, coarse: Tensor, level: int) -> Tensor:
        """The sum of the finer map and a part of the coarser one."""
        alpha: Tensor = 2 * self.gates[level](torch.cat([fine, coarse], dim=1)).sigmoid()
        return fine + alpha * coarse


def _convolution(inner: int, outer: int, *, kernel: int) -> nn.Sequential:
    """A convolution with torchvision's name and initialisation."""
    made = nn.Conv2d(inner, outer, kernel, padding=kernel // 2)
    nn.init.kaiming_uniform_(made.weight, a=1)
    nn.init.zeros_(made.bias)  # type: ignore[arg-type]
    return nn.Sequential(made)


def _factors(fusion: Fusion, channels: int) -> nn.Module:
    if fusion == ATTENTION:
        return _Attention(channels)
    if fusion in (ONE, THREE):
        return _Learnable(1 if fusion == ONE else 3)
    numbers: list[Any] = [fusion] * 3 if isinstance(fusion, int | float) else list(fusion)
    if len(numbers) != 3 or not all(isinstance(n, int | float) and 0 <= n < math.inf for n in numbers):
        raise ConfigError(
            f"fusion={fusion!r} must be a number from 0 on, three of them (P3 to P2, P4 to P3, P5 to P4), "
            f"{ONE!r}, {THREE!r} or {ATTENTION!r}"
        )
    first, second, third = map(float, numbers)
    return _Fixed((first, second, third))
