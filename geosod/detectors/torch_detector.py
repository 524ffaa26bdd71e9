"""A detector that runs a torch network: radiometry, forward pass and decoding, all on the device."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchvision

from geosod.arrays import BoolArray, FloatArray
from geosod.detections import BOTTOM, EDGE_MARGIN, LEFT, RIGHT, TOP, Detections
from geosod.detectors.base import Network, network
from geosod.detectors.bundle import Bundle
from geosod.detectors.card import ModelCard
from geosod.detectors.execution import keep_freed_memory
from geosod.errors import ModelError
from geosod.results import Execution
from geosod.scene import TileBatch

#: Peaks decoded for each box that may be kept, before suppression inside the tile.
CANDIDATES_PER_BOX = 2


class TorchDetector:
    """A network of the registry with a bundle's weights, behind the `Detector` protocol.

    Args:
        bundle: where card and weights come from.
        execution: how to run, from `execution.resolve`.
        threshold: least score; None takes the card's.

    Raises:
        ModelError: the weights do not fit the architecture.
    """

    def __init__(self, bundle: Bundle, execution: Execution, *, threshold: float | None = None) -> None:
        self.card: ModelCard = bundle.card
        self.execution = execution
        self._threshold = bundle.card.threshold if threshold is None else threshold
        self._device = torch.device(execution.device)
        self._dtype = torch.bfloat16 if execution.precision == "bf16" else torch.float32
        torch.set_num_threads(execution.threads)
        keep_freed_memory()
        model = _load(bundle)
        self._network: Network = model
        self._model = self._prepared(model.fused())
        self._limits = np.array([self.card.minimum, self.card.maximum], np.float32).T

    def detect(self, batch: TileBatch) -> list[Detections]:
        """The objects of each tile, in the scene frame, clipped to the tile's ground."""
        found: list[Detections] = []
        for start in range(0, len(batch), self.execution.batch):
            part = batch[start : start + self.execution.batch]
            boxes, scores, labels = self._forward(part)
            found += [self._tile(part, i, boxes[i], scores[i], labels[i]) for i in range(len(part))]
        return found

    def warm_up(self, tile: int) -> None:
        """Compile and allocate for tiles of `tile` pixels a side.

        Raises:
            MemoryError: the device does not hold a batch.
        """
        try:
            pixels = np.zeros((1, len(self.card.bands), tile, tile), self.card.dtype)
            size = np.full((1, 2), tile, np.int64)
            self._forward(TileBatch(pixels, np.array([[0, 0, tile, tile]], np.int64), None, size))
        except torch.OutOfMemoryError as error:
            raise MemoryError(str(error)) from error

    def _prepared(self, model: Any) -> Any:
        model = model.to(self._device, self._dtype, memory_format=torch.channels_last).eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        if self.execution.backend != "compile":
            return model
        # It warns of a CUDA toolkit without a GPU, which is nobody's trouble here.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        # Worker processes for compilation would outlive their use in every actor.
        torch._inductor.config.compile_threads = 1
        torch._inductor.config.freezing = True
        return torch.compile(model, dynamic=False)

    @torch.inference_mode()
    def _forward(self, batch: TileBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Boxes (n, K, 4), tile frame, scores and labels (n, K)."""
        pixels, valid, n = batch.pixels, batch.valid, len(batch)
        # Always one shape: the numbers of a tile must not depend on how many others came with it.
        padded = np.zeros((self.execution.batch, *pixels.shape[1:]), pixels.dtype)
        padded[:n] = pixels
        limits = np.empty((self.execution.batch, *self._limits.shape), np.float32)
        limits[:] = self._limits
        limits[:n] = self._limits if batch.limits is None else batch.limits
        scaled = self._scaled(torch.from_numpy(padded).to(self._device), torch.from_numpy(limits).to(self._device))
        if valid is not None:
            # Invalid pixels are 0 to the network, whatever 0 means in the scene's units.
            scaled[:n] *= torch.from_numpy(np.ascontiguousarray(valid)).to(self._device)[:, None]
        raw = self._model(scaled.to(self._dtype, memory_format=torch.channels_last)).float()
        if (broken := torch.isnan(raw[:n]).flatten(1).any(dim=1).nonzero()).numel():
            raise ModelError(
                f"model {self.card.name!r}: the network's output is not a number on {len(broken)} of {n} tiles; its "
                "weights, or its precision (--precision fp32), do not suit these pixels"
            )
        top = self.card.top_k * CANDIDATES_PER_BOX
        boxes, scores, labels = self._network.decode(raw, threshold=self._threshold, topk=top)
        return boxes[:n], scores[:n], labels[:n]

    def _scaled(self, pixels: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
        """Pixels (B, C, H, W) as fractions of the way between their band's limits (B, C, 2), gamma applied."""
        low, high = limits[..., None, None].unbind(2)
        scaled = pixels.float().sub_(low).div_(high - low).clamp_(0, 1)
        return scaled if self.card.gamma == 1 else scaled.pow_(1 / self.card.gamma)

    def _tile(
        self, batch: TileBatch, index: int, boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor
    ) -> Detections:
        col, row, width, height = (int(v) for v in batch.windows[index])
        kept = ~(scores < self._threshold)
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        # Left to be counted by those who asked.
        broken = ~(torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1))
        unusable = _columns(boxes[broken], scores[broken], labels[broken])
        boxes, scores, labels = boxes[~broken], scores[~broken], labels[~broken]
        limit = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        whole = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(dim=1)
        boxes, scores, labels = boxes[whole], scores[whole], labels[whole]
        best = torchvision.ops.batched_nms(boxes, scores, labels, self.card.nms_iou)[: self.card.top_k]
        found = _columns(boxes[best], scores[best], labels[best])
        corners = found.boxes
        valid = None if batch.valid is None else batch.valid[index, :height, :width]
        near_gap, on_gap = _meets_invalid(corners, valid)
        offset = np.array([col, row, col, row], np.float64)
        size = (int(batch.scene_size[index, 0]), int(batch.scene_size[index, 1]))
        fragment, outer = _edges_met(
            corners, (col, row, width, height), size, self.card.border_px, self.card.edge_margin_px
        )
        found = found.with_columns(boxes=corners + offset, truncated=outer | near_gap, fragment=fragment)[~on_gap]
        return Detections.concat([found, unusable]) if len(unusable) else found


