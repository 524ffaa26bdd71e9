"""What an adapter is: the network of a detector, and nothing else.

Everything around the network is done once, for all adapters: radiometry (`geosod.detectors.radiometry`) and resizing
(`geosod.detectors.resize`) before it; clipping, suppression inside a tile, the limit of boxes a tile and the flags of
boxes at tile edges after it (`geosod.detectors.postprocess`). `geosod.detectors.detector.Detector` puts these together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from geosod.errors import ModelError

_DTYPES = {"boxes": torch.float32, "scores": torch.float32, "labels": torch.int64, "tile": torch.int64}


@dataclass(frozen=True, slots=True, eq=False)
class RawBoxes:
    """What a network finds in a batch of tiles, in any order and before any suppression.

    Attributes:
        boxes: (M, 4) float32 ``x0, y0, x1, y1`` in pixels of the tile, origin at its top-left corner. They may reach
            beyond the tile.
        scores: (M,) float32. Boxes with a score below the threshold are dropped later.
        labels: (M,) int64, index into the card's classes.
        tile: (M,) int64, index of each box's tile in the batch.
        tiles: number of tiles that the adapter answered for, B; None where it does not say.
        broken: (B,) bool, tiles for which the network gave values that are not numbers, which then count as failed
            ground; None where the adapter does not check.

    Raises:
        ModelError: the arrays do not have one row per box.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    tile: Tensor
    tiles: int | None = None
    broken: Tensor | None = None

    def __post_init__(self) -> None:
        device = self.boxes.device
        for name, dtype in _DTYPES.items():
            object.__setattr__(self, name, getattr(self, name).to(device, dtype))
        shapes = [tuple(getattr(self, name).shape) for name in ("boxes", "scores", "labels", "tile")]
        n = len(self.boxes)
        if shapes != [(n, 4), (n,), (n,), (n,)]:
            raise ModelError(
                f"the adapter returned boxes, scores, labels and tiles of shapes {', '.join(map(str, shapes))}; "
                "RawBoxes needs (M, 4), (M,), (M,) and (M,)"
            )

    @classmethod
    def per_tile(cls, tiles: Iterable[tuple[Any, Any, Any]]) -> RawBoxes:
        """From (boxes, scores, labels) of every tile in order: arrays of numpy or torch, (k, 4), (k,) and (k,).

        Tiles without boxes have an entry, too, with empty arrays.
        """
        flat = [(_boxes(boxes), _tensor(scores), _tensor(labels)) for boxes, scores, labels in tiles]
        rows = [(boxes, scores.reshape(-1), labels.reshape(-1)) for boxes, scores, labels in flat]
        if not rows:
            raise ModelError("the adapter returned no tiles; RawBoxes.per_tile needs an entry for every tile")
        for i, row in enumerate(rows):
            if len({len(column) for column in row}) > 1:
                numbers = ", ".join(str(len(column)) for column in row)
                raise ModelError(f"the adapter returned {numbers} boxes, scores and labels for tile {i} of the batch")
        boxes, scores, labels = (torch.cat([row[i] for row in rows]) for i in range(3))
        counts = torch.tensor([len(row[0]) for row in rows], device=boxes.device)
        tile = torch.repeat_interleave(torch.arange(len(rows), device=boxes.device), counts)
        return cls(boxes, scores, labels, tile, len(rows))

    @classmethod
    def padded(cls, boxes: Any, scores: Any, labels: Any, *, broken: Tensor | None = None) -> RawBoxes:
        """From arrays with the same number of rows for every tile: (B, K, 4), (B, K) and (B, K), numpy or torch.

        Padding rows have a score of -inf, or any below the threshold.
        """
        boxes, scores, labels = _tensor(boxes), _tensor(scores), _tensor(labels)
        if scores.ndim != 2 or boxes.shape != (*scores.shape, 4) or labels.shape != scores.shape:
            shapes = ", ".join(str(tuple(array.shape)) for array in (boxes, scores, labels))
            raise ModelError(f"RawBoxes.padded got arrays of shapes {shapes}; it needs (B, K, 4), (B, K) and (B, K)")
        count, rows = scores.shape
        tile = torch.arange(count, device=scores.device).repeat_interleave(rows)
        return cls(boxes.reshape(-1, 4), scores.reshape(-1), labels.reshape(-1), tile, count, broken)

    def wanted(self, tiles: int, threshold: float) -> RawBoxes:
        """The boxes of the first tiles that are not below a score; those whose score is not a number stay."""
        rows = torch.nonzero((self.tile < tiles) & ~(self.scores < threshold)).flatten()
        boxes, scores, labels, tile = self.boxes[rows], self.scores[rows], self.labels[rows], self.tile[rows]
        return RawBoxes(boxes, scores, labels, tile, self.tiles, self.broken)

    def on_cpu(self) -> RawBoxes:
        """The same boxes in the host's memory, from CUDA in one copy for all columns, and one for the broken tiles."""
        if self.boxes.device.type != "cuda":
            boxes, scores, labels, tile = (x.cpu() for x in (self.boxes, self.scores, self.labels, self.tile))
            return RawBoxes(boxes, scores, labels, tile, self.tiles, None if self.broken is None else self.broken.cpu())
        columns = [self.boxes, *(column[:, None] for column in (self.scores, self.labels, self.tile))]
        table = torch.cat([column.double() for column in columns], dim=1).cpu()
        broken = None if self.broken is None else self.broken.cpu()
        return RawBoxes(table[:, :4], table[:, 4], table[:, 5], table[:, 6], self.tiles, broken)


def _tensor(array: Any) -> Tensor:
    """An array of numpy, with any strides, or of torch as a tensor."""
    return array if isinstance(array, Tensor) else torch.from_numpy(np.array(array))


def _boxes(boxes: Any) -> Tensor:
    array = _tensor(boxes)
    if array.numel() and (array.ndim != 2 or array.shape[1] != 4):
        raise ModelError(f"the adapter returned boxes of shape {tuple(array.shape)} for a tile; it must be (k, 4)")
    return array.reshape(-1, 4)


@runtime_checkable
class Adapter(Protocol):
    """A network, ready to run.

    An attribute `min_score`, where there is one, is a score below which it returns no boxes. An attribute `any_size`
    that is true says that H and W may be any multiples of 32; scenes smaller than a tile are then not filled up to it.
    An attribute `any_shape` that is true says that they need not be multiples of 32: arrays that a user passes to
    `Detector.detect` are then filled up to a tile only. An attribute `takes_bytes` that is true says that images of
    uint8 are taken, too, on the CPU, as their values divided by 255 are.
    """

    def predict(self, images: Tensor) -> RawBoxes:
        """Run the network on one batch.

        A tile's boxes must not depend on the other tiles of the batch.

        Args:
            images: (B, C, H, W) float32 on the execution's device, as the card's `input` states; by default tiles of
                H × W pixels with the bands in the card's order, and values 0 to 1 between the card's limits, 0 where a
                pixel is invalid. B is always the execution's batch: the last batch of a run is padded. They may be
                changed in place.

        Returns:
            The boxes of every tile, in pixels of `images`.
        """
        ...
