"""Losses of networks with a centre heat map: small-fpn, centre-unet and centre."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from geosod.errors import ConfigError
from geosod.training.criterion import Criterion, cleaned
from geosod.training.targets import Targets

#: Deviation of the bump around a centre, in sides of the box, and its limits in cells.
_SIDES, _MIN_SIGMA, _MAX_SIGMA = 0.14, 0.5, 12.0
#: Weight of the box in cells beside that of the centre, times the height of the bump there.
_BESIDE, _MIN_HEIGHT = 0.4, 0.12
#: Sides are regressed as exponents, in cells, as far as networks decode them.
_MAX_EXPONENT = 6.0
#: Values of bumps that are drawn at once.
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class HeatTargets:
    """What raw maps of one image should be.

    Attributes:
        heat: (classes, h, w) float32, 1 at centres and falling off around them.
        positive: (classes, h, w) bool, cells that hold a centre.
        kept: (h, w) bool, cells that are examples.
        cells: (P, 2) int64 ``row, column`` of cells whose box is an example.
        shapes: (P, 4) float32, offset of the centre from the cell's middle and logarithms of the sides, in cells.
        weights: (P,) float32, how much each counts.
    """

    heat: Tensor
    positive: Tensor
    kept: Tensor
    cells: Tensor
    shapes: Tensor
    weights: Tensor


class HeatCriterion(Criterion):
    """Penalty-reduced focal loss of centres (Zhou et al. 2019), and GIoU and L1 loss of the boxes, where predicted.

    Args:
        network: with a `stride`, and raw maps of logits, or of logits and four channels of boxes.
        sigma: deviation of the bump around a centre in pixels of the input; None for 0.14 sides of the box.
        box_weight: of the loss of the boxes.

    Raises:
        ConfigError: sigma is not above 0.
    """

    def __init__(self, network: Any, *, sigma: float | None = None, box_weight: float = 1.0) -> None:
        super().__init__(network)
        if sigma is not None and not sigma > 0:
            raise ConfigError(f"sigma={sigma} must be above 0")
        self._sigma, self._box_weight = sigma, box_weight

    def losses(self, images: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        """Scalars ``centre``, and ``box`` where the network predicts boxes."""
        raw = self.network(images).float()
        classes, stride = int(self.network.classes), int(self.network.stride)
        size = (int(raw.shape[2]), int(raw.shape[3]))
        wanted = [heat_targets(one, classes=classes, size=size, stride=stride, sigma=self._sigma) for one in targets]
        positive = torch.stack([one.positive for one in wanted])
        heat = torch.stack([one.heat for one in wanted])
        kept = torch.stack([one.kept for one in wanted])[:, None] | positive
        logits = raw[:, :classes]
        score = logits.sigmoid()
        hit = (1 - score) ** 2 * F.logsigmoid(logits)
        miss = (1 - heat) ** 4 * score**2 * F.logsigmoid(-logits)
        centre = -(torch.where(positive, hit, miss) * kept).sum() / self.normaliser(positive.sum().float())
        if raw.shape[1] == classes:
            return {"centre": centre}
        shapes = torch.cat([raw[i, classes:, one.cells[:, 0], one.cells[:, 1]].T for i, one in enumerate(wanted)])
        weights = torch.cat([one.weights for one in wanted])
        box = (_box_loss(shapes, torch.cat([one.shapes for one in wanted])) * weights).sum()
        return {"centre": centre, "box": self._box_weight * box / self.normaliser(weights.sum())}

    def examples(self, images: Tensor, targets: Sequence[Targets]) -> list[tuple[Tensor, Tensor]]:
        """The cells of the heat map that hold a centre, and their labels."""
        stride = int(self.network.stride)
        made = []
        for target in targets:
            one = cleaned(target, images.device, classes=int(self.network.classes))
            centre = (one.boxes[:, :2] + one.boxes[:, 2:]) / 2
            limit = images.new_tensor([images.shape[3], images.shape[2]])
            kept = ~one.ignored & (centre >= 0).all(dim=1) & (centre < limit).all(dim=1)
            corner = (centre[kept] / stride).floor() * stride
            made.append((torch.cat([corner, corner + stride], dim=1), one.labels[kept]))
        return made


def _box_loss(found: Tensor, wanted: Tensor) -> Tensor:
    # An offset matters in proportion to the side it moves.
    shift = ((found[:, :2] - wanted[:, :2]) / wanted[:, 2:].exp()).abs().sum(dim=1)
    error = shift + (found[:, 2:] - wanted[:, 2:]).abs().sum(dim=1)
    overlap: Tensor = generalized_box_iou_loss(_corners(found), _corners(wanted), reduction="none")
    return overlap + 0.3 * error


def _corners(shapes: Tensor) -> Tensor:
    half = shapes[:, 2:].clamp(-_MAX_EXPONENT, _MAX_EXPONENT).exp() / 2
    return torch.cat([shapes[:, :2] - half, shapes[:, :2] + half], dim=1)


@torch.no_grad()
def heat_targets(
    targets: Targets, *, classes: int, size: tuple[int, int], stride: int, sigma: float | None = None
) -> HeatTargets:
    """What raw maps should be for an image.

    Objects whose centre is not in the image are left out. Cells inside ignored objects are no negative examples.

    Args:
        targets: of the image, without degenerate boxes.
        classes: of the heat map.
        size: rows and columns of the map.
        stride: pixels on a side of a cell.
        sigma: as in `HeatCriterion`.
    """
    boxes = targets.boxes / stride
    middle, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    limits = middle.new_tensor([size[1], size[0]])
    used = (middle >= 0).all(dim=1) & (middle < limits).all(dim=1) & ~targets.ignored
    kept = ~_inside(boxes[targets.ignored], size)
    boxes, middle, sides, labels = boxes[used], middle[used], sides[used], targets.labels[used]
    cell = middle.long()
    width = (_SIDES * sides).clamp(_MIN_SIGMA, _MAX_SIGMA) if sigma is None else torch.full_like(sides, sigma / stride)
    heat = boxes.new_zeros(classes, *size)
    positive = torch.zeros_like(heat, dtype=torch.bool)
    reach = int(3 * float(width.max())) + 1 if len(width) else 1
    at_once = max(1, _CHUNK // (2 * reach + 1) ** 2)
    for some in torch.split(torch.arange(len(cell), device=cell.device), at_once):
        _draw(heat, cell[some], width[some], labels[some], reach)
    positive[labels, cell[:, 1], cell[:, 0]] = True
    return HeatTargets(heat, positive, kept, *_shapes(cell, middle, sides, width, size))


def _inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(h, w) bool, cells whose middle lies in one of some boxes (N, 4), in cells."""
    found = torch.zeros(size, dtype=torch.bool, device=boxes.device)
    rows, cols = (torch.arange(n, device=boxes.device) + 0.5 for n in size)
    for x0, y0, x1, y1 in boxes:
        found |= ((rows >= y0) & (rows <= y1))[:, None] & ((cols >= x0) & (cols <= x1))[None]
    return found


