"""How far the boxes of one way of running a model are from those of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import box_iou

from geosod.detections import Detections

#: IoU from which two boxes of a class count as one.
SAME = 0.5


@dataclass(frozen=True, slots=True)
class Agreement:
    """Boxes of a way compared with those of the reference, tile by tile.

    Attributes:
        reference, found: numbers of boxes.
        matched: pairs of the same class with an IoU of at least 0.5, each box in one pair at most.
        max_px, mean_px: difference of the coordinates of matched boxes in pixels; 0 where there are none.
        max_score: difference of their scores.
    """

    reference: int
    found: int
    matched: int
    max_px: float
    mean_px: float
    max_score: float

    @property
    def f1(self) -> float:
        """F1 of the way's boxes if the reference's were the truth; 1 where neither has any."""
        total = self.reference + self.found
        return 2 * self.matched / total if total else 1.0


def agreement(reference: Sequence[Detections], found: Sequence[Detections]) -> Agreement:
    """Compare the boxes of tiles, in the same order.

    Args:
        reference: boxes of each tile.
        found: boxes of each tile, run in another way.
    """
    pairs = [_pairs(a, b) for a, b in zip(reference, found, strict=True)]
    boxes = [np.abs(a.boxes[i] - b.boxes[j]) for a, b, (i, j) in zip(reference, found, pairs, strict=True)]
    scores = [np.abs(a.scores[i] - b.scores[j]) for a, b, (i, j) in zip(reference, found, pairs, strict=True)]
    away, score = np.concatenate([*boxes, np.zeros((0, 4))]), np.concatenate([*scores, np.zeros(0)])
    return Agreement(
        sum(map(len, reference)),
        sum(map(len, found)),
        len(away),
        float(away.max(initial=0.0)),
        float(away.mean()) if len(away) else 0.0,
        float(score.max(initial=0.0)),
    )


def _pairs(a: Detections, b: Detections) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Indices of boxes that are the same in both, the pairs that overlap most first."""
    iou = box_iou(torch.tensor(a.boxes), torch.tensor(b.boxes)).numpy()
    overlap = np.where(a.labels[:, None] == b.labels[None], iou, 0.0)
    rows, cols = np.nonzero(overlap >= SAME)
    order = np.argsort(-overlap[rows, cols], kind="stable")
    taken_rows, taken_cols = np.zeros(len(a), np.bool_), np.zeros(len(b), np.bool_)
    chosen = []
    for k in order:
        if not (taken_rows[rows[k]] or taken_cols[cols[k]]):
            taken_rows[rows[k]] = taken_cols[cols[k]] = True
            chosen.append(k)
    return rows[chosen], cols[chosen]
