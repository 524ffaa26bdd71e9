"""Statistics of labelled images on which the choice of tiles, levels and prior boxes rests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from geosod.arrays import FloatArray
from geosod.datasets.fusion import FusionFactors, fusion_factors
from geosod.datasets.image_files import with_ground_size
from geosod.datasets.labels import Labels
from geosod.datasets.priors import (
    Pyramid,
    assign_to_levels,
    best_priors,
    best_shape_iou,
    cluster_shapes,
    retina_pyramid,
)
from geosod.datasets.sizes import class_counts, counted_boxes, ground_sides, percentiles, sides, size_histograms
from geosod.datasets.slice import Slicing, slice_labels
from geosod.datasets.suggest import Suggestion, suggest
from geosod.errors import ConfigError, LabelError
from geosod.tile_size import parse_overlap, parse_tile

#: Shares of truths are counted at these overlaps with the best prior box.
IOUS = (0.5, 0.7)
#: So many priors are suggested as reach this share of the truths at an IoU of 0.5.
_ENOUGH = 0.95


@dataclass(frozen=True, slots=True)
class PriorSet:
    """Prior boxes of one number.

    Attributes:
        count: number of shapes.
        shapes: width and height in pixels of the network's input, by ascending area.
        levels: stride of the level that each is on.
        mean_iou: of each object with its best shape at the same centre.
        best_possible_recall: share of the objects with at least 0.5 there: what a grid without gaps would reach.
        recall: share of the objects that reach each of `IOUS` with a box on the grid of its level.
        boxes: number of boxes in a tile.
    """

    count: int
    shapes: tuple[tuple[float, float], ...]
    levels: tuple[int, ...]
    mean_iou: float
    best_possible_recall: float
    recall: dict[str, float]
    boxes: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """What `geosod stats` reports. Objects that are ignored, and crowds, are left out.

    Attributes:
        images, objects: numbers of them.
        classes: per class the count, and percentiles of √area in pixels (`side_px`) and metres (`side_m`).
        histograms: see `size_histograms`.
        suggestions: settings with reasons.
        tile: (width, height) of the tiles that the following is counted on.
        overlap: of these tiles in pixels or as a ratio.
        tiles: number of the tiles with objects; of those `tile_objects`, where an object counts in every tile that
            shows enough of it.
        tile_objects: see there.
        priors: for 1, 2, 3, … shapes.
        suggested_priors: number of shapes, with its reason.
        anchors: the same figures for the boxes of the pyramid that S-α is counted with.
        budget: number of boxes in a tile that is meant not to be exceeded.
        fusion: S-α.
    """

    images: int
    objects: int
    classes: dict[str, dict[str, Any]]
    histograms: dict[str, Any]
    suggestions: tuple[Suggestion, ...]
    tile: tuple[int, int]
    overlap: tuple[float, float]
    tiles: int
    tile_objects: int
    priors: tuple[PriorSet, ...]
    suggested_priors: Suggestion
    anchors: PriorSet
    budget: int
    fusion: FusionFactors


def describe(
    labels: Labels,
    *,
    tile: Any = None,
    overlap: Any = None,
    scale: float = 1.0,
    max_priors: int = 9,
    budget: int = 10_000,
    pyramid: Pyramid | None = None,
    seed: int = 0,
) -> Statistics:
    """Statistics of a set.

    Args:
        labels: boxes; points have no size.
        tile, overlap: of the tiles of training, as `geosod.detect` takes them; None takes what is suggested.
        scale: pixels of the network's input for one of a tile.
        max_priors: largest number of prior shapes to try.
        budget: number of prior boxes in a tile.
        pyramid: five levels of prior boxes, on which S-α is counted; None takes RetinaNet's for tiny objects.
        seed: of the random numbers.

    Raises:
        LabelError: the labels are points, or no object has an area.
        ConfigError: an argument is out of range.
    """
    if labels.points:
        raise LabelError("points have no size; give labels with boxes")
    if not (np.isfinite(scale) and scale > 0) or max_priors < 1:
        raise ConfigError(f"scale {scale:g} and {max_priors} priors: both must be positive")
    labels = with_ground_size(labels)
    kept = labels[counted_boxes(labels) & (sides(labels) > 0).all(axis=1)]
    if not len(kept):
        raise LabelError("no object has an area, so there is nothing to describe")
    suggestions = suggest(sides(kept))
    of_tile, of_overlap = suggestions[0].value, suggestions[1].value
    size, shared = parse_tile(tile or of_tile), parse_overlap(of_overlap if overlap is None else overlap)
    tiles = slice_labels(labels, Slicing(size, shared, negatives=0.0))
    tiles = tiles[counted_boxes(tiles) & (sides(tiles) > 0).all(axis=1)]
    boxes, inputs = scaled_boxes(tiles, scale)
    pyramid = retina_pyramid() if pyramid is None else pyramid
    if len(pyramid.strides) != 5:
        raise ConfigError(f"S-α is defined for the levels 2 to 6, not for {len(pyramid.strides)} levels")
    found = best_priors(boxes, inputs, pyramid)
    each = [
        _prior_set(boxes, inputs, _clustered(boxes, k, pyramid, seed), size, scale) for k in range(1, max_priors + 1)
    ]
    each = [one for k, one in enumerate(each) if k == 0 or one.count > each[k - 1].count]
    return Statistics(
        images=len(labels.images),
        objects=len(kept),
        classes=_classes(kept),
        histograms=size_histograms(labels),
        suggestions=suggestions,
        tile=size,
        overlap=shared,
        tiles=len(tiles.images),
        tile_objects=len(tiles),
        priors=tuple(each),
        suggested_priors=_suggested(each, budget),
        anchors=_prior_set(boxes, inputs, pyramid, size, scale),
        budget=budget,
        fusion=fusion_factors(np.bincount(found.level, minlength=5)),
    )


def scaled_boxes(tiles: Labels, scale: float) -> tuple[FloatArray, FloatArray]:
    """(N, 4) boxes in pixels of the network's input, and (N, 2) the size of each one's input there."""
    sizes = np.array([(image.width, image.height) for image in tiles.images], np.float64).reshape(-1, 2)
    return tiles.boxes * scale, sizes[tiles.image] * scale


def _classes(kept: Labels) -> dict[str, dict[str, Any]]:
    side, metres = np.sqrt(sides(kept).prod(axis=1)), np.sqrt(ground_sides(kept).prod(axis=1))
    out: dict[str, dict[str, Any]] = {}
    for k, (name, count) in enumerate(class_counts(kept).items()):
        mine = kept.labels == k
        out[name] = {"count": count}
        if mine.any():
            out[name]["side_px"] = percentiles(side[mine])
        if (known := mine & np.isfinite(metres)).any():
            out[name]["side_m"] = percentiles(metres[known])
    return out


def _clustered(boxes: FloatArray, count: int, pyramid: Pyramid, seed: int) -> Pyramid:
    return assign_to_levels(cluster_shapes(boxes[:, 2:] - boxes[:, :2], count, seed=seed), pyramid.strides)


def _prior_set(
    boxes: FloatArray, inputs: FloatArray, pyramid: Pyramid, tile: tuple[int, int], scale: float
) -> PriorSet:
    pairs = [(shape, s) for s, of in zip(pyramid.strides, pyramid.shapes, strict=True) for shape in of]
    pairs.sort(key=lambda pair: pair[0][0] * pair[0][1])
    centred = best_shape_iou(boxes[:, 2:] - boxes[:, :2], np.array([shape for shape, _ in pairs]))
    placed = best_priors(boxes, inputs, pyramid).iou
    return PriorSet(
        count=len(pairs),
        shapes=tuple((round(w, 2), round(h, 2)) for (w, h), _ in pairs),
        levels=tuple(stride for _, stride in pairs),
        mean_iou=float(centred.mean()),
        best_possible_recall=float((centred >= IOUS[0]).mean()),
        recall={f"{iou:g}": float((placed >= iou).mean()) for iou in IOUS},
        boxes=pyramid.count(round(tile[0] * scale), round(tile[1] * scale)),
    )


def _suggested(each: list[PriorSet], budget: int) -> Suggestion:
    key = f"{IOUS[0]:g}"
    within = [one for one in each if one.boxes <= budget]
    if not within:
        least = min(each, key=lambda one: one.boxes)
        reason = (
            f"even {least.count} needs {least.boxes:,} boxes a tile, over the budget of {budget:,}: use smaller tiles, "
            "a coarser stride for the smallest shapes, or a larger budget"
        )
        return Suggestion("priors", str(least.count), reason)
    enough = next((one for one in within if one.recall[key] >= _ENOUGH), None)
    chosen = enough or max(within, key=lambda one: one.recall[key])
    reason = (
        f"{chosen.recall[key]:.1%} of the objects meet a box with an IoU of 0.5, with {chosen.boxes:,} boxes a tile"
    )
    if enough is None:
        return Suggestion("priors", str(chosen.count), f"{reason}, the most within the budget of {budget:,}")
    return Suggestion("priors", str(chosen.count), f"{reason}; the fewest shapes that reach {_ENOUGH:.0%}")
