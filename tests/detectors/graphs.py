"""ONNX graphs with the inputs and outputs of published exports, whose boxes are known.

A graph finds the same three boxes in every image. The score of each is the mean of one channel of the network's input,
brought back to 0…1 with the mean, std and scale of the layout, so that a wrong order of bands, scale or mean shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, HEIGHT = 320, 256
CLASSES = ("a", "b", "c", "d")
#: In pixels of the input.
BOXES = np.array([[10, 20, 50, 44], [100, 30, 180, 90], [200, 120, 260, 250]], np.float64)
#: Class of each box; its score is the value of the channel of the same number.
LABELS = (2, 0, 3)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CELLS = [(WIDTH // s, HEIGHT // s, s) for s in (8, 16, 32)]
_COUNT = sum(cols * rows for cols, rows, _ in _CELLS)


@dataclass
class Output:
    """An output: its values for an input of zeros, and what each channel's value (0…1) adds, (3, ...)."""

    name: str
    base: np.ndarray
    add: np.ndarray | None = None
    type: int = TensorProto.FLOAT


@dataclass
class Published:
    """A published export."""

    outputs: Callable[[], list[Output]]
    image: str = "images"
    extra: tuple[str, ...] = ()
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    scale: float = 1.0
    bgr: bool = False
    channels_last: bool = False
    single: bool = False
    score: Callable[[float], float] = float
    parameters: dict[str, Any] = field(default_factory=dict)


def _xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def _relative(boxes: np.ndarray) -> np.ndarray:
    return _xywh(boxes) / [WIDTH, HEIGHT, WIDTH, HEIGHT]


