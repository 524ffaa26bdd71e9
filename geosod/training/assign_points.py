"""Which points of a feature pyramid are examples of which object: FCOS's rule, and TOOD's alignment."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from geosod.errors import ConfigError
from geosod.training.assign import IGNORED, NEGATIVE
from geosod.training.overlaps import iou_pairs
from geosod.training.targets import Targets

#: Points times objects that are compared at once.
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class PointRule:
    """FCOS's rule (Tian et al. 2019).

    Attributes:
        radius: points are positive within so many strides of the object's centre, along each axis, and inside it.
        reach: a level takes objects whose farthest side is up to so many strides away from the point, and more than
            half of that but on the finest level; on the coarsest it takes all that are farther away.
    """

    radius: float = 1.5
    reach: float = 8.0

    def __post_init__(self) -> None:
        if not self.radius > 0 or not self.reach > 0:
            raise ConfigError(f"points: radius={self.radius} and reach={self.reach} must be above 0")


@torch.no_grad()
def assign_points(points: Tensor, strides: Tensor, targets: Targets, rule: PointRule) -> Tensor:
    """What each point is an example of, by the distances to the sides of the objects it lies in.

    Of several objects the smallest counts. All objects take part; then points of ignored ones are left out, and so are
    points anywhere inside an ignored one that are negative examples otherwise. An object that no point is near enough
    to, since it is smaller than a cell, has the nearest point of the finest level, unless that is another object's.

    Args:
        points: (N, 2) float32 ``x, y``.
        strides: (N,) float32 of each point's level.
        targets: of the image, on the same device, without degenerate boxes.
        rule: distances.

    Returns:
        (N,) int64, the position of an object in the targets, `NEGATIVE` or `IGNORED`.
    """
    boxes = targets.boxes
    area, middle = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1), (boxes[:, :2] + boxes[:, 2:]) / 2
    low, high = _limits(strides, rule.reach)
    least, found = torch.full((len(points),), math.inf, device=points.device), _nothing(points)
    covered, lost = torch.zeros_like(found, dtype=torch.bool), torch.zeros_like(targets.ignored)
    for some in _chunks(len(points), len(boxes), points.device):
        nearest, farthest = _sides(points, boxes[some])
        inside = nearest > 0
        near = _away(points, middle[some]) < rule.radius * strides[:, None]
        fits = inside & near & (farthest > low[:, None]) & (farthest < high[:, None])
        smallest, which = torch.where(fits, area[some], math.inf).min(dim=1)
        found = torch.where(smallest < least, some[which], found)
        least = torch.minimum(least, smallest)
        covered |= (inside & targets.ignored[some]).any(dim=1)
        lost[some] = ~fits.any(dim=0)
    found = _rescued(found, lost, points, strides, middle)
    return _without_ignored(found, covered, targets)


def _nothing(points: Tensor) -> Tensor:
    return torch.full((len(points),), NEGATIVE, dtype=torch.int64, device=points.device)


def _sides(points: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(N, M) distances from points to the nearest and the farthest side; the nearest is negative outside."""
    # Not as one (N, M, 4): to reduce a last axis of four takes several times as long.
    x, y = points.T.contiguous()[:, :, None]
    left, top, right, bottom = boxes.T.contiguous()
    sides = x - left, right - x, y - top, bottom - y
    return reduce(torch.minimum, sides), reduce(torch.maximum, sides)


def _away(points: Tensor, middles: Tensor) -> Tensor:
    """(N, M) distances along the axis on which they are farther apart."""
    across, down = (points.T.contiguous()[:, :, None] - middles.T.contiguous()[:, None]).abs_()
    return torch.maximum(across, down)


