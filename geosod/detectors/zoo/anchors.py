"""Prior boxes (anchors) of feature maps, and boxes as offsets from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from geosod.errors import ConfigError, ModelError

#: Height and width of the images that a network gets, in pixels.
Size = tuple[int, int]
#: Logarithm of the largest ratio of a box's side to that of its prior box, as in torchvision.
MAX_LOG_RATIO = math.log(1000 / 16)
#: Sizes of images whose boxes are kept: scenes smaller than a tile have sizes of their own.
_MAX_KEPT = 8


class Anchors:
    """Boxes about the middle of every cell of some feature maps.

    They are in the order of the networks' outputs: by level, row, column and shape.

    Args:
        strides: of each level, in pixels of the image.
        shapes: widths and heights of the boxes of each level, in pixels of the image.

    Raises:
        ConfigError: a shape is not positive, or there are not as many lists as strides.
    """

    def __init__(self, strides: Sequence[int], shapes: Sequence[Sequence[tuple[float, float]]]) -> None:
        sound = all(0 < side < math.inf for level in shapes for shape in level for side in shape)
        if len(strides) != len(shapes) or not all(shapes) or not sound:
            raise ConfigError(
                f"anchors {shapes}: give positive widths and heights for each of the strides {tuple(strides)}"
            )
        self.strides, self.shapes = tuple(strides), tuple(tuple(level) for level in shapes)
        self._kept: dict[tuple[Size, torch.device], Tensor] = {}

    @property
    def counts(self) -> tuple[int, ...]:
        """Boxes of a cell of each level."""
        return tuple(map(len, self.shapes))

    def boxes(self, size: Size, device: torch.device) -> Tensor:
        """(N, 4) float32 ``x0, y0, x1, y1`` in pixels of an image of a size, not clipped to it."""
        key = (size, device)
        if key not in self._kept:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            levels = zip(self.strides, self.shapes, strict=True)
            self._kept[key] = torch.cat([_grid(size, stride, shapes) for stride, shapes in levels]).to(device)
        return self._kept[key]


def regular_shapes(
    sizes: Sequence[float], ratios: Sequence[float] | Sequence[Sequence[float]], scales: Sequence[float]
) -> list[list[tuple[float, float]]]:
    """RetinaNet's shapes (Lin et al. 2017): area (size · scale)², height / width as `ratios`.

    Args:
        sizes: one for each level, in pixels.
        ratios: for all levels, or a list for each.
        scales: factors of every size.

    Raises:
        ConfigError: a value is not positive, or there are not as many lists of ratios as sizes.
    """
    lists = [entry for entry in ratios if isinstance(entry, Sequence)]
    common = [float(entry) for entry in ratios if isinstance(entry, int | float)]
    each = lists or [common] * len(sizes)
    values = (*sizes, *scales, *(r for level in each for r in level))
    if len(each) != len(sizes) or (lists and common) or not all(0 < value < math.inf for value in values):
        raise ConfigError(
            f"anchors: sizes={list(sizes)}, scales={list(scales)} and ratios={list(ratios)} must be above 0, and "
            "ratios one list for all levels, or one for each"
        )
    return [
        [(size * scale / math.sqrt(r), size * scale * math.sqrt(r)) for scale in scales for r in level]
        for size, level in zip(sizes, each, strict=True)
    ]


def cells(size: Size, stride: int) -> tuple[int, int]:
    """Rows and columns of the map of a stride."""
    return -(-size[0] // stride), -(-size[1] // stride)


def centres(size: Size, strides: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The middle of every cell of some maps, in the order of the networks' outputs.

    Returns:
        (N, 2) float32 ``x, y`` in pixels of the image, and (N,) float32, the stride of each cell's map.
    """
    points = [_middles(size, stride) for stride in strides]
    of = [torch.full((len(level),), float(stride)) for level, stride in zip(points, strides, strict=True)]
    return torch.cat(points).to(device), torch.cat(of).to(device)


def _middles(size: Size, stride: int) -> Tensor:
    rows, cols = cells(size, stride)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    return (torch.stack([x, y], dim=-1).reshape(-1, 2).float() + 0.5) * stride


def _grid(size: Size, stride: int, shapes: Sequence[tuple[float, float]]) -> Tensor:
    half = torch.tensor(shapes, dtype=torch.float32) / 2
    middle = _middles(size, stride)[:, None]
    return torch.cat([middle - half, middle + half], dim=-1).reshape(-1, 4)


def encoded(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(N, 4) float32, boxes as offsets from their prior boxes (Girshick et al. 2014), as `decoded` takes them."""
    side, wanted = anchors[..., 2:] - anchors[..., :2], boxes[..., 2:] - boxes[..., :2]
    shift = (boxes[..., :2] + boxes[..., 2:] - anchors[..., :2] - anchors[..., 2:]) / (2 * side)
    return torch.cat([shift, (wanted / side).log()], dim=-1)


def decoded(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (..., 4) of offsets in units of the prior boxes' sides, and of logarithms of ratios of sides."""
    side = anchors[..., 2:] - anchors[..., :2]
    middle = (anchors[..., :2] + anchors[..., 2:]) / 2 + deltas[..., :2] * side
    half = deltas[..., 2:].clamp(max=MAX_LOG_RATIO).exp() * side / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def check_places(raw: Tensor, count: int, size: Size) -> None:
    """Refuse raw output that is not that of images of a size.

    Raises:
        ModelError: it has another number of places.
    """
    if raw.shape[1] != count:
        raise ModelError(
            f"the network's output has {raw.shape[1]} places, but images of {size[1]} x {size[0]} px have {count}; "
            "give the size of the images that the network got, multiples of 32 px"
        )
