"""Losses of Faster R-CNN's two stages, with SNIP's ranges and hard examples.

Ren et al. 2015, *Faster R-CNN*; Singh and Davis 2018, *An Analysis of Scale Invariance in Object Detection: SNIP*;
Shrivastava et al. 2016, *Training Region-based Object Detectors with Online Hard Example Mining*.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from geosod.errors import ConfigError
from geosod.training.anchor_criterion import matched_priors, truths_at
from geosod.training.assign import IGNORED, NEGATIVE, MatchRule, match, some_of
from geosod.training.box_losses import offset_loss
from geosod.training.criterion import Criterion
from geosod.training.overlaps import NWD_SCALE
from geosod.training.targets import Targets

SAMPLERS = ("random", "ohem")


class TwoStageCriterion(Criterion):
    """Losses of the proposals and of the head.

    First stage: prior boxes are matched as by `geosod.training.assign.match`, and `rpn_batch` of each image drawn, at
    most half of them positive. Second stage: proposals and `batch` of the objects themselves are matched at IoU 0.5;
    those matched with an ignored object, or of a size outside the targets' `valid_range`, are left out; and `batch` of
    each image are drawn, at most a quarter of them positive, or taken by their loss. Examples are drawn by torch's
    random numbers.

    Args:
        network: FasterRCNN.
        assigner: "iou" or "nwd", for the first stage.
        high, low: see `geosod.training.assign.MatchRule`, for the first stage.
        rpn_batch: examples of each image in the first stage.
        batch: examples of each image in the second stage.
        sampler: "random"; or "ohem", those of the highest loss.
        box_loss: of the second stage: "giou", "nwd" or "smooth-l1".
        nwd_scale: of "nwd".
        box_weight: of the losses of boxes.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        network: Any,
        *,
        assigner: str = "iou",
        high: float = 0.7,
        low: float = 0.3,
        rpn_batch: int = 256,
        batch: int = 128,
        sampler: str = "random",
        box_loss: str = "giou",
        nwd_scale: float = NWD_SCALE,
        box_weight: float = 1.0,
    ) -> None:
        super().__init__(network)
        if sampler not in SAMPLERS or min(rpn_batch, batch) < 1:
            raise ConfigError(
                f"sampler={sampler!r} must be one of {', '.join(SAMPLERS)}, and rpn_batch={rpn_batch} and "
                f"batch={batch} at least 1"
            )
        self._rule = MatchRule(high, low, True, assigner, nwd_scale)
        self._rpn_loss, self._box_loss = offset_loss("smooth-l1"), offset_loss(box_loss, scale=nwd_scale)
        self._rpn_batch, self._batch, self._sampler, self._box_weight = rpn_batch, batch, sampler, box_weight

    def losses(self, images: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        """Scalars ``rpn_class``, ``rpn_box``, ``class`` and ``box``."""
        height, width = images.shape[2:]
        levels = self.network.levels(images)
        regions = self.network.regions(levels)
        first = self._of_regions(regions, (height, width), targets)
        boxes, sound = self.network.propose(regions.detach(), (height, width))
        return first | self._of_proposals(levels, boxes, sound, targets)

    def examples(self, images: Tensor, targets: Sequence[Targets]) -> list[tuple[Tensor, Tensor]]:
        """The prior boxes that are positive examples of the first stage, and their labels."""
        return matched_priors(self.network, self._rule, images, targets)

    def _of_regions(self, regions: Tensor, size: tuple[int, int], targets: list[Targets]) -> dict[str, Tensor]:
        priors = self.network.anchors.boxes(size, regions.device)
        found = torch.stack([drawn(match(priors, one, self._rule), self._rpn_batch, 0.5) for one in targets])
        kept = found > IGNORED
        image, place = torch.nonzero(found >= 0, as_tuple=True)
        truth, _ = truths_at(found, image, place, targets)
        count = self.normaliser(kept.sum().float())
        classes = F.binary_cross_entropy_with_logits(regions[..., 0][kept], (found >= 0)[kept].float(), reduction="sum")
        boxes = self._rpn_loss(regions[image, place, 1:], priors[place], truth).sum()
        return {"rpn_class": classes / count, "rpn_box": self._box_weight * boxes / count}

    def _of_proposals(
        self, levels: Sequence[Tensor], boxes: Tensor, sound: Tensor, targets: list[Targets]
    ) -> dict[str, Tensor]:
        parts = [self._of_image(levels, i, boxes[i][sound[i]], one) for i, one in enumerate(targets)]
        count = self.normaliser(torch.stack([count for _, _, count in parts]).sum())
        classes, offsets = (torch.stack([part[k] for part in parts]).sum() for k in (0, 1))
        return {"class": classes / count, "box": self._box_weight * offsets / count}

    def _of_image(
        self, levels: Sequence[Tensor], i: int, proposals: Tensor, targets: Targets
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of the losses of classes and of boxes, and the number of examples."""
        # An image may hold thousands of objects, each of which the head would examine.
        truths = some_of(torch.nonzero(~targets.ignored).flatten(), self._batch)
        boxes = torch.cat([proposals, targets.boxes[truths]])
        found = match_proposals(boxes, targets)
        if self._sampler == "random":
            found = drawn(found, self._batch, 0.25)
        rows = torch.nonzero(found > IGNORED).flatten()
        boxes, found = boxes[rows], found[rows]
        raw = self.network.examine(levels, i, boxes)
        positive = torch.nonzero(found >= 0).flatten()
        truth = found[positive]
        wanted = torch.full_like(found, self.network.classes)
        wanted[positive] = targets.labels[truth]
        classes = F.cross_entropy(raw[:, :-4], wanted, reduction="none")
        offsets = torch.zeros_like(classes).index_put(
            (positive,), self._box_loss(raw[positive, -4:], boxes[positive], targets.boxes[truth])
        )
        if self._sampler == "ohem" and len(rows) > self._batch:
            hardest = (classes + self._box_weight * offsets).detach().topk(self._batch).indices
            classes, offsets = classes[hardest], offsets[hardest]
        return classes.sum(), offsets.sum(), classes.new_tensor(float(len(classes)))


def match_proposals(boxes: Tensor, targets: Targets) -> Tensor:
    """What each proposal is an example of: all objects take part, then what is outside the valid range is left out.

    Args:
        boxes: (N, 4) float32 in pixels of the network's input.
        targets: of the image, on the same device, without degenerate boxes.

    Returns:
        (N,) int64 as `geosod.training.assign.match`.
    """
    found = match(boxes, targets, MatchRule(0.5, 0.5, force=False, leave_out=1.0))
    if targets.valid_range is None:
        return found
    low, high = targets.valid_range
    side = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
    return torch.where((side < low) | (side > high), IGNORED, found)


def drawn(found: Tensor, count: int, positive: float) -> Tensor:
    """As `found`, with `IGNORED` for examples beyond a number, drawn by torch's random numbers.

    Args:
        found: (N,) int64 from `match`.
        count: maximum number of examples.
        positive: the part of them that may be positive.
    """
    kept = torch.full_like(found, IGNORED)
    rows = torch.nonzero(found >= 0).flatten()
    # As many as may be kept are all kept, and no random number is used.
    rows = some_of(rows, max(1, int(count * positive)))
    others = some_of(torch.nonzero(found == NEGATIVE).flatten(), count - len(rows))
    for some in (rows, others):
        kept[some] = found[some]
    return kept