def _columns(boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor) -> Detections:
    corners = boxes.double().cpu().numpy()
    return Detections(boxes=corners, scores=scores.cpu().numpy(), labels=labels.cpu().numpy())


def _load(bundle: Bundle) -> Any:
    from safetensors.torch import load_file

    model = network(bundle.card)
    try:
        model.load_state_dict(load_file(bundle.weights), strict=True)
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        raise ModelError(f"model {bundle.card.name!r}: {bundle.weights} does not fit the network: {line}") from error
    return model


def _edges_met(
    corners: FloatArray, window: tuple[int, int, int, int], scene_size: tuple[int, int], border: float, rim: float
) -> tuple[npt.NDArray[np.uint8], BoolArray]:
    """`Detections.fragment` of boxes (tile frame), and which come within `border` pixels of the scene's edge."""
    col, row, width, height = window
    gap = np.column_stack([corners[:, :2], np.array([width, height]) - corners[:, 2:]])
    at_scene_edge = np.array([col == 0, row == 0, col + width == scene_size[0], row + height == scene_size[1]])
    sides = ((gap <= border) & ~at_scene_edge) @ np.array([LEFT, TOP, RIGHT, BOTTOM], np.uint8)
    near_rim = ((gap <= rim) & ~at_scene_edge).any(axis=1)
    fragment = np.where(near_rim & (sides == 0), np.uint8(EDGE_MARGIN), sides)
    return fragment, ((gap <= border) & at_scene_edge).any(axis=1)


def _meets_invalid(corners: FloatArray, valid: BoolArray | None) -> tuple[BoolArray, BoolArray]:
    """Which boxes (tile frame) touch an invalid pixel within one pixel, and which cover no valid pixel at all."""
    none = np.zeros(len(corners), np.bool_)
    if valid is None or valid.all() or not len(corners):
        return none, none
    height, width = valid.shape
    sums = np.zeros((height + 1, width + 1), np.int64)
    np.cumsum(np.cumsum(~valid, axis=0), axis=1, out=sums[1:, 1:])

    def invalid_in(x0: Any, y0: Any, x1: Any, y1: Any) -> Any:
        return sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]

    low = np.floor(corners[:, :2]).astype(np.int64)
    high = np.ceil(corners[:, 2:]).astype(np.int64)
    size = np.array([width, height])
    x0, y0 = np.clip(low - 1, 0, size).T
    x1, y1 = np.clip(high + 1, 0, size).T
    touching = invalid_in(x0, y0, x1, y1) > 0
    x0, y0 = np.clip(low, 0, size).T
    x1, y1 = np.clip(high, 0, size).T
    return touching, invalid_in(x0, y0, x1, y1) == (x1 - x0) * (y1 - y0)
