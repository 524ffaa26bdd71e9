"""torchvision's RetinaNet, FCOS, Faster R-CNN and SSD, DeepForest's models among them.

The network's own transform, decoding and NMS run as in torchvision. The card's `threshold`, `nms_iou` and `top_k` are
the network's score threshold, its NMS and its maximum number of boxes, so that suppressing once more changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geosod.detectors.adapters.detection_networks import build
from geosod.detectors.adapters.fold_norms import fold_norms
from geosod.detectors.bundle import Bundle
from geosod.detectors.card import ModelCard
from geosod.detectors.contract import RawBoxes
from geosod.results import Execution


def load(bundle: Bundle, execution: Execution, *, threshold: float) -> TorchvisionAdapter:
    """The network that a card names, with the bundle's weights.

    Raises:
        ModelError: the architecture or a parameter is unknown, or the weights do not fit it.
    """
    card = bundle.card
    model = build(card.architecture, card.parameters, channels=len(card.bands))
    bundle.load_into(model)
    return TorchvisionAdapter(card, model, execution, threshold=threshold)


class TorchvisionAdapter:
    """A detection network of torchvision on a device, in a precision. It is not compiled."""

    #: Images of any shape are resized by the network itself.
    any_shape = True

    def __init__(self, card: ModelCard, model: Any, execution: Execution, *, threshold: float) -> None:
        #: Boxes below it are not returned.
        self.min_score = threshold
        self._resizes = model.transform.fixed_size is not None or card.parameters.get("min_size") is not None
        self._agnostic = float(card.parameters.get("agnostic_nms_iou", 1.0))
        labels = torch.full((int(card.parameters["outputs"]) + 1,), -1)
        labels[card.parameters.get("labels", list(range(len(card.classes))))] = torch.arange(len(card.classes))
        self._labels = labels.to(execution.device)
        _set_limits(model, card, threshold)
        # In fp32 it gains 5 % on a CPU, and rounds otherwise than torchvision's own call, ten times more.
        self._layout = torch.channels_last if execution.precision == "bf16" else torch.contiguous_format
        self._model = _prepared(model, execution, self._layout)

    def predict(self, images: Tensor) -> RawBoxes:
        """The boxes of images (B, C, H, W) float32, 0 to 1."""
        model = self._model
        inputs = self._inputs(images)
        features = model.backbone(inputs.tensors.contiguous(memory_format=self._layout))
        broken = torch.stack([torch.isnan(level).flatten(1).any(dim=1) for level in features.values()]).any(dim=0)
        found = _rcnn(model, inputs, features) if hasattr(model, "roi_heads") else _dense(model, inputs, features)
        found = model.transform.postprocess(found, inputs.image_sizes, [tuple(images.shape[2:])] * len(images))
        return replace(RawBoxes.per_tile([self._of_card(one) for one in found]), broken=broken)

    def _inputs(self, images: Tensor) -> Any:
        """What the network's transform makes of a batch, without its resizing where the card says so."""
        from torchvision.models.detection.image_list import ImageList

        transform = self._model.transform
        if self._resizes:
            return transform(list(images))[0]
        batch = transform.batch_images(list(transform.normalize(images)), size_divisible=transform.size_divisible)
        return ImageList(batch, [tuple(images.shape[2:])] * len(images))

    def _of_card(self, found: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels of an image, with the labels of the card; others are dropped."""
        boxes, scores, labels = found["boxes"], found["scores"], self._labels[found["labels"]]
        if self._agnostic < 1:
            from torchvision.ops import nms

            kept = nms(boxes, scores, self._agnostic)
            boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        known = labels >= 0
        return boxes[known], scores[known], labels[known]


def _set_limits(model: Any, card: ModelCard, threshold: float) -> None:
    """The network drops boxes whose score equals its threshold; the card's are kept."""
    heads = model.roi_heads if hasattr(model, "roi_heads") else model
    heads.score_thresh = float(np.nextafter(np.float32(threshold), np.float32(-1)))
    heads.nms_thresh = card.nms_iou
    heads.detections_per_img = card.top_k


def _prepared(model: Any, execution: Execution, layout: torch.memory_format) -> Any:
    fold_norms(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model = model.to(execution.device, memory_format=layout).eval()
    if execution.precision == "bf16":
        owners = [(model, "backbone"), (model, "head")]
        if hasattr(model, "roi_heads"):
            heads = [(model.roi_heads, "box_head"), (model.roi_heads, "box_predictor")]
            owners = [(model, "backbone"), (model.rpn, "head"), *heads]
        for owner, name in owners:
            setattr(owner, name, _InBf16(getattr(owner, name)))
    return model


class _InBf16(nn.Module):
    """A part of a network in bf16 between float32. Anchors and boxes would lose pixels in bf16."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part.to(torch.bfloat16)

    def forward(self, inputs: Any) -> Any:
        return _cast(self.part(_cast(inputs, torch.bfloat16)), torch.float32)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype)
    if isinstance(value, dict):
        return {key: _cast(item, dtype) for key, item in value.items()}
    return type(value)(_cast(item, dtype) for item in value)


def _dense(model: Any, images: Any, features: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """What RetinaNet, FCOS or SSD finds: boxes in pixels of `images`."""
    levels = list(features.values())
    outputs = model.head(levels)
    anchors = model.anchor_generator(images, levels)
    if model.transform.fixed_size is not None:
        found = model.postprocess_detections(outputs, anchors, images.image_sizes)
    else:
        cells = [level.shape[2] * level.shape[3] for level in levels]
        each = outputs["cls_logits"].shape[1] // sum(cells)
        counts = [count * each for count in cells]
        by_level = {name: list(output.split(counts, dim=1)) for name, output in outputs.items()}
        split = [list(boxes.split(counts)) for boxes in anchors]
        found = model.postprocess_detections(by_level, split, images.image_sizes)
    return list(found)


def _rcnn(model: Any, images: Any, features: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """What Faster R-CNN finds: boxes in pixels of `images`.

    Proposals of one image at a time go through the head: products of matrices with other numbers of rows round
    differently, and a tile's boxes would depend on how many proposals the others have.
    """
    proposals, _ = model.rpn(images, features)
    found = []
    for i, size in enumerate(images.image_sizes):
        own = {name: level[i : i + 1] for name, level in features.items()}
        found += model.roi_heads(own, [proposals[i]], [size])[0]
    return found