def _limits(strides: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    low = torch.where(strides == strides.min(), torch.zeros_like(strides), strides * reach / 2)
    high = torch.where(strides == strides.max(), torch.full_like(strides, math.inf), strides * reach)
    return low, high


def _rescued(found: Tensor, lost: Tensor, points: Tensor, strides: Tensor, middle: Tensor) -> Tensor:
    """As `found`, with a point of the finest level for objects that have none, and whose middle lies in its cell."""
    rows = torch.nonzero(lost).flatten()
    finest = torch.nonzero(strides == strides.min()).flatten()
    found = found.clone()
    for some in _chunks(len(finest), len(rows), points.device):
        distance, nearest = _away(points[finest], middle[rows[some]]).min(dim=0)
        for place, truth, far in zip(finest[nearest].tolist(), rows[some].tolist(), distance.tolist(), strict=True):
            if found[place] == NEGATIVE and far <= strides.min() / 2:
                found[place] = truth
    return found


def _without_ignored(found: Tensor, covered: Tensor, targets: Targets) -> Tensor:
    """As `found`, with `IGNORED` for points of ignored objects, and for negative ones that these cover."""
    if len(targets.ignored):
        found = torch.where(targets.ignored[found.clamp(min=0)] & (found >= 0), IGNORED, found)
    return torch.where(covered & (found == NEGATIVE), IGNORED, found)


def _chunks(rows: int, count: int, device: torch.device) -> Iterator[Tensor]:
    """Positions of objects, a bounded number times that of points at a time."""
    step = max(1, _CHUNK // max(1, rows))
    for start in range(0, count if rows else 0, step):
        yield torch.arange(start, min(count, start + step), device=device)


@dataclass(frozen=True, slots=True)
class AlignmentRule:
    """TOOD's rule (Feng et al. 2021): alignment t = score^alpha · IoU^beta.

    Attributes:
        alpha, beta: exponents.
        topk: positive points of an object, those inside it with the highest alignment.
    """

    alpha: float = 1.0
    beta: float = 6.0
    topk: int = 13

    def __post_init__(self) -> None:
        if min(self.alpha, self.beta) < 0 or self.topk < 1:
            raise ConfigError(
                f"alignment: alpha={self.alpha}, beta={self.beta} must be at least 0, and topk={self.topk} at least 1"
            )


@torch.no_grad()
def assign_aligned(
    points: Tensor, strides: Tensor, scores: Tensor, boxes: Tensor, targets: Targets, rule: AlignmentRule
) -> tuple[Tensor, Tensor]:
    """What each point is an example of, by how well its present prediction is aligned with an object.

    Of several objects the one with the highest IoU counts. Ignored objects take part as in `assign_points`.

    Args:
        points, strides: as in `assign_points`.
        scores: (N, classes) float32, predicted.
        boxes: (N, 4) float32, predicted.
        targets: of the image, on the same device, without degenerate boxes.
        rule: exponents.

    Returns:
        (N,) int64 as `assign_points`; and (N,) float32, the normalised alignment of positive points, which is what
        their score should be: of each object the highest is its highest IoU.
    """
    truths = targets.boxes
    highest, found = torch.full((len(points),), -1.0, device=points.device), _nothing(points)
    covered, lost = torch.zeros_like(found, dtype=torch.bool), torch.zeros_like(targets.ignored)
    for some in _chunks(len(points), len(truths), points.device):
        inside = _sides(points, truths[some])[0] > 0
        # Of all pairs, few are inside.
        point, truth = torch.nonzero(inside, as_tuple=True)
        overlap, aligned = _alignment(scores, boxes, point, some[truth], targets, rule)
        ranked = torch.full(inside.shape, -1.0, device=points.device)
        ranked[point, truth] = aligned
        best = ranked.topk(min(rule.topk, len(points)), dim=0).indices
        chosen = torch.zeros_like(inside).scatter_(0, best, True)
        overlaps = ranked.fill_(-1.0)
        overlaps[point, truth] = torch.where(chosen[point, truth], overlap, -1.0)
        most, which = overlaps.max(dim=1)
        found = torch.where(most > highest, some[which], found)
        highest = torch.maximum(highest, most)
        covered |= (inside & targets.ignored[some]).any(dim=1)
        lost[some] = ~inside.any(dim=0)
    found = _rescued(found, lost, points, strides, (truths[:, :2] + truths[:, 2:]) / 2)
    wanted = _normalised(scores, boxes, found, targets, rule)
    return _without_ignored(found, covered, targets), wanted


def _normalised(scores: Tensor, boxes: Tensor, found: Tensor, targets: Targets, rule: AlignmentRule) -> Tensor:
    """(N,) alignment of positive points with their object, scaled so that its highest is the object's highest IoU."""
    rows = torch.nonzero(found >= 0).flatten()
    truth, count = found[rows], len(targets.boxes)
    overlap, aligned = _alignment(scores, boxes, rows, truth, targets, rule)
    tops = [scores.new_zeros(count).scatter_reduce(0, truth, of, "amax") for of in (aligned, overlap)]
    wanted = scores.new_zeros(len(found))
    wanted[rows] = aligned / tops[0][truth].clamp(min=1e-12) * tops[1][truth]
    return wanted


def _alignment(
    scores: Tensor, boxes: Tensor, point: Tensor, truth: Tensor, targets: Targets, rule: AlignmentRule
) -> tuple[Tensor, Tensor]:
    """(K,) IoU and alignment of points, by what they predict, with objects, pair by pair."""
    overlap = iou_pairs(boxes[point], targets.boxes[truth])
    return overlap, scores[point, targets.labels[truth].clamp(min=0)] ** rule.alpha * overlap**rule.beta
