"""What the raw outputs of detectors mean: one decoder for each layout in which they are exported.

A decoder takes the outputs of a batch, by name, and returns boxes in pixels of the network's input, scores and labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from geosod.detectors.card import ModelCard
from geosod.detectors.contract import RawBoxes
from geosod.errors import ModelError

#: Strides of the maps on which YOLO-like networks predict.
STRIDES = ((8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64), (4, 8, 16))
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_YOLO = {"resize": "letterbox", "resampling": "opencv", "fill": 114 / 255}
_STRETCHED = {"resize": "stretch"}


@dataclass(frozen=True, slots=True)
class Frame:
    """What a decoder needs to know besides the outputs.

    Attributes:
        width, height: of the network's input in pixels.
        batch: number of images.
        parameters: of the card.
    """

    width: int
    height: int
    batch: int
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int, int, int]:
        """Width, height, width, height."""
        return self.width, self.height, self.width, self.height


Outputs = Mapping[str, Tensor]
Decoder = Callable[[Outputs, Frame], RawBoxes]


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout of outputs.

    Attributes:
        what: which exports have it, for a person.
        decode: see `Decoder`.
        input: fields of `NetworkInput` with which such networks are usually trained.
        nms_iou: IoU of NMS inside a tile that its library uses; 1 where the network needs none.
        threshold: minimum score that its library uses.
    """

    what: str
    decode: Decoder
    input: Mapping[str, Any] = field(default_factory=dict)
    nms_iou: float = 1.0
    threshold: float = 0.25