def _draw(heat: Tensor, cell: Tensor, width: Tensor, labels: Tensor, reach: int) -> None:
    """Raise a heat map to Gaussians around cells (N, 2) ``column, row``, of deviations (N, 2), as far as `reach`."""
    rows, cols = heat.shape[1:]
    steps = torch.arange(-reach, reach + 1, device=heat.device)
    x, y = cell[:, :1] + steps, cell[:, 1:] + steps
    across, down = (torch.exp(-((steps / width[:, k : k + 1]) ** 2) / 2) for k in (0, 1))
    bump = down[:, :, None] * across[:, None, :]
    there = ((y >= 0) & (y < rows))[:, :, None] & ((x >= 0) & (x < cols))[:, None, :]
    place = (labels[:, None, None] * rows + y[:, :, None]) * cols + x[:, None, :]
    heat.view(-1).scatter_reduce_(0, place[there], bump[there], "amax")


def _shapes(
    cell: Tensor, middle: Tensor, sides: Tensor, width: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Cells, shapes and weights of `HeatTargets`: the peak may fall on a cell beside the centre's."""
    around = torch.cartesian_prod(*[torch.arange(-1, 2, device=cell.device)] * 2)
    place = cell[:, None] + around[None]
    bump = torch.exp(-((around[None] / width[:, None]) ** 2).sum(dim=2) / 2)
    weight = torch.where((around == 0).all(dim=1)[None], 1.0, _BESIDE * bump * (bump > _MIN_HEIGHT))
    limits = cell.new_tensor([size[1], size[0]])
    weight = weight * ((place >= 0) & (place < limits)).all(dim=2)
    owner, which = torch.nonzero(weight > 0, as_tuple=True)
    place, weight = place[owner, which], weight[owner, which]
    # Of several objects a cell has the box of the nearest one.
    index = place[:, 1] * size[1] + place[:, 0]
    most = weight.new_zeros(size[0] * size[1]).scatter_reduce(0, index, weight, "amax")
    kept = weight == most[index]
    owner, place, weight = owner[kept], place[kept], weight[kept]
    offset = middle[owner] - place - 0.5
    logs = sides[owner].log().clamp(-_MAX_EXPONENT, _MAX_EXPONENT)
    return place.flip(1), torch.cat([offset, logs], dim=1), weight
