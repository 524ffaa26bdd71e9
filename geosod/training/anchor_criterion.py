"""Losses of networks with prior boxes at every place: RetinaNet and SSD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from geosod.errors import ConfigError
from geosod.training.assign import IGNORED, MatchRule, match
from geosod.training.box_losses import offset_loss
from geosod.training.criterion import Criterion, cleaned
from geosod.training.overlaps import NWD_SCALE
from geosod.training.targets import Targets

CLASS_LOSSES = ("focal", "hard-negatives")


class AnchorCriterion(Criterion):
    """Focal loss of the classes, or cross entropy of the hardest negatives, and a loss of the boxes.

    Args:
        network: with `anchors`, and raw output (B, N, classes + 4).
        class_loss: "focal" (Lin et al. 2017); or "hard-negatives", binary cross entropy of the positive examples and of
            `negatives` times as many negative ones, those of the highest loss (Liu et al. 2016, SSD).
        box_loss: "smooth-l1", "giou" or "nwd", see `geosod.training.box_losses`.
        assigner: "iou" or "nwd", what boxes are matched by.
        high, low, force: see `geosod.training.assign.MatchRule`.
        nwd_scale: side in pixels by which distances are divided with "nwd": about the mean side of the objects.
        alpha, gamma: of the focal loss.
        negatives: of "hard-negatives".
        box_weight: of the loss of the boxes.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        network: Any,
        *,
        class_loss: str = "focal",
        box_loss: str = "smooth-l1",
        assigner: str = "iou",
        high: float = 0.5,
        low: float = 0.4,
        force: bool = True,
        nwd_scale: float = NWD_SCALE,
        alpha: float = 0.25,
        gamma: float = 2.0,
        negatives: float = 3.0,
        box_weight: float = 1.0,
    ) -> None:
        super().__init__(network)
        if class_loss not in CLASS_LOSSES or not negatives > 0:
            raise ConfigError(
                f"class_loss={class_loss!r} must be one of {', '.join(CLASS_LOSSES)}, and negatives={negatives} above 0"
            )
        self._rule = MatchRule(high, low, force, assigner, nwd_scale)
        self._box_loss = offset_loss(box_loss, scale=nwd_scale)
        self._class_loss, self._negatives = class_loss, negatives
        self._alpha, self._gamma, self._box_weight = alpha, gamma, box_weight

    def losses(self, images: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        """Scalars ``class`` and ``box``."""
        raw = self.network(images).float()
        height, width = images.shape[2:]
        priors = self.network.anchors.boxes((height, width), raw.device)
        found = torch.stack([match(priors, one, self._rule) for one in targets])
        image, place = torch.nonzero(found >= 0, as_tuple=True)
        truth, labels = truths_at(found, image, place, targets)
        divisor = self.normaliser(raw.new_tensor(float(len(image))))
        wanted = torch.zeros_like(raw[..., :-4])
        wanted[image, place, labels] = 1.0
        classes = self._of_classes(raw[..., :-4], wanted, found)
        boxes = self._box_loss(raw[image, place, -4:], priors[place], truth)
        return {"class": classes / divisor, "box": self._box_weight * boxes.sum() / divisor}

    def examples(self, images: Tensor, targets: Sequence[Targets]) -> list[tuple[Tensor, Tensor]]:
        """The prior boxes that are positive examples, and their labels."""
        return matched_priors(self.network, self._rule, images, targets)

    def _of_classes(self, logits: Tensor, wanted: Tensor, found: Tensor) -> Tensor:
        kept = found > IGNORED
        if self._class_loss == "focal":
            loss = sigmoid_focal_loss(logits[kept], wanted[kept], alpha=self._alpha, gamma=self._gamma)
            return loss.sum()  # type: ignore[no-any-return]
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(dim=2)
        return (loss * (hard_examples(loss.detach(), found, self._negatives))).sum()


def hard_examples(loss: Tensor, found: Tensor, ratio: float) -> Tensor:
    """(B, N) bool, the positive examples and `ratio` times as many of the negative ones, at least one an image.

    Args:
        loss: (B, N), by which the negative ones are chosen: the highest.
        found: (B, N) int64 from `match`.
        ratio: negative examples for each positive one.
    """
    positive = found >= 0
    candidates = torch.where(found == -1, loss, torch.full_like(loss, -torch.inf))
    rank = candidates.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    count = (positive.sum(dim=1, keepdim=True) * ratio).clamp(min=1)
    return positive | ((rank < count) & (found == -1))


def truths_at(found: Tensor, image: Tensor, place: Tensor, targets: list[Targets]) -> tuple[Tensor, Tensor]:
    """Boxes (P, 4) and labels (P,) of the objects that positive examples are matched with.

    Args:
        found: (B, N) int64, positions in the targets of each image.
        image, place: (P,) int64, where `found` is not negative.
        targets: of each image.
    """
    counts = [len(one.boxes) for one in targets]
    starts = torch.tensor([0, *counts[:-1]], device=found.device).cumsum(0)
    row = starts[image] + found[image, place]
    return torch.cat([one.boxes for one in targets])[row], torch.cat([one.labels for one in targets])[row]


def matched_priors(
    network: Any, rule: MatchRule, images: Tensor, targets: Sequence[Targets]
) -> list[tuple[Tensor, Tensor]]:
    """Of each image the prior boxes of a network (P, 4) that are positive examples by a rule, and their labels (P,)."""
    priors = network.anchors.boxes((images.shape[2], images.shape[3]), images.device)
    made = []
    for target in targets:
        one = cleaned(target, images.device, classes=int(network.classes))
        found = match(priors, one, rule)
        made.append((priors[found >= 0], one.labels[found[found >= 0]]))
    return made