def corners(centres: Tensor) -> Tensor:
    """Boxes (..., 4) given as centre x, centre y, width, height as corners."""
    centre, half = centres[..., :2], centres[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def _best(boxes: Tensor, scores: Tensor) -> RawBoxes:
    """Boxes (B, N, 4) with scores (B, N, C), each with its best class."""
    best, labels = scores.max(dim=-1)
    return RawBoxes.padded(boxes, best, labels)


def _every_class(boxes: Tensor, scores: Tensor) -> RawBoxes:
    """The best N of all pairs of a box and a class: boxes (B, N, 4), scores (B, N, C)."""
    batch, count, wide = scores.shape
    top, at = scores.reshape(batch, -1).topk(count, dim=1)
    rows = (at // wide)[..., None].expand(-1, -1, 4)
    return RawBoxes.padded(boxes.gather(1, rows), top, at % wide)


def _only(outputs: Outputs) -> Tensor:
    return next(iter(outputs.values()))


def _relative(boxes: Tensor, frame: Frame) -> Tensor:
    return boxes * torch.tensor(frame.size, dtype=boxes.dtype, device=boxes.device)


def _yolov5(outputs: Outputs, frame: Frame) -> RawBoxes:
    """(B, N, 5 + C): centre, size in pixels, objectness, scores of classes."""
    raw = _only(outputs)
    scores = raw[..., 5:]
    if frame.parameters.get("objectness", True):
        scores = scores * raw[..., 4:5]
    return _best(corners(raw[..., :4]), scores)


def _yolov8(outputs: Outputs, frame: Frame) -> RawBoxes:
    """(B, 4 + C, N), or (B, N, 4 + C) where parameters say so: centre, size in pixels, scores of classes."""
    raw = _only(outputs)
    if not frame.parameters.get("rows"):
        raw = raw.transpose(1, 2)
    return _best(corners(raw[..., :4]), raw[..., 4:])


def _yolov10(outputs: Outputs, frame: Frame) -> RawBoxes:  # noqa: ARG001
    """(B, K, 6): corners in pixels, score, class."""
    raw = _only(outputs)
    return RawBoxes.padded(raw[..., :4], raw[..., 4], raw[..., 5].round().long())


def _yolox(outputs: Outputs, frame: Frame) -> RawBoxes:
    """(B, N, 5 + C): offset from a grid cell, logarithm of the size, both in strides; objectness, scores of classes."""
    raw = _only(outputs)
    cell = torch.from_numpy(grid(frame.width, frame.height, raw.shape[1])[0]).to(raw)
    centre = (raw[..., :2] + cell[:, :2]) * cell[:, 2:]
    size = raw[..., 2:4].exp() * cell[:, 2:]
    return _best(corners(torch.cat([centre, size], dim=-1)), raw[..., 5:] * raw[..., 4:5])


def _detr(outputs: Outputs, frame: Frame) -> RawBoxes:
    """Logits (B, Q, C + 1), the last one for no object; boxes (B, Q, 4), centre and size as shares of the input."""
    boxes, logits = _boxes_and_logits(outputs)
    return _best(_relative(corners(boxes), frame), logits.softmax(-1)[..., :-1])


def _rtdetr(outputs: Outputs, frame: Frame) -> RawBoxes:
    """Logits (B, Q, C); boxes (B, Q, 4), centre and size as shares of the input."""
    boxes, logits = _boxes_and_logits(outputs)
    return _every_class(_relative(corners(boxes), frame), logits.sigmoid())


def _rtdetr_scores(outputs: Outputs, frame: Frame) -> RawBoxes:
    """(B, Q, 4 + C): centre and size as shares of the input, scores of classes."""
    raw = _only(outputs)
    return _best(_relative(corners(raw[..., :4]), frame), raw[..., 4:])


def _labelled(outputs: Outputs, frame: Frame) -> RawBoxes:
    """Boxes (B, K, 4) or (K, 4), corners in pixels, and as many scores and labels."""
    boxes, scores, labels = (_batched(tensor, 2 + (i == 0)) for i, tensor in enumerate(labelled(outputs)))
    return RawBoxes.padded(boxes, scores, labels.long() - int(frame.parameters.get("first_label", 0)))


def _mmdetection(outputs: Outputs, frame: Frame) -> RawBoxes:  # noqa: ARG001
    """Boxes (B, K, 5), corners in pixels and score; labels (B, K). Rows that are no boxes have the label -1."""
    boxes, labels = outputs["dets"], outputs["labels"].long()
    scores = torch.where(labels < 0, -torch.inf, boxes[..., 4])
    return RawBoxes.padded(boxes[..., :4], scores, labels.clamp(min=0))


def _tensorflow(outputs: Outputs, frame: Frame) -> RawBoxes:
    """Boxes (B, K, 4), y0, x0, y1, x1 as shares of the input; scores, classes from 1 (B, K); number of boxes (B,)."""
    boxes = _relative(outputs["detection_boxes"][..., [1, 0, 3, 2]], frame)
    scores = outputs["detection_scores"].clone()
    labels = outputs["detection_classes"].round().long() - int(frame.parameters.get("first_label", 1))
    if "num_detections" in outputs:
        found = outputs["num_detections"].reshape(-1, 1)
        scores[torch.arange(scores.shape[1], device=scores.device) >= found] = -torch.inf
    return RawBoxes.padded(boxes, scores, labels)


def _ppyoloe(outputs: Outputs, frame: Frame) -> RawBoxes:
    """Rows (M, 6) of all images: class, score, corners in pixels; and the number of rows of each image, (B,).

    Rows that are no boxes have the class -1.
    """
    rows = next(tensor for tensor in outputs.values() if tensor.ndim == 2 and tensor.shape[1] == 6)
    counts = next((tensor for tensor in outputs.values() if tensor.ndim == 1), None)
    scores = torch.where(rows[:, 0] < 0, -torch.inf, rows[:, 1])
    if counts is None:
        tile = torch.zeros(len(rows), dtype=torch.int64)
    else:
        tile = torch.repeat_interleave(torch.arange(frame.batch), counts.long())
    return RawBoxes(rows[: len(tile), 2:], scores[: len(tile)], rows[: len(tile), 0].clamp(min=0), tile, frame.batch)


def _fastestdet(outputs: Outputs, frame: Frame) -> RawBoxes:
    """(B, 5 + C, H, W), one box a cell: objectness, tanh of the offset, size as a share of the input, classes."""
    raw = _only(outputs).permute(0, 2, 3, 1)
    rows, cols = raw.shape[1:3]
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    cell = torch.stack([x, y], dim=-1).to(raw)
    shape = torch.tensor([cols, rows]).to(raw)
    centre = (raw[..., 1:3].tanh() + cell) / shape
    boxes = _relative(corners(torch.cat([centre, raw[..., 3:5].sigmoid()], dim=-1)), frame)
    best, labels = raw[..., 5:].max(dim=-1)
    # The exponents of FastestDet's own post-processing.
    scores = raw[..., 0] ** 0.6 * best**0.4
    return RawBoxes.padded(boxes.flatten(1, 2), scores.flatten(1), labels.flatten(1))


def _batched(tensor: Tensor, ndim: int) -> Tensor:
    return tensor if tensor.ndim == ndim else tensor[None]


def _boxes_and_logits(outputs: Outputs) -> tuple[Tensor, Tensor]:
    """The output with four columns that is called boxes, and the one that is called logits or labels."""
    boxes = next(name for name in outputs if name in ("pred_boxes", "dets", "boxes"))
    logits = next(name for name in outputs if name in ("logits", "pred_logits", "labels", "scores"))
    return outputs[boxes], outputs[logits]


def labelled(outputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
    """Of three outputs boxes, scores and labels, whatever their order: four columns, fractions, whole numbers.

    Raises:
        StopIteration: the outputs are others.
    """
    # Four scores of one image have four columns, too.
    named = [tensor for name, tensor in outputs.items() if "box" in name.lower()]
    boxes = next(tensor for tensor in (*named, *outputs.values()) if tensor.ndim >= 2 and tensor.shape[-1] == 4)
    rest = {name: tensor for name, tensor in outputs.items() if tensor is not boxes}
    labels = next(name for name, tensor in rest.items() if "label" in name or not tensor.is_floating_point())
    scores = next(tensor for name, tensor in rest.items() if name != labels and tensor.is_floating_point())
    return boxes, scores, rest[labels]


def decode(card: ModelCard, outputs: Outputs, width: int, height: int, batch: int) -> RawBoxes:
    """The boxes in outputs of the layout that a card states, with the images for which an output is not a number.

    Args:
        card: of the model; its parameters name the layout.
        outputs: of a run on a batch.
        width, height: of the network's input in pixels.
        batch: number of images.

    Raises:
        ModelError: the outputs are not of that layout.
    """
    name = card.parameters["layout"]
    try:
        raw = LAYOUTS[name].decode(outputs, Frame(width, height, batch, card.parameters))
    except (IndexError, KeyError, RuntimeError, StopIteration, ValueError) as error:
        shapes = ", ".join(f"{output} {tuple(tensor.shape)}" for output, tensor in outputs.items())
        raise ModelError(
            f"model {card.name!r}: outputs {shapes} are not of layout {name!r} ({type(error).__name__}: {error}); pack "
            "the model again, with another --layout"
        ) from error
    return replace(raw, broken=_broken(outputs, batch))


def _broken(outputs: Outputs, batch: int) -> Tensor | None:
    """(B,) bool, images for which some output is not a number; None where outputs are not of a batch."""
    of_batch = [t for t in outputs.values() if t.is_floating_point() and t.ndim > 1 and len(t) == batch]
    if not of_batch:
        return None
    return torch.stack([torch.isnan(t).flatten(1).any(dim=1) for t in of_batch]).any(dim=0)


def grid(width: int, height: int, count: int) -> Any:
    """The cells of YOLO-like maps, the finest first, and the number of boxes a cell.

    Returns:
        (count, 3) float32 of column, row and stride, and the number of boxes a cell.

    Raises:
        ModelError: no known set of strides gives `count` boxes.
    """
    import numpy as np

    for strides in STRIDES:
        shapes = [(-(-height // stride), -(-width // stride), stride) for stride in strides]
        cells = sum(rows * cols for rows, cols, _ in shapes)
        if count not in (cells, 3 * cells):
            continue
        parts = []
        for rows, cols, stride in shapes:
            y, x = np.mgrid[:rows, :cols]
            parts.append(np.stack([x.ravel(), y.ravel(), np.full(rows * cols, stride)], axis=1))
        return np.concatenate(parts).astype(np.float32), count // cells
    raise ModelError(f"{count} boxes for an input of {width} x {height} pixels fit no known strides")


#: Name, as ``--layout`` takes it → the layout.
LAYOUTS: dict[str, Layout] = {
    "yolov5": Layout("YOLOv5, YOLOv7, and others with objectness", _yolov5, _YOLO, 0.45),
    "yolov8": Layout("YOLOv8, YOLO11, YOLO12 and other Ultralytics exports", _yolov8, _YOLO, 0.7),
    "yolov10": Layout("YOLOv10, YOLO26, and exports with NMS inside", _yolov10, _YOLO),
    "yolox": Layout(
        "YOLOX before its grid is decoded",
        _yolox,
        {**_YOLO, "corner": "top-left", "reverse_bands": True, "scale": 255.0},
        0.45,
    ),
    "detr": Layout("DETR and others with a class for no object", _detr, _STRETCHED | _IMAGENET, 1.0, 0.5),
    "rtdetr": Layout("RT-DETR, D-FINE, Deformable DETR: logits and boxes", _rtdetr, _STRETCHED, 1.0, 0.5),
    "rfdetr": Layout("RF-DETR, LW-DETR", _rtdetr, _STRETCHED | _IMAGENET | {"resampling": "antialias"}, 1.0, 0.5),
    "rtdetr-ultralytics": Layout("RT-DETR as Ultralytics exports it", _rtdetr_scores, _STRETCHED),
    "rtdetr-postprocessed": Layout("RT-DETR and D-FINE as their authors export them", _labelled, _STRETCHED, 1.0, 0.5),
    "ppyoloe": Layout("PP-YOLOE and others as PaddleX exports them", _ppyoloe, _STRETCHED, 1.0, 0.5),
    "torchvision": Layout("torchvision's detectors", _labelled, {}, 1.0, 0.5),
    "labelled": Layout("boxes, scores, and labels from 0", _labelled),
    "mmdetection": Layout("MMDetection through MMDeploy", _mmdetection, {"corner": "top-left"}, 1.0, 0.3),
    "tensorflow": Layout("TensorFlow's detection models", _tensorflow, _STRETCHED | {"scale": 255.0}, 1.0, 0.3),
    "fastestdet": Layout(
        "FastestDet", _fastestdet, _STRETCHED | {"resampling": "opencv", "reverse_bands": True}, 0.45, 0.65
    ),
}
