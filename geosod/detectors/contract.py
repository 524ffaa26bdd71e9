"""What an adapter is: the network of a detector, and nothing else.

Everything around the network is done once, for all adapters: radiometry before it (`geosod.detectors.radiometry`);
clipping, suppression inside a tile, the limit of boxes a tile and the flags of boxes at tile edges after it
(`geosod.detectors.postprocess`). `geosod.detectors.detector.Detector` puts the three together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from geosod.errors import ModelError


@dataclass(frozen=True, slots=True, eq=False)
class RawBoxes:
    """What a network finds in a batch of tiles, in any order and before any suppression.

    Attributes:
        boxes: (M, 4) float32 ``x0, y0, x1, y1`` in pixels of the tile, origin at its top-left corner. They may reach
            beyond the tile.
        scores: (M,) float32. Boxes with a score below the threshold are dropped later.
        labels: (M,) int64, index into the card's classes.
        tile: (M,) int64, index of each box's tile in the batch.
        broken: (B,) bool, tiles for which the network gave values that are not numbers, which then count as failed
            ground; None where the adapter does not check.

    Raises:
        ModelError: the arrays do not have one row per box.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    tile: Tensor
    broken: Tensor | None = None

    def __post_init__(self) -> None:
        shapes = [tuple(getattr(self, name).shape) for name in ("boxes", "scores", "labels", "tile")]
        n = len(self.boxes)
        if shapes != [(n, 4), (n,), (n,), (n,)]:
            raise ModelError(
                f"the adapter returned boxes, scores, labels and tiles of shapes {', '.join(map(str, shapes))}; "
                "RawBoxes needs (M, 4), (M,), (M,) and (M,)"
            )

    @classmethod
    def per_tile(cls, tiles: Iterable[tuple[Any, Any, Any]]) -> RawBoxes:
        """From (boxes, scores, labels) of each tile in turn: arrays of numpy or torch, (k, 4), (k,) and (k,)."""
        rows = [
            (torch.as_tensor(boxes).reshape(-1, 4), torch.as_tensor(scores), torch.as_tensor(labels))
            for boxes, scores, labels in tiles
        ]
        if not rows:
            raise ModelError("the adapter returned no tiles; RawBoxes.per_tile needs an entry for every tile")
        boxes, scores, labels = (torch.cat([row[i] for row in rows]) for i in range(3))
        counts = torch.tensor([len(row[0]) for row in rows], device=boxes.device)
        tile = torch.repeat_interleave(torch.arange(len(rows), device=boxes.device), counts)
        return cls(boxes.float(), scores.float(), labels.long(), tile)

    @classmethod
    def padded(cls, boxes: Any, scores: Any, labels: Any, *, broken: Tensor | None = None) -> RawBoxes:
        """From arrays with the same number of rows for every tile: (B, K, 4), (B, K) and (B, K), numpy or torch.

        Rows that are no boxes have a score of -inf, or any below the threshold.
        """
        boxes, scores, labels = torch.as_tensor(boxes), torch.as_tensor(scores), torch.as_tensor(labels)
        count, rows = scores.shape
        tile = torch.arange(count, device=scores.device).repeat_interleave(rows)
        return cls(boxes.reshape(-1, 4).float(), scores.reshape(-1).float(), labels.reshape(-1).long(), tile, broken)


@runtime_checkable
class Adapter(Protocol):
    """A network, ready to run."""

    def predict(self, images: Tensor) -> RawBoxes:
        """Run the network on one batch.

        A tile's boxes must not depend on the other tiles of the batch.

        Args:
            images: (B, C, H, W) float32 on the execution's device; bands in the card's order; values 0 to 1 between
                the card's limits, 0 where a pixel is invalid. B is always the execution's batch: the last batch of a
                run is padded with zeros.

        Returns:
            The boxes of every tile.
        """
        ...
