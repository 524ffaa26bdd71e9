"""Raw boxes of a batch of tiles to detections: one vectorised function, on the device where the boxes are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geosod.arrays import BoolArray, IntArray
from geosod.detections import Detections, edge_flags
from geosod.detectors.card import ModelCard
from geosod.detectors.classes import ClassRules
from geosod.detectors.contract import RawBoxes
from geosod.detectors.operators import nms
from geosod.scene import TileBatch
from geosod.tile_size import MAX_SIDE

#: Boxes of a tile that take part in NMS, the best ones: its time grows with their square.
_MAX_CANDIDATES = 30_000
#: Boxes in one call of NMS on a GPU, whose memory grows with their square.
_MAX_NMS_BOXES = 20_000
#: There coordinates are rounded to this fraction of a pixel, so that shifting them is exact.
_NMS_PARTS = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class BatchDetections:
    """What was found in a batch.

    Attributes:
        detections: the boxes of all tiles, tile by tile, scene frame.
        counts: (N,) int64, number of boxes of each tile.
        capped: (N,) bool, the tile reached the card's `top_k`: it may hold more objects.
        degenerate: (N,) int64, boxes without area, or with a coordinate or score that is not finite; left out.
    """

    detections: Detections
    counts: IntArray
    capped: BoolArray
    degenerate: IntArray

    def per_tile(self) -> list[Detections]:
        """The boxes of each tile."""
        ends = np.cumsum(self.counts)
        return [self.detections[end - count : end] for end, count in zip(ends, self.counts, strict=True)]


def reported(raw: RawBoxes, rules: ClassRules) -> RawBoxes:
    """The boxes of the classes that are reported, from the score of each class, with the label ids reported.

    Boxes whose score is not a number stay, to be counted as degenerate.

    Args:
        raw: labels are classes of the model, all of them known.
        rules: of the model's classes.
    """
    if rules.plain:
        return raw
    device = raw.boxes.device
    labels = torch.tensor(rules.labels, dtype=torch.int64, device=device)[raw.labels]
    limits = torch.tensor(rules.thresholds, dtype=raw.scores.dtype, device=device)[raw.labels]
    rows = torch.nonzero((labels >= 0) & ~(raw.scores < limits)).flatten()
    return RawBoxes(raw.boxes[rows], raw.scores[rows], labels[rows], raw.tile[rows], raw.tiles, raw.broken)


def postprocess(raw: RawBoxes, batch: TileBatch, card: ModelCard, *, threshold: float) -> BatchDetections:
    """Detections of the tiles of a batch.

    Boxes below the threshold, degenerate ones and those of padding are dropped; the others are clipped to their tile's
    ground, and dropped if that leaves less than a pixel; NMS per class keeps at most `card.top_k` in a tile; boxes
    over invalid pixels only are dropped, and flags are set for those that touch edges or invalid pixels.

    Args:
        raw: from the adapter.
        batch: the tiles; `raw.tile` beyond its length is padding.
        card: `nms_iou`, `top_k`, `border_px`, `edge_margin_px`.
        threshold: minimum score.
    """
    n, device = len(batch), raw.boxes.device
    wanted = (raw.tile < n) & ~(raw.scores < threshold)
    boxes, scores, labels, tile = (column[wanted] for column in (raw.boxes, raw.scores, raw.labels, raw.tile))
    sound = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    degenerate = torch.bincount(tile[~sound], minlength=n)
    windows = torch.from_numpy(batch.windows).to(device)
    size = windows[:, 2:].repeat(1, 2)[tile].to(boxes.dtype)
    boxes = torch.minimum(boxes.clamp(min=0), size)
    rows = torch.nonzero(sound & (boxes[:, 2:] - boxes[:, :2] >= 1).all(dim=1)).flatten()
    rows = rows[scores[rows].argsort(descending=True, stable=True)]
    rows = rows[tile[rows].argsort(stable=True)]
    found = torch.bincount(tile[rows], minlength=n)
    most = max(_MAX_CANDIDATES, 2 * card.top_k)
    if len(rows) and int(found.max()) > most:
        rows = rows[torch.arange(len(rows), device=device) - (found.cumsum(0) - found)[tile[rows]] < most]
    boxes, scores, labels, tile = (column[rows] for column in (boxes, scores, labels, tile))
    kept = _suppressed(boxes, tile * len(card.classes) + labels, card.nms_iou, tile)
    kept, capped = _best(kept, tile, n, card.top_k)
    capped |= found > most
    boxes, scores, labels, tile = (column[kept] for column in (boxes, scores, labels, tile))
    corners = boxes.double()
    near_invalid, on_invalid = _meets_invalid(corners, tile, windows, batch.valid)
    fragment, at_scene_edge = _edges(corners, windows[tile], batch.scene_size, tile, card)
    corners = corners + windows[:, :2].repeat(1, 2)[tile]
    columns = (corners, scores, labels, at_scene_edge | near_invalid, fragment)
    boxes_, scores_, labels_, truncated, flags = (column[~on_invalid].cpu().numpy() for column in columns)
    detections = Detections(boxes=boxes_, scores=scores_, labels=labels_, truncated=truncated, fragment=flags)
    counts = torch.bincount(tile[~on_invalid], minlength=n)
    return BatchDetections(detections, counts.cpu().numpy(), capped.cpu().numpy(), degenerate.cpu().numpy())


def _suppressed(boxes: Tensor, group: Tensor, iou: float, tile: Tensor) -> Tensor:
    """(M,) bool, which boxes remain after greedy NMS inside each group (tile and class).

    Boxes are sorted by tile, the best first in each. A group's result does not depend on other groups: on CPUs there is
    a call for each; on GPUs, where calls are expensive, groups are shifted apart and share one call.
    """
    kept = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    if not len(boxes):
        return kept
    parts = _runs(tile, _MAX_NMS_BOXES) if boxes.is_cuda else _groups(group)
    # Ranks in place of scores: ties are then broken by the order, on every device.
    rank = -torch.arange(len(boxes), dtype=torch.float64, device=boxes.device)
    for rows in parts:
        some = _shifted(boxes[rows], group[rows]) if boxes.is_cuda else boxes[rows]
        kept[rows[nms(some, rank[rows].to(some.dtype), iou)]] = True
    return kept


def _groups(group: Tensor) -> Iterator[Tensor]:
    """Indices of each group's rows, in their order."""
    order = group.argsort(stable=True)
    _, counts = torch.unique_consecutive(group[order], return_counts=True)
    yield from torch.split(order, counts.tolist())


