"""Prior boxes (anchors): shapes from the data, and how well boxes on the grids of a pyramid meet the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from geosod.arrays import FloatArray, IntArray
from geosod.errors import ConfigError

#: Shapes are clustered from at most so many objects, drawn at random.
_MAX_SHAPES = 10_000
_ROUNDS, _RESTARTS = 50, 8
#: Truths times priors whose IoU is computed at once.
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class Pyramid:
    """Levels of a feature pyramid, each with prior boxes at the centre of every cell.

    Attributes:
        strides: pixels of the network's input per cell, of each level.
        shapes: width and height of the boxes of each level, in pixels of the network's input.
    """

    strides: tuple[int, ...]
    shapes: tuple[tuple[tuple[float, float], ...], ...]

    def __post_init__(self) -> None:
        if len(self.strides) != len(self.shapes) or not self.strides or min(self.strides) < 1:
            raise ConfigError(
                f"{len(self.strides)} strides for {len(self.shapes)} levels of boxes; give one for each level"
            )

    def count(self, width: int, height: int) -> int:
        """Number of boxes in an input of that size."""
        return sum(
            math.ceil(width / s) * math.ceil(height / s) * len(of)
            for s, of in zip(self.strides, self.shapes, strict=True)
        )


def retina_pyramid(
    sizes: tuple[float, ...] = (8, 16, 32, 64, 128),
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
    strides: tuple[int, ...] = (4, 8, 16, 32, 64),
) -> Pyramid:
    """RetinaNet's boxes with one scale a level: area size², height / width as `ratios` (Lin et al. 2017).

    Raises:
        ConfigError: a size or ratio is not positive, or there are not as many sizes as strides.
    """
    if len(sizes) != len(strides) or min((*sizes, *ratios), default=0) <= 0:
        raise ConfigError(
            f"anchor sizes {sizes}, ratios {ratios}: give a positive size for each of the strides {strides}"
        )
    shapes = tuple(tuple((size / math.sqrt(r), size * math.sqrt(r)) for r in ratios) for size in sizes)
    return Pyramid(strides, shapes)


def assign_to_levels(shapes: FloatArray, strides: tuple[int, ...]) -> Pyramid:
    """Put each shape on the level whose stride is nearest to half of its side, as RetinaNet's sizes are."""
    side = np.sqrt(shapes.prod(axis=1))
    level = np.abs(np.log2(side[:, None] / (2.0 * np.array(strides)))).argmin(axis=1)
    return Pyramid(strides, tuple(tuple(map(tuple, shapes[level == k].tolist())) for k in range(len(strides))))


def shape_iou(shapes: FloatArray, others: FloatArray) -> FloatArray:
    """(N, M) IoU of boxes (N, 2) and (M, 2), width and height, with one centre."""
    shared = np.minimum.outer(shapes[:, 0], others[:, 0]) * np.minimum.outer(shapes[:, 1], others[:, 1])
    union = shapes.prod(axis=1)[:, None] + others.prod(axis=1)[None] - shared
    return np.asarray(shared / union)


def cluster_shapes(shapes: FloatArray, count: int, *, seed: int = 0) -> FloatArray:
    """Prior shapes by k-means with the distance 1 - IoU (Redmon and Farhadi 2017, *YOLO9000*, section 2).

    Centres move to the median of their shapes. Of several starts (k-means++) the clusters with the best mean IoU are
    taken, over all rounds, since medians need not improve it.

    Args:
        shapes: (N, 2) float64 width and height, positive.
        count: number of priors.
        seed: of the random numbers.

    Returns:
        (count, 2) float64, by ascending area; fewer where there are fewer different shapes.

    Raises:
        ConfigError: there is no shape, or `count` is less than 1.
    """
    if count < 1 or not len(shapes):
        raise ConfigError(f"{count} priors from {len(shapes)} shapes; both must be 1 or more")
    rng = np.random.default_rng(seed)
    data = shapes if len(shapes) <= _MAX_SHAPES else shapes[rng.choice(len(shapes), _MAX_SHAPES, replace=False)]
    count = min(count, len(np.unique(data, axis=0)))
    best, best_iou = data[:count], -1.0
    for _ in range(_RESTARTS):
        centres = _start(data, count, rng)
        before: IntArray | None = None
        for _ in range(_ROUNDS):
            iou = shape_iou(data, centres)
            nearest = iou.argmax(axis=1)
            if (mean := float(iou.max(axis=1).mean())) > best_iou:
                best, best_iou = centres.copy(), mean
            if before is not None and (nearest == before).all():
                break
            before = nearest
            for k in range(count):
                if (mine := nearest == k).any():
                    centres[k] = np.median(data[mine], axis=0)
    return best[np.argsort(best.prod(axis=1), kind="stable")]


def _start(data: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """First centres: each next one is drawn with a probability that grows with its distance from the others."""
    centres = [data[rng.integers(len(data))]]
    distance = 1 - shape_iou(data, np.array(centres))[:, 0]
    while len(centres) < count:
        weight = distance**2
        total = weight.sum()
        chosen = rng.choice(len(data), p=weight / total) if total > 0 else rng.integers(len(data))
        centres.append(data[chosen])
        distance = np.minimum(distance, 1 - shape_iou(data, data[chosen][None])[:, 0])
    return np.array(centres)


@dataclass(frozen=True, slots=True, eq=False)
class BestPriors:
    """The prior box that overlaps each object best.

    Attributes:
        iou: (N,) float64.
        level: (N,) int64, index of its level; of equal ones the finest.
        boxes: (N, 4) float64, the prior itself.
    """

    iou: FloatArray
    level: IntArray
    boxes: FloatArray


def best_priors(boxes: FloatArray, sizes: FloatArray, pyramid: Pyramid) -> BestPriors:
    """For each object the best of all prior boxes of its image.

    For one shape on one grid that is the box whose centre is nearest to the object's, so that no other needs to be
    tried: its overlap along each axis falls with the distance along that axis.

    Args:
        boxes: (N, 4) float64 in pixels of the network's input.
        sizes: (N, 2) float64 width and height of each object's image there.
        pyramid: the prior boxes, centred on the cells of each level.
    """
    found = np.full(len(boxes), -1.0), np.zeros(len(boxes), np.int64), np.zeros((len(boxes), 4))
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    for level, (stride, shapes) in enumerate(zip(pyramid.strides, pyramid.shapes, strict=True)):
        last = np.ceil(sizes / stride) - 1
        cell = (np.clip(np.floor(centre / stride), 0, last) + 0.5) * stride
        for shape in shapes:
            half = np.array(shape) / 2
            prior = np.hstack([cell - half, cell + half])
            iou = _pair_iou(boxes, prior)
            better = iou > found[0]
            found[0][better], found[1][better], found[2][better] = iou[better], level, prior[better]
    return BestPriors(*found)


def _pair_iou(a: FloatArray, b: FloatArray) -> FloatArray:
    """(N,) IoU of row i of one with row i of the other."""
    shared = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0).prod(axis=1)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros(len(a)), where=union > 0))


def best_shape_iou(shapes: FloatArray, priors: FloatArray) -> FloatArray:
    """(N,) IoU of each shape with the best prior at the same centre: what a grid without gaps would reach."""
    step = max(1, _CHUNK // max(1, len(priors)))
    parts = [shape_iou(shapes[k : k + step], priors).max(axis=1) for k in range(0, len(shapes), step)]
    return np.concatenate(parts) if parts else np.empty(0)
