"""Losses of predicted boxes, pair by pair."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from geosod.detectors.zoo.anchors import decoded, encoded
from geosod.errors import ConfigError
from geosod.training.overlaps import NWD_SCALE, nwd

#: (offsets (N, 4), prior boxes (N, 4), objects (N, 4)) → (N,) losses.
OffsetLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
BOX_LOSSES = ("smooth-l1", "giou", "nwd")
#: Differences of offsets below it are squared in "smooth-l1".
_BETA = 0.1


def offset_loss(name: str, *, scale: float = NWD_SCALE) -> OffsetLoss:
    """The loss of boxes that are offsets from prior boxes.

    Args:
        name: "smooth-l1" of the offsets (Girshick 2015); "giou", 1 - generalised IoU (Rezatofighi et al. 2019); or
            "nwd", 1 - normalised Gaussian Wasserstein distance (Wang et al. 2021).
        scale: of "nwd".

    Raises:
        ConfigError: the name is unknown.
    """
    if name == "smooth-l1":
        return _smooth_l1
    loss = box_loss(name, scale=scale)
    return lambda offsets, priors, boxes: loss(decoded(offsets, priors), boxes)


def box_loss(name: str, *, scale: float = NWD_SCALE) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss (N,) of predicted boxes (N, 4) and objects (N, 4): "giou" or "nwd".

    Raises:
        ConfigError: the name is unknown.
    """
    if name == "giou":
        return lambda boxes, wanted: generalized_box_iou_loss(boxes, wanted, reduction="none")
    if name == "nwd":
        return lambda boxes, wanted: 1 - nwd(boxes, wanted, scale=scale)
    raise ConfigError(f"box_loss={name!r} is none of {', '.join(BOX_LOSSES)}, or does not suit the network")


def _smooth_l1(offsets: Tensor, priors: Tensor, boxes: Tensor) -> Tensor:
    wanted = encoded(boxes, priors)
    return F.smooth_l1_loss(offsets, wanted, reduction="none", beta=_BETA).sum(dim=1)