def _runs(tile: Tensor, most: int) -> Iterator[Tensor]:
    """Indices of the rows of whole tiles, up to `most` where a tile has no more by itself; rows come by tile."""
    _, counts = torch.unique_consecutive(tile, return_counts=True)
    start = end = 0
    for count in counts.tolist():
        if end > start and end + count - start > most:
            yield torch.arange(start, end, device=tile.device)
            start = end
        end += count
    yield torch.arange(start, end, device=tile.device)


def _shifted(boxes: Tensor, group: Tensor) -> Tensor:
    """Boxes of which those of different groups do not meet; float64, in which the shift is exact."""
    fine = (boxes.double() * _NMS_PARTS).round() / _NMS_PARTS
    _, dense = torch.unique(group, return_inverse=True)
    stride = 2.0 * MAX_SIDE  # a power of two beyond any tile
    shifted: Tensor = fine + (dense * stride)[:, None]
    return shifted


def _best(kept: Tensor, tile: Tensor, tiles: int, top_k: int) -> tuple[Tensor, Tensor]:
    """Of the kept rows the first `top_k` of each tile, as (M,) bool; and (tiles,) bool, which tiles reached it."""
    counts = torch.bincount(tile[kept], minlength=tiles)
    before = counts.cumsum(0) - counts
    place = kept.cumsum(0) - 1 - before[tile]
    return kept & (place < top_k), counts >= top_k


def _edges(
    corners: Tensor, windows: Tensor, scene_size: IntArray, tile: Tensor, card: ModelCard
) -> tuple[Tensor, Tensor]:
    """(M,) uint8 flags of boxes (tile frame), and (M,) bool, which touch the scene's edge."""
    size = torch.from_numpy(scene_size).to(corners.device)[tile]
    col, row, width, height = windows.unbind(1)
    x0, y0, x1, y1 = corners.unbind(1)
    gaps = (x0, y0, width - x1, height - y1)
    interior = (col > 0, row > 0, col + width < size[:, 0], row + height < size[:, 1])
    fragment = edge_flags(gaps, interior, card.border_px, card.edge_margin_px)
    outer = [(gap <= card.border_px) & ~inside for gap, inside in zip(gaps, interior, strict=True)]
    return fragment.to(torch.uint8), torch.stack(outer).any(dim=0)


def _meets_invalid(corners: Tensor, tile: Tensor, windows: Tensor, valid: BoolArray | None) -> tuple[Tensor, Tensor]:
    """Which boxes (tile frame) come within a pixel of an invalid one, and which cover no valid pixel at all."""
    none = torch.zeros(len(corners), dtype=torch.bool, device=corners.device)
    if valid is None or not len(corners):
        return none, none
    concerned = np.flatnonzero(~valid.reshape(len(valid), -1).all(axis=1))
    if not len(concerned):
        return none, none
    invalid = torch.from_numpy(~valid[concerned]).to(corners.device)
    height, width = invalid.shape[1:]
    sums = torch.zeros((len(concerned), height + 1, width + 1), dtype=torch.int32, device=corners.device)
    sums[:, 1:, 1:] = invalid.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
    place = torch.full((len(valid),), -1, dtype=torch.int64, device=corners.device)
    place[torch.from_numpy(concerned).to(corners.device)] = torch.arange(len(concerned), device=corners.device)
    rows = torch.nonzero(place[tile] >= 0).flatten()
    of, some = place[tile[rows]], corners[rows]
    # A tile that is larger than its scene has no ground there, valid or not.
    limit = windows[tile[rows], 2:].repeat(1, 2)
    low, high = some[:, :2].floor().long(), some[:, 2:].ceil().long()

    def count(margin: int) -> tuple[Tensor, Tensor]:
        box = torch.cat([low - margin, high + margin], dim=1).clamp(min=0).minimum(limit)
        x0, y0, x1, y1 = box.unbind(1)
        inside = sums[of, y1, x1] - sums[of, y0, x1] - sums[of, y1, x0] + sums[of, y0, x0]
        return inside, (x1 - x0) * (y1 - y0)

    near, over = none.clone(), none.clone()
    near[rows] = count(1)[0] > 0
    invalid_pixels, area = count(0)
    over[rows] = invalid_pixels == area
    return near, over
