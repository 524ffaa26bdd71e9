"""Losses of FCOS, with its own or TOOD's assignment, and of its score of quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from geosod.detectors.zoo.anchors import centres
from geosod.detectors.zoo.fcos import boxes_at
from geosod.errors import ConfigError
from geosod.training.anchor_criterion import truths_at
from geosod.training.assign import IGNORED
from geosod.training.assign_points import AlignmentRule, PointRule, assign_aligned, assign_points
from geosod.training.box_losses import box_loss as box_loss_of
from geosod.training.criterion import Criterion, cleaned
from geosod.training.overlaps import NWD_SCALE, iou_pairs
from geosod.training.targets import Targets

ASSIGNERS = ("centre-sampling", "task-aligned")


class PointCriterion(Criterion):
    """Losses of points.

    With the assigner "centre-sampling": focal loss of the classes, GIoU loss weighted by centre-ness, and binary cross
    entropy of centre-ness (Tian et al. 2019); or, where the network's quality is "varifocal", the varifocal loss, whose
    target is the IoU (Zhang et al. 2021). With "task-aligned", the target is the normalised alignment, and boxes are
    weighted by it (Feng et al. 2021).

    Args:
        network: FCOS.
        assigner: "centre-sampling" or "task-aligned"; the latter is for networks without centre-ness.
        radius, reach: see `geosod.training.assign_points.PointRule`.
        align_alpha, align_beta, topk: see `geosod.training.assign_points.AlignmentRule`.
        box_loss: "giou" or "nwd".
        nwd_scale: of "nwd".
        alpha, gamma: of focal and varifocal loss; None for those published, 0.25 and 0.75, and 2.
        box_weight: of the loss of the boxes; None for 1 with centre-ness, and 2 else.

    Raises:
        ConfigError: an argument is out of range, or the assigner does not suit the network.
    """

    def __init__(
        self,
        network: Any,
        *,
        assigner: str = "centre-sampling",
        radius: float = 1.5,
        reach: float = 8.0,
        align_alpha: float = 1.0,
        align_beta: float = 6.0,
        topk: int = 13,
        box_loss: str = "giou",
        nwd_scale: float = NWD_SCALE,
        alpha: float | None = None,
        gamma: float = 2.0,
        box_weight: float | None = None,
    ) -> None:
        super().__init__(network)
        if assigner not in ASSIGNERS:
            raise ConfigError(f"assigner={assigner!r} is none of {', '.join(ASSIGNERS)}")
        if assigner == "task-aligned" and network.has_centreness:
            raise ConfigError(
                "assigner='task-aligned' is for scores that are trained to be the quality of the box; give the network "
                "quality='varifocal'"
            )
        self._aligned = assigner == "task-aligned"
        self._points, self._alignment = PointRule(radius, reach), AlignmentRule(align_alpha, align_beta, topk)
        self._box_loss = box_loss_of(box_loss, scale=nwd_scale)
        usual_alpha, usual_weight = (0.25, 1.0) if network.has_centreness else (0.75, 2.0)
        self._alpha, self._gamma = usual_alpha if alpha is None else alpha, gamma
        self._box_weight = usual_weight if box_weight is None else box_weight

    def losses(self, images: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        """Scalars ``class`` and ``box``, and ``centreness`` where the network has it."""
        raw = self.network(images).float()
        height, width = images.shape[2:]
        points, strides = centres((height, width), self.network.strides, raw.device)
        logits, shapes, centreness = self.network.parts(raw)
        found, aligned = self._assigned(points, strides, logits, shapes, targets)
        image, place = torch.nonzero(found >= 0, as_tuple=True)
        truth, labels = truths_at(found, image, place, targets)
        boxes = boxes_at(points[place], strides[place], shapes[image, place])
        at = (image, place, labels)
        if centreness is not None:
            return self._with_centreness(logits, centreness[image, place], found, at, points[place], boxes, truth)
        quality = aligned[image, place] if self._aligned else iou_pairs(boxes.detach(), truth)
        wanted = torch.zeros_like(logits)
        wanted[at] = quality
        classes = self._of_quality(logits, wanted, found)
        weight = self.normaliser(quality.sum())
        count = weight if self._aligned else self.normaliser(quality.new_tensor(float(len(quality))))
        loss = (self._box_loss(boxes, truth) * quality).sum()
        return {"class": classes / count, "box": self._box_weight * loss / weight}

    def examples(self, images: Tensor, targets: Sequence[Targets]) -> list[tuple[Tensor, Tensor]]:
        """The cells about the points that are positive examples of the network as it is, and their labels."""
        height, width = images.shape[2:]
        points, strides = centres((height, width), self.network.strides, images.device)
        logits, shapes, _ = self.network.parts(self.network(images).float())
        own = [cleaned(one, images.device, classes=int(self.network.classes)) for one in targets]
        found, _ = self._assigned(points, strides, logits, shapes, own)
        half = strides[:, None] / 2
        cells = torch.cat([points - half, points + half], dim=1)
        return [(cells[row >= 0], one.labels[row[row >= 0]]) for row, one in zip(found, own, strict=True)]

    def _assigned(
        self, points: Tensor, strides: Tensor, logits: Tensor, shapes: Tensor, targets: list[Targets]
    ) -> tuple[Tensor, Tensor]:
        """(B, N) int64 from the assigner, and (B, N) float32, the normalised alignment."""
        if not self._aligned:
            found = torch.stack([assign_points(points, strides, one, self._points) for one in targets])
            return found, torch.zeros_like(found, dtype=torch.float32)
        scores, boxes = logits.detach().sigmoid(), boxes_at(points, strides, shapes.detach())
        pairs = [
            assign_aligned(points, strides, scores[i], boxes[i], one, self._alignment) for i, one in enumerate(targets)
        ]
        return torch.stack([found for found, _ in pairs]), torch.stack([wanted for _, wanted in pairs])

    def _with_centreness(
        self,
        logits: Tensor,
        centreness: Tensor,
        found: Tensor,
        at: tuple[Tensor, Tensor, Tensor],
        points: Tensor,
        boxes: Tensor,
        truth: Tensor,
    ) -> dict[str, Tensor]:
        wanted = torch.zeros_like(logits)
        wanted[at] = 1.0
        kept = found > IGNORED
        classes = sigmoid_focal_loss(logits[kept], wanted[kept], alpha=self._alpha, gamma=self._gamma).sum()
        central = centreness_of(points, truth)
        count, weight = self.normaliser(central.new_tensor(float(len(central)))), self.normaliser(central.sum())
        box = (self._box_loss(boxes, truth) * central).sum() / weight
        quality = F.binary_cross_entropy_with_logits(centreness, central, reduction="sum") / count
        return {"class": classes / count, "box": self._box_weight * box, "centreness": quality}

    def _of_quality(self, logits: Tensor, wanted: Tensor, found: Tensor) -> Tensor:
        """Binary cross entropy with targets of quality, the negative examples weighted down as by the focal loss."""
        scores = logits.detach().sigmoid()
        positive = wanted > 0
        if self._aligned:
            weight = (wanted - scores).abs() ** self._gamma
        else:
            weight = torch.where(positive, wanted, self._alpha * scores**self._gamma)
        loss = F.binary_cross_entropy_with_logits(logits, wanted, weight=weight, reduction="none")
        return loss[found > IGNORED].sum()


def centreness_of(points: Tensor, boxes: Tensor) -> Tensor:
    """(P,) 1 where a point (P, 2) is in the middle of its box (P, 4), towards 0 at its sides (Tian et al. 2019).

    Also 1 where it lies outside: an object smaller than a cell has no better point.
    """
    low, high = points - boxes[:, :2], boxes[:, 2:] - points
    ratio = torch.minimum(low, high) / torch.maximum(low, high).clamp(min=1e-6)
    return torch.where((ratio > 0).all(dim=1), ratio.clamp(min=0).prod(dim=1).sqrt(), 1.0)
