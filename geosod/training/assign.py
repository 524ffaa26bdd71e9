"""Which prior boxes and proposals are examples of which object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from geosod.errors import ConfigError
from geosod.training.overlaps import NWD_SCALE, covered_matrix, iou_matrix, nwd_matrix
from geosod.training.targets import Targets

#: What a box is that is no positive example of an object.
NEGATIVE, IGNORED = -1, -2
#: Negative examples with a larger part inside an ignored object of any class (a region) are left out.
LEAVE_OUT_INSIDE = 0.5
METRICS = ("iou", "nwd")
#: Boxes times objects whose overlap is computed at once.
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class MatchRule:
    """How boxes are matched with objects.

    Attributes:
        high: from this overlap on with its best object, a box is a positive example of it.
        low: below it, a box is a negative example; between the two it is ignored.
        force: the boxes that overlap an object best are positive examples, too, however little they overlap it.
        metric: "iou"; or "nwd", the normalised Gaussian Wasserstein distance, for objects of a few pixels.
        scale: of "nwd".
        leave_out: boxes that overlap an ignored object by a higher IoU are left out (Singh and Davis 2018, SNIP).
    """

    high: float = 0.5
    low: float = 0.4
    force: bool = True
    metric: str = "iou"
    scale: float = NWD_SCALE
    leave_out: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high <= 1 or self.metric not in METRICS or not self.scale > 0:
            raise ConfigError(
                f"matching: low={self.low} and high={self.high} must rise from above 0 to 1, metric={self.metric!r} be "
                f"one of {', '.join(METRICS)}, and scale={self.scale} above 0"
            )


@torch.no_grad()
def match(boxes: Tensor, targets: Targets, rule: MatchRule) -> Tensor:
    """What each box is an example of.

    All objects take part in the matching, as in SNIP. Then boxes matched with an ignored object are left out, and
    those that overlap one by an IoU above `leave_out`, even if they were matched with another. Negative examples
    mostly inside an ignored object of label -1, which is a region, are left out as well.

    Args:
        boxes: (N, 4) float32, prior boxes or proposals.
        targets: of the image, on the same device, without degenerate boxes.
        rule: thresholds.

    Returns:
        (N,) int64, the position of an object in the targets, `NEGATIVE` or `IGNORED`.
    """
    found = torch.full((len(boxes),), NEGATIVE, dtype=torch.int64, device=boxes.device)
    truths = targets.boxes
    if not len(truths) or not len(boxes):
        return found
    best, which = boxes.new_empty(len(boxes)), torch.empty_like(found)
    highest = boxes.new_zeros(len(truths))
    for rows in _chunks(len(boxes), len(truths), boxes.device):
        overlap = _overlap(boxes[rows], truths, rule)
        best[rows], which[rows] = overlap.max(dim=1)
        highest = torch.maximum(highest, overlap.max(dim=0).values)
    found = torch.where(best >= rule.high, which, torch.where(best >= rule.low, IGNORED, NEGATIVE))
    regions = targets.ignored & (targets.labels < 0)
    for rows in _chunks(len(boxes), len(truths), boxes.device):
        some = found[rows]
        if rule.force:
            forced = (_overlap(boxes[rows], truths, rule) == highest) & (highest > 0)
            some = torch.where(forced.any(dim=1), which[rows], some)
        some = torch.where(targets.ignored[some.clamp(min=0)] & (some >= 0), IGNORED, some)
        found[rows] = _left_out(boxes[rows], some, targets, regions, rule.leave_out)
    return found


def _left_out(boxes: Tensor, found: Tensor, targets: Targets, regions: Tensor, limit: float) -> Tensor:
    objects = targets.boxes[targets.ignored & ~regions]
    if len(objects) and limit < 1:
        found = torch.where((iou_matrix(boxes, objects) > limit).any(dim=1), IGNORED, found)
    if regions.any():
        inside = (covered_matrix(boxes, targets.boxes[regions]) > LEAVE_OUT_INSIDE).any(dim=1)
        found = torch.where(inside & (found == NEGATIVE), IGNORED, found)
    return found


def _overlap(boxes: Tensor, truths: Tensor, rule: MatchRule) -> Tensor:
    return iou_matrix(boxes, truths) if rule.metric == "iou" else nwd_matrix(boxes, truths, scale=rule.scale)


def _chunks(count: int, columns: int, device: torch.device) -> Iterator[Tensor]:
    """Rows of a matrix of `count` times `columns`, a bounded part at a time."""
    step = max(1, _CHUNK // columns)
    for start in range(0, count, step):
        yield torch.arange(start, min(count, start + step), device=device)


def some_of(rows: Tensor, count: int) -> Tensor:
    """All of some rows, or `count` of them, drawn by torch's random numbers."""
    return rows if len(rows) <= count else rows[torch.randperm(len(rows), device=rows.device)[:count]]
