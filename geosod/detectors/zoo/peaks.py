"""Peaks of heat maps, placed between cells."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

#: Parts of a pixel to which peaks are placed. A power of two: positions and boxes are then exact in float32, whatever
#: the tile, and a tree has the same box in every tile that shows it.
_PARTS = 64


def highest_around(heat: Tensor, window: int) -> Tensor:
    """The maximum of the square of an odd side about every cell of maps (..., H, W), of what lies inside the map.

    As ``max_pool2d(heat, window, stride=1, padding=window // 2)``, which on a CPU took 5 ms for 3 x 256 x 256 and a
    window of 3, and 87 ms for 1024 x 1024 and 7; this takes 0.2 and 1.4 ms.
    """
    return _along(_along(heat, window, -2), window, -1)


def _along(heat: Tensor, window: int, dim: int) -> Tensor:
    """The running maximum along one axis, of spans that double until two of them cover the window."""
    reach = window // 2
    padding = [reach, reach] if dim == -1 else [0, 0, reach, reach]
    highest, span = F.pad(heat, padding, value=-torch.inf), 1
    while span < window:
        shift = min(span, window - span)
        count = highest.shape[dim] - shift
        highest = torch.maximum(highest.narrow(dim, 0, count), highest.narrow(dim, shift, count))
        span += shift
    return highest


def peaks(raw: Tensor, *, threshold: float, topk: int, window: int, refine: int) -> tuple[Tensor, Tensor, Tensor]:
    """The highest pixels of their neighbourhoods, placed between pixels by a parabola.

    Runs on the device of `raw`, in float32.

    Args:
        raw: (B, classes, H, W) logits.
        threshold: minimum score, which is the sigmoid of the logit.
        topk: maximum number of peaks of one image; the best ones are kept.
        window: a peak is nowhere exceeded in its class in the square of this odd side about it.
        refine: distance in pixels of the neighbours that, with the peak itself, define the parabola, along x and
            along y; its top lies at most half that distance from the pixel. 0 leaves peaks in the middle of it.

    Returns:
        Centres (B, K, 2) float32 ``x, y`` in pixels of the tile frame; scores (B, K) float32, descending, -inf
        where there are no more; labels (B, K) int64. K is the number of peaks of the image that has most, or `topk`.
    """
    _, classes, rows, cols = raw.shape
    heat = raw.float()
    highest = highest_around(heat, window)
    scores, index = best_of(heat, highest == heat, threshold=threshold, topk=topk)
    return _centres(heat, index, refine), scores, index // (rows * cols)


def best_of(heat: Tensor, chosen: Tensor, *, threshold: float, topk: int) -> tuple[Tensor, Tensor]:
    """Scores (B, K) float32 and places (B, K) in the flattened map of what is chosen of logits (B, C, H, W).

    The highest first, -inf and 0 where there are no more; K is the number of the image that has most, or `topk`.
    """
    # Scores are compared below; here it only keeps the many faint ones out.
    faint = math.log(threshold / (1 - threshold)) - 0.01 if 0 < threshold < 1 else -math.inf
    best, index = _ranked(heat.flatten(1), (chosen & (heat >= faint)).flatten(1), topk)
    # Vector and scalar code differ in the last bit, and which of them runs depends on how many peaks there are.
    scores = best.double().sigmoid().float()
    scores = torch.where((scores >= threshold) & torch.isfinite(best), scores, torch.full_like(scores, -torch.inf))
    return scores, index


def decode_fixed_peaks(
    raw: Tensor, *, threshold: float, topk: int, window: int, refine: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As `peaks`, with `topk` rows for every image, in operations that an ONNX graph can hold.

    Peaks of one height are in any order, also where they are too many.
    """
    rows, cols = raw.shape[2:]
    heat = raw.float()
    scores = torch.where(highest_around(heat, window) == heat, heat.sigmoid(), torch.zeros_like(heat))
    best, index = scores.flatten(1).topk(topk, dim=1)
    best = torch.where(best >= max(threshold, 1e-6), best, torch.full_like(best, -torch.inf))
    return _centres(heat, index, refine), best, index // (rows * cols)


def _ranked(heat: Tensor, chosen: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """Values and places (B, K), the highest first, of what is `chosen` in rows (B, N); -inf and 0 to fill up.

    Ties are broken by the position in the row, independent of the rest of the batch.
    """
    row, place = torch.nonzero(chosen, as_tuple=True)
    counts = torch.bincount(row, minlength=len(heat))
    rank = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    most = int(counts.max()) if len(row) else 0
    values = heat.new_full((len(heat), most), -torch.inf)
    places = torch.zeros((len(heat), most), dtype=torch.int64, device=heat.device)
    values[row, rank], places[row, rank] = heat[row, place], place
    best, order = values.sort(dim=1, descending=True, stable=True)
    return best[:, :topk], places.gather(1, order)[:, :topk]


def _centres(heat: Tensor, index: Tensor, refine: int) -> Tensor:
    """Places (B, K, 2) of the peaks at `index` (B, K) of the flattened heat, in pixels of the tile frame."""
    rows, cols = heat.shape[2:]
    pixel = index % (rows * cols)
    centres = torch.stack([pixel % cols, pixel.div(cols, rounding_mode="floor")], dim=-1).float() + 0.5
    return centres + _refined(heat, index, refine) if refine else centres


def _refined(heat: Tensor, index: Tensor, step: int) -> Tensor:
    """How far (B, K, 2) the tops lie from the peaks at `index` (B, K) of the flattened heat: pixels, to 64ths."""
    rows, cols = heat.shape[2:]
    flat = heat.flatten(1)
    pixel = index % (rows * cols)
    x, y = pixel % cols, pixel.div(cols, rounding_mode="floor")

    def offset(place: Tensor, size: int, stride: int) -> Tensor:
        # At the edge of the map there is no neighbour on one side, and the peak stays on its pixel.
        inside = (place >= step) & (place < size - step)
        to = inside * (step * stride)
        return _top(flat.gather(1, index - to), flat.gather(1, index), flat.gather(1, index + to))

    away = step * torch.stack([offset(x, cols, 1), offset(y, rows, cols)], dim=-1)
    return (away * _PARTS).round() / _PARTS


def _top(before: Tensor, middle: Tensor, after: Tensor) -> Tensor:
    """Where in -0.5 ... 0.5 the parabola through heights at -1, 0 and 1 is highest; 0 where it has no top."""
    bend = before - 2 * middle + after
    place = 0.5 * (before - after) / bend.clamp(max=-1e-6)
    return torch.where(bend < 0, place.clamp(-0.5, 0.5), torch.zeros_like(place))