def _rows(count: int, columns: int, first: int, scores: int, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(count, columns) with boxes in rows 0, 5 and 10, and what channels add to their class's column."""
    base, add = np.zeros((count, columns), np.float32), np.zeros((3, count, columns), np.float32)
    for i, label in enumerate(LABELS):
        base[5 * i, first : first + 4] = boxes[i]
        add[i, 5 * i, scores + label] = 1
    return base, add


def _yolov5() -> list[Output]:
    base, add = _rows(3 * _COUNT, 9, 0, 5, _xywh(BOXES))
    base[:, 4] = 1
    # Boxes of other cells are where their anchors are; their scores are 0.
    base[11:, :4] = np.random.default_rng(0).uniform(0, 300, (len(base) - 11, 4))
    return [Output("output0", base, add)]


def _yolov8() -> list[Output]:
    base, add = _rows(_COUNT, 8, 0, 4, _xywh(BOXES))
    return [Output("output0", base.T, add.transpose(0, 2, 1))]


def _yolov10() -> list[Output]:
    base, add = np.zeros((300, 6), np.float32), np.zeros((3, 300, 6), np.float32)
    for i, label in enumerate(LABELS):
        base[i] = [*BOXES[i], 0, label]
        add[i, i, 4] = 1
    return [Output("output0", base, add)]


def _yolox() -> list[Output]:
    base, add = np.zeros((_COUNT, 9), np.float32), np.zeros((3, _COUNT, 9), np.float32)
    base[:, 4] = 1
    first = {s: sum(c * r for c, r, other in _CELLS if other < s) for _, _, s in _CELLS}
    for i, stride in enumerate((8, 16, 32)):
        x, y, w, h = _xywh(BOXES)[i]
        col, row = int(x // stride), int(y // stride)
        cols = WIDTH // stride
        at = first[stride] + row * cols + col
        base[at, :4] = [x / stride - col, y / stride - row, np.log(w / stride), np.log(h / stride)]
        add[i, at, 5 + LABELS[i]] = 1
    return [Output("output", base, add)]


def _detr() -> list[Output]:
    logits, add = np.zeros((100, 5), np.float32), np.zeros((3, 100, 5), np.float32)
    logits[3:, 4] = 10
    boxes = np.full((100, 4), 0.5, np.float32)
    boxes[:3] = _relative(BOXES)
    for i, label in enumerate(LABELS):
        add[i, i, label] = 4
    return [Output("logits", logits, add), Output("pred_boxes", boxes)]


def _sigmoid_queries(columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    logits, add = np.full((300, columns), -10, np.float32), np.zeros((3, 300, columns), np.float32)
    boxes = np.full((300, 4), 0.5, np.float32)
    boxes[:3] = _relative(BOXES)
    for i, label in enumerate(LABELS):
        logits[i, label] = 0
        add[i, i, label] = 2
    return logits, add, boxes


def _rtdetr() -> list[Output]:
    logits, add, boxes = _sigmoid_queries(4)
    return [Output("logits", logits, add), Output("pred_boxes", boxes)]


def _rfdetr() -> list[Output]:
    logits, add, boxes = _sigmoid_queries(4)
    return [Output("dets", boxes), Output("labels", logits, add)]


def _rtdetr_ultralytics() -> list[Output]:
    base, add = _rows(300, 8, 0, 4, _relative(BOXES))
    return [Output("output0", base, add)]


def _scored(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    boxes, add, labels = np.zeros((count, 4), np.float32), np.zeros((3, count), np.float32), np.zeros(count, np.float32)
    boxes[:3], labels[:3] = BOXES, LABELS
    add[range(3), range(3)] = 1
    return boxes, add, labels


def _postprocessed() -> list[Output]:
    boxes, add, labels = _scored(300)
    relative = (boxes / [WIDTH, HEIGHT, WIDTH, HEIGHT]).astype(np.float32)
    return [
        Output("labels", labels, type=TensorProto.INT64),
        Output("boxes", relative),
        Output("scores", np.zeros(300, np.float32), add),
    ]


def _ppyoloe() -> list[Output]:
    rows, add = np.full((4, 6), -1, np.float32), np.zeros((3, 4, 6), np.float32)
    for i, label in enumerate(LABELS):
        rows[i] = [label, 0, *BOXES[i]]
        add[i, i, 1] = 1
    return [Output("multiclass_nms3_0.tmp_0", rows, add), Output("multiclass_nms3_0.tmp_2", np.float32(4))]


def _torchvision() -> list[Output]:
    boxes, add, labels = _scored(3)
    return [
        Output("boxes", boxes),
        Output("labels", labels + 1, type=TensorProto.INT64),
        Output("scores", np.zeros(3, np.float32), add),
    ]


def _mmdetection() -> list[Output]:
    boxes, add, labels = _scored(100)
    labels[3:] = -1
    dets = np.concatenate([boxes, np.full((100, 1), 0.9, np.float32) * (labels < 0)[:, None]], axis=1)
    more = np.concatenate([np.zeros((3, 100, 4), np.float32), add[..., None]], axis=2)
    return [Output("dets", dets, more), Output("labels", labels, type=TensorProto.INT64)]


def _tensorflow() -> list[Output]:
    boxes, add, labels = _scored(100)
    relative = (boxes / [WIDTH, HEIGHT, WIDTH, HEIGHT])[:, [1, 0, 3, 2]].astype(np.float32)
    scores = np.zeros(100, np.float32)
    scores[3:] = 0.9  # beyond num_detections
    return [
        Output("detection_boxes", relative),
        Output("detection_classes", labels + 1),
        Output("detection_scores", scores, add),
        Output("num_detections", np.float32(3)),
    ]


def _fastestdet() -> list[Output]:
    rows, cols = HEIGHT // 16, WIDTH // 16
    base, add = np.zeros((9, rows, cols), np.float32), np.zeros((3, 9, rows, cols), np.float32)
    for i, (x, y, w, h) in enumerate(_xywh(BOXES)):
        col, row = int(x // 16), int(y // 16)
        offset = np.arctanh(np.array([x / 16 - col, y / 16 - row]))
        share = np.array([w / WIDTH, h / HEIGHT])
        base[:5, row, col] = [0, *offset, *np.log(share / (1 - share))]
        # Objectness and class have one value, so that the score is it, whatever the exponents.
        add[i, [0, 5 + LABELS[i]], row, col] = 1
    return [Output("out", base, add)]


def _softmax(value: float) -> float:
    return float(np.exp(4 * value) / (np.exp(4 * value) + 4))


def _sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-2 * value)))


PUBLISHED: dict[str, Published] = {
    "yolov5": Published(_yolov5),
    "yolov8": Published(_yolov8),
    "yolov10": Published(_yolov10),
    "yolox": Published(_yolox, scale=255, bgr=True),
    "detr": Published(_detr, "pixel_values", mean=_IMAGENET[0], std=_IMAGENET[1], score=_softmax),
    "rtdetr": Published(_rtdetr, "pixel_values", score=_sigmoid),
    "rfdetr": Published(_rfdetr, "input", mean=_IMAGENET[0], std=_IMAGENET[1], score=_sigmoid),
    "rtdetr-ultralytics": Published(_rtdetr_ultralytics),
    "rtdetr-postprocessed": Published(_postprocessed, extra=("orig_target_sizes",)),
    "ppyoloe": Published(_ppyoloe, "image", extra=("scale_factor",)),
    "torchvision": Published(_torchvision, "input", single=True),
    "mmdetection": Published(_mmdetection, "input"),
    "tensorflow": Published(_tensorflow, "input_tensor", scale=255, channels_last=True),
    "fastestdet": Published(_fastestdet, "input.1", bgr=True),
}


def build(
    layout: str, *, batch: int | None = None, free_size: bool = False, metadata: dict[str, str] | None = None
) -> Any:
    """A ModelProto with the inputs and outputs of a published export."""
    spec = PUBLISHED[layout]
    nodes, constants = [], {}
    rows, cols = ("h", "w") if free_size else (HEIGHT, WIDTH)
    count: Any = 1 if spec.single else (batch or "n")
    shape = (count, rows, cols, 3) if spec.channels_last else (count, 3, rows, cols)
    kind = TensorProto.UINT8 if spec.channels_last else TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info(spec.image, kind, shape)]
    # One axis after the other, and values up to 1: sums of many numbers would be rounded.
    first, second = (2, 1) if spec.channels_last else (3, 2)
    constants |= {"first": np.array([first], np.int64), "second": np.array([second], np.int64)}
    nodes.append(helper.make_node("Cast", [spec.image], ["pixels"], to=TensorProto.FLOAT))
    constants["scale"] = np.array(1 / spec.scale, np.float32)
    nodes.append(helper.make_node("Mul", ["pixels", "scale"], ["scaled"]))
    nodes.append(helper.make_node("ReduceMean", ["scaled", "first"], ["rows"], keepdims=0))
    nodes.append(helper.make_node("ReduceMean", ["rows", "second"], ["means"], keepdims=0))
    constants["std"] = np.array(spec.std, np.float32)
    constants["mean"] = np.array(spec.mean, np.float32)
    nodes.append(helper.make_node("Mul", ["means", "std"], ["times"]))
    nodes.append(helper.make_node("Add", ["times", "mean"], ["values"]))
    outputs = []
    for i, out in enumerate(spec.outputs()):
        outputs.append(_output(spec, out, i, nodes, constants))
    if "orig_target_sizes" in spec.extra:
        inputs.append(helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, (count, 2)))
        _scale(nodes, constants, "boxes", "orig_target_sizes", [0, 1, 0, 1], "Mul")
    if "scale_factor" in spec.extra:
        inputs.append(helper.make_tensor_value_info("scale_factor", TensorProto.FLOAT, (count, 2)))
        _scale(nodes, constants, "multiclass_nms3_0.tmp_0", "scale_factor", [1, 0, 1, 0], "Div")
    graph = helper.make_graph(
        nodes, layout, inputs, outputs, [numpy_helper.from_array(value, name) for name, value in constants.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    return model


def _output(spec: Published, out: Output, i: int, nodes: list[Any], constants: dict[str, np.ndarray]) -> Any:
    """Nodes of ``base + add · values``, reshaped and cast."""
    flat = np.asarray(out.base, np.float32).reshape(-1)
    add = np.zeros((3, len(flat)), np.float32) if out.add is None else out.add.reshape(3, -1)
    shape: list[int] = [-1, *np.shape(out.base)]
    if spec.single:
        shape = shape[1:]
    if out.name.endswith(".tmp_0"):
        shape = [-1, 6]
    if np.ndim(out.base) == 0:
        shape = [-1]
    constants |= {f"base{i}": flat, f"add{i}": add, f"shape{i}": np.array(shape, np.int64)}
    nodes.append(helper.make_node("MatMul", ["values", f"add{i}"], [f"sum{i}"]))
    nodes.append(helper.make_node("Add", [f"sum{i}", f"base{i}"], [f"flat{i}"]))
    nodes.append(helper.make_node("Reshape", [f"flat{i}", f"shape{i}"], [f"shaped{i}"]))
    nodes.append(helper.make_node("Cast", [f"shaped{i}"], [out.name], to=out.type))
    return helper.make_tensor_value_info(out.name, out.type, [None if n == -1 else n for n in shape])


def _scale(nodes: list[Any], constants: dict[str, np.ndarray], name: str, by: str, order: list[int], op: str) -> None:
    """Multiply or divide the boxes of an output by an input of two columns, the last four columns where it has six."""
    node = next(node for node in nodes if node.output[0] == name)
    node.output[0] = "unscaled"
    constants["order"] = np.array(order, np.int64)
    nodes.append(helper.make_node("Cast", [by], ["factors"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Gather", ["factors", "order"], ["by_column"], axis=1))
    if op == "Mul":
        constants["middle"] = np.array([1], np.int64)
        nodes.append(helper.make_node("Unsqueeze", ["by_column", "middle"], ["by_row"]))
        nodes.append(helper.make_node("Mul", ["unscaled", "by_row"], [name]))
        return
    # Rows of all images: four of each.
    constants |= {"repeat": np.array([1, 4], np.int64), "four": np.array([-1, 4], np.int64)}
    nodes.append(helper.make_node("Tile", ["by_column", "repeat"], ["tiled"]))
    nodes.append(helper.make_node("Reshape", ["tiled", "four"], ["by_row"]))
    constants |= {"begin": np.array([2], np.int64), "end": np.array([6], np.int64), "one": np.array([1], np.int64)}
    constants |= {"start": np.array([0], np.int64)}
    nodes.append(helper.make_node("Slice", ["unscaled", "start", "begin", "one"], ["scores"]))
    nodes.append(helper.make_node("Slice", ["unscaled", "begin", "end", "one"], ["corners"]))
    nodes.append(helper.make_node("Div", ["corners", "by_row"], ["divided"]))
    nodes.append(helper.make_node("Concat", ["scores", "divided"], [name], axis=1))


def write(path: Path, layout: str, **options: Any) -> Path:
    """Write such a graph to a file."""
    onnx.save(build(layout, **options), path)
    return path


def expected_scores(layout: str, colour: tuple[float, float, float]) -> list[float]:
    """The scores of the three boxes in an image of one colour, (red, green, blue) from 0 to 1."""
    spec = PUBLISHED[layout]
    channels = colour[::-1] if spec.bgr else colour
    return [spec.score(value) for value in channels]
