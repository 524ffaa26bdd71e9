"""How large the objects of a set are, in pixels, on the ground, and as a share of their image."""

from __future__ import annotations

from typing import Any

import numpy as np

from geosod.arrays import BoolArray, FloatArray
from geosod.datasets.labels import Labels

#: Edges of the bins of √area in pixels: half-octaves from 1 to 4096.
SIDE_EDGES = tuple(float(2 ** (k / 2)) for k in range(25))
_PERCENTS = (0, 5, 10, 25, 50, 75, 90, 95, 100)


def counted_boxes(labels: Labels) -> BoolArray:
    """(N,) bool, the boxes of single objects that count: neither crowds nor ignored."""
    return ~(labels.crowd | labels.ignore)


def class_counts(labels: Labels) -> dict[str, int]:
    """Number of objects of each class that count."""
    chosen = labels.labels[counted_boxes(labels)]
    return dict(zip(labels.classes, np.bincount(chosen, minlength=len(labels.classes)).tolist(), strict=True))


def sides(labels: Labels) -> FloatArray:
    """(N, 2) float64, width and height of the boxes in pixels."""
    return np.asarray(labels.boxes[:, 2:] - labels.boxes[:, :2])


def relative_scale(labels: Labels) -> FloatArray:
    """(N,) float64, √(box area / image area): the scale that SNIP measures (Singh and Davis 2018)."""
    if not len(labels):
        return np.empty(0)
    image = np.array([image.width * image.height for image in labels.images], np.float64)
    return np.asarray(np.sqrt(np.prod(sides(labels), axis=1) / image[labels.image]))


def ground_sides(labels: Labels) -> FloatArray:
    """(N, 2) float64, width and height in metres; NaN where the size of the pixels is not known."""
    unknown = (np.nan, np.nan)
    metres = np.array([image.metres_per_pixel or unknown for image in labels.images], np.float64).reshape(-1, 2)
    return np.asarray(sides(labels) * metres[labels.image]) if len(labels) else np.empty((0, 2))


def size_histograms(labels: Labels) -> dict[str, Any]:
    """Distributions of the objects that count; points have none.

    Returns:
        ``side``: percentiles and counts of √area in pixels, in half-octaves; ``relative_scale``: deciles, and the
        factor between the largest and the smallest tenth; ``aspect``: percentiles of width / height; ``side_m``:
        percentiles of √area in metres, of the objects where it is known.
    """
    kept = labels[counted_boxes(labels)]
    wh = sides(kept)
    wh = wh[(wh > 0).all(axis=1)]
    if labels.points or not len(wh):
        return {}
    side = np.sqrt(wh.prod(axis=1))
    edges = np.array([0.0, *SIDE_EDGES, np.inf])
    counts = np.histogram(side, edges)[0]
    used = np.flatnonzero(counts)
    shown = slice(int(used[0]), int(used[-1]) + 1)
    rows = [
        {"from": round(float(a), 2), "to": None if np.isinf(b) else round(float(b), 2), "count": int(n)}
        for a, b, n in zip(edges[:-1][shown], edges[1:][shown], counts[shown], strict=True)
    ]
    scale = relative_scale(kept)
    scale = scale[scale > 0]
    deciles = np.quantile(scale, np.arange(0, 11) / 10)
    found: dict[str, Any] = {
        "side": {"percentiles": percentiles(side), "bins": rows},
        "relative_scale": {
            "deciles": [float(f"{v:.4g}") for v in deciles],
            "factor_of_outer_tenths": float(f"{deciles[9] / deciles[1]:.4g}"),
        },
        "aspect": percentiles(wh[:, 0] / wh[:, 1]),
    }
    metres = np.sqrt(ground_sides(kept).prod(axis=1))
    metres = metres[np.isfinite(metres) & (metres > 0)]
    return found | ({"side_m": percentiles(metres) | {"count": len(metres)}} if len(metres) else {})


def percentiles(values: FloatArray) -> dict[str, float]:
    """Some percentiles, with four digits."""
    found = np.percentile(values, _PERCENTS)
    return {f"p{p}": float(f"{v:.4g}") for p, v in zip(_PERCENTS, found, strict=True)}
