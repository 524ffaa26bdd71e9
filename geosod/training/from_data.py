"""Parameters of a network that follow from its data: prior boxes, and fusion factors by S-α."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from geosod.arrays import FloatArray
from geosod.datasets.fusion import fusion_factors
from geosod.datasets.labels import Labels
from geosod.datasets.priors import Pyramid, best_priors, cluster_shapes, retina_pyramid
from geosod.datasets.slice import Slicing, slice_labels
from geosod.errors import ConfigError, LabelError
from geosod.setting_types import LevelSetting
from geosod.training.config import TrainConfig
from geosod.training.pyramid import sizes_of, within

#: Gong et al. 2021 could not train with factors above it.
MAX_FACTOR = 1.1
#: Sides of the finest level's prior boxes that are tried, in pixels: each 12 % larger.
_SIDES = 4.0 * 1.12 ** np.arange(25)
#: Objects that are compared, at most.
_MAX_OBJECTS = 20_000
_STRIDES = (4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class EstimatedAnchors:
    """Prior boxes that fit the data.

    Attributes:
        sizes: side of the boxes of each level, in pixels of the network's input.
        ratios: heights relative to widths.
        recall: share of the objects that some box overlaps with an IoU of 0.5.
        before: the same of the usual boxes.
    """

    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    recall: float
    before: float

    def __str__(self) -> str:
        sizes, ratios = (", ".join(f"{value:g}" for value in values) for values in (self.sizes, self.ratios))
        return (
            f"sizes {sizes} px, ratios {ratios}; {self.recall:.1%} of the objects meet one with an IoU of 0.5 "
            f"({self.before:.1%} with the usual ones)"
        )


def boxes_as_trained(labels: Labels, config: TrainConfig, *, upscale: float = 1.0) -> tuple[FloatArray, FloatArray]:
    """(N, 4) boxes in pixels of the network's input, and (N, 2) the size of each one's input, on tiles as trained.

    Args:
        labels: of all images.
        config: `tile`, `min_visible`, and `levels` or `slice` and `resize_width`.
        upscale: factor by which tiles are enlarged where `resize_width` does not say.

    Raises:
        LabelError: there is no object with an area.
    """
    side = config.tile if config.slice is None else ((config.slice[0] + config.slice[1]) // 2,) * 2
    enlarged = upscale if config.enlargement is None else config.enlargement
    if config.levels is None:
        parts = [_boxes_in_tiles(labels, side, config.min_visible, enlarged)]
    else:
        parts = [_boxes_at_level(labels, config, level, enlarged) for level in config.levels]
    boxes, sizes = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    if not len(boxes):
        raise LabelError("no object has an area, so nothing can be estimated from the data")
    return boxes, sizes


def _boxes_at_level(
    labels: Labels, config: TrainConfig, level: LevelSetting, enlarged: float
) -> tuple[FloatArray, FloatArray]:
    """As `boxes_as_trained`, of the objects that count at a scale."""
    scale = float(level.scale)
    side = max(1, round(config.tile[0] / scale)), max(1, round(config.tile[1] / scale))
    return _boxes_in_tiles(labels[within(labels.boxes, sizes_of(level))], side, config.min_visible, enlarged * scale)


def _boxes_in_tiles(
    labels: Labels, side: tuple[int, int], min_visible: float, scale: float
) -> tuple[FloatArray, FloatArray]:
    """Boxes and sizes of the tiles that show them, times a scale."""
    tiles = slice_labels(labels, Slicing(side, (0.2, 0.2), min_visible=min_visible, negatives=0.0))
    counted = ~tiles.ignore & ~tiles.crowd & (tiles.boxes[:, 2:] > tiles.boxes[:, :2]).all(axis=1)
    sizes = np.array([(image.width, image.height) for image in tiles.images], np.float64).reshape(-1, 2)
    return tiles.boxes[counted] * scale, sizes[tiles.image[counted]] * scale


def estimated_anchors(labels: Labels, config: TrainConfig, *, upscale: float = 1.0) -> EstimatedAnchors:
    """Prior boxes for a data set: three ratios from its shapes, and the sizes with the best mean IoU.

    Sizes double from level to level, as strides do.

    Raises:
        LabelError: there is no object with an area.
    """
    # Boxes thinner than a pixel are mistakes; a few of them would make whole clusters of shapes.
    solid = np.flatnonzero((labels.boxes[:, 2:] - labels.boxes[:, :2] >= 1).all(axis=1))
    boxes, inputs = boxes_as_trained(labels[solid], config, upscale=upscale)
    if len(boxes) > _MAX_OBJECTS:
        rows = np.random.default_rng(config.seed).choice(len(boxes), _MAX_OBJECTS, replace=False)
        boxes, inputs = boxes[rows], inputs[rows]
    ratios = _ratios(boxes, config.seed)
    mean = partial(_mean_iou, boxes, inputs, ratios)
    base = max(_SIDES.tolist(), key=mean)
    sizes = tuple(round(base * 2**k, 1) for k in range(len(_STRIDES)))
    usual, found = (best_priors(boxes, inputs, p).iou for p in (retina_pyramid(), retina_pyramid(sizes, ratios)))
    return EstimatedAnchors(sizes, ratios, float((found >= 0.5).mean()), float((usual >= 0.5).mean()))


def _mean_iou(boxes: FloatArray, inputs: FloatArray, ratios: tuple[float, ...], base: float) -> float:
    sizes = tuple(base * 2**k for k in range(len(_STRIDES)))
    return float(best_priors(boxes, inputs, retina_pyramid(sizes, ratios)).iou.mean())


def _ratios(boxes: FloatArray, seed: int) -> tuple[float, ...]:
    """Three ratios of height to width: those of the clusters of all shapes when these have one area."""
    sides = boxes[:, 2:] - boxes[:, :2]
    shapes = sides / np.sqrt(sides.prod(axis=1, keepdims=True))
    found = cluster_shapes(shapes, 3, seed=seed)
    return tuple(sorted({round(float(h / w), 2) for w, h in found}))


def s_alpha(
    labels: Labels, config: TrainConfig, architecture: str, parameters: dict[str, Any], *, upscale: float = 1.0
) -> tuple[tuple[float, float, float], tuple[int, ...]]:
    """Fusion factors by algorithm 1 of Gong et al. 2021, counted on tiles as trained with the network's prior boxes.

    Returns:
        The factors of P3 where it is added to P2, of P4 to P3 and of P5 to P4, and the number of objects of P2 to P6. A
        factor that is not defined, since the finer level has no object, is 1, and none is above 1.1.

    Raises:
        ConfigError: the architecture has no prior boxes on five levels.
        LabelError: there is no object with an area.
    """
    pyramid = _pyramid_of(architecture, parameters)
    boxes, inputs = boxes_as_trained(labels, config, upscale=upscale)
    counts = np.bincount(best_priors(boxes, inputs, pyramid).level, minlength=5)
    found = fusion_factors(counts)
    alphas = (found.alpha_2_3, found.alpha_3_4, found.alpha_4_5)
    a, b, c = (1.0 if alpha is None else min(alpha, MAX_FACTOR) for alpha in alphas)
    return (a, b, c), found.counts


def _pyramid_of(architecture: str, parameters: dict[str, Any]) -> Pyramid:
    """The prior boxes of a network; those of RetinaNet for one that has a pyramid without prior boxes."""
    from geosod.detectors.zoo.retinanet import RetinaNet

    names = ("sizes", "ratios", "scales", "stem_stride")
    chosen = {name: parameters[name] for name in names if name in parameters}
    try:
        made = RetinaNet(bands=1, classes=1, backbone="slim", width=4, channels=4, tower=0, **chosen)
    except TypeError as error:
        raise ConfigError(
            f"fusion s-alpha: {architecture} has no prior boxes to count objects with: {error}"
        ) from error
    shapes: Sequence[Any] = made.anchors.shapes
    return Pyramid(tuple(made.anchors.strides), tuple(shapes))
