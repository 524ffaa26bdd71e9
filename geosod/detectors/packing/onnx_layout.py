"""Which layout the outputs of an ONNX graph have, from names, shapes, types, and the values of one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from geosod.detectors.adapters.layouts import LAYOUTS, grid
from geosod.errors import ModelError

Arrays = Mapping[str, npt.NDArray[Any]]
#: What graphs are called that give one row of probabilities or logits an image.
CLASSIFIER = "classifier"
#: Rows of networks that need no NMS, at most; others have one for every cell.
_MAX_QUERIES = 1000


@dataclass(frozen=True, slots=True)
class Recognised:
    """A layout.

    Attributes:
        layout: its name; None where the outputs fit none, or several.
        count: number of classes of the network; None where the outputs do not show it.
        parameters: of the layout.
        reason: why there is none.
    """

    layout: str | None
    count: int | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


def fields_of(found: Recognised) -> dict[str, dict[str, Any]]:
    """What a layout says of a model: `card`, `input` and `missing`, fields of `Found`."""
    if found.layout is None:
        why = f"what its outputs mean; {found.reason}; known are {', '.join(LAYOUTS)}"
        return {"card": {}, "input": {}, "missing": {"--layout": why}}
    layout = LAYOUTS[found.layout]
    card = {"nms_iou": layout.nms_iou, "threshold": layout.threshold}
    return {"card": card, "input": dict(layout.input), "missing": {}}


def architecture_of(found: Recognised) -> str:
    """What exports have a layout; "" where there is none."""
    return "" if found.layout is None else LAYOUTS[found.layout].what


def recognise(
    inputs: tuple[str, ...], outputs: Arrays, size: tuple[int, int], *, layout: str | None, classes: int
) -> Recognised:
    """The layout of a graph's outputs.

    Args:
        inputs: names of all inputs.
        outputs: what a run on an image of noise returned.
        size: (width, height) of that image.
        layout: what the user or the metadata say; it is only completed.
        classes: number of names that are known; 0 for none.

    Raises:
        ModelError: the layout is unknown, or the outputs cannot be of it.
    """
    arrays = list(outputs.values())
    if layout in (None, CLASSIFIER) and len(arrays) == 1 and arrays[0].ndim == 2:
        return Recognised(CLASSIFIER, arrays[0].shape[1], {"logits": not _is_distribution(arrays[0])})
    if layout == CLASSIFIER:
        raise ModelError(
            f"a classifier has one row of classes an image, but this graph's outputs are {_shapes(outputs)}"
        )
    if layout is not None and layout not in LAYOUTS:
        raise ModelError(f"layout {layout!r} is unknown; known are {', '.join(LAYOUTS)}")
    found = _by_names(inputs, outputs, classes) or _single(outputs, size, classes)
    if layout is None or found.layout == layout:
        return found
    return Recognised(layout, _count(layout, outputs), _parameters(layout, outputs))


def _shapes(outputs: Arrays) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())


def _is_distribution(array: npt.NDArray[Any]) -> bool:
    return bool((array >= 0).all() and np.allclose(array.sum(axis=1), 1, atol=1e-3))


def _by_names(inputs: tuple[str, ...], outputs: Arrays, classes: int) -> Recognised | None:
    rules = (_with_sizes, _with_boxes, _with_logits, _with_labels)
    return next((found for rule in rules if (found := rule(inputs, outputs, classes)) is not None), None)


def _with_sizes(inputs: tuple[str, ...], outputs: Arrays, classes: int) -> Recognised | None:  # noqa: ARG001
    """Graphs with an input for the size or scale of the original image."""
    if "scale_factor" in inputs:
        return Recognised("ppyoloe")
    return Recognised("rtdetr-postprocessed") if "orig_target_sizes" in inputs else None


def _with_boxes(inputs: tuple[str, ...], outputs: Arrays, classes: int) -> Recognised | None:  # noqa: ARG001
    """Graphs whose outputs have the names that TensorFlow, MMDeploy or RF-DETR gives them."""
    if {"detection_boxes", "detection_scores", "detection_classes"} <= outputs.keys():
        return Recognised("tensorflow", parameters={"first_label": 1})
    if not {"dets", "labels"} <= outputs.keys():
        return None
    if outputs["dets"].shape[-1] == 5:
        return Recognised("mmdetection")
    return Recognised("rfdetr", _count("rfdetr", outputs))


def _with_logits(inputs: tuple[str, ...], outputs: Arrays, classes: int) -> Recognised | None:  # noqa: ARG001
    logits = next((outputs[name] for name in ("logits", "pred_logits") if name in outputs), None)
    if logits is None or len(outputs) < 2:
        return None
    count = logits.shape[-1]
    if classes in (count, count - 1):
        return Recognised("detr" if classes == count - 1 else "rtdetr", classes)
    return Recognised(None, reason=f"detr if the last of its {count} classes is for no object, else rtdetr")


def _with_labels(inputs: tuple[str, ...], outputs: Arrays, classes: int) -> Recognised | None:  # noqa: ARG001
    found = len(outputs) == 3 and _is_labelled(outputs)
    return Recognised("torchvision", parameters={"first_label": 1}) if found else None


def _is_labelled(outputs: Arrays) -> bool:
    shapes = sorted(array.ndim for array in outputs.values())
    whole = sum(np.issubdtype(array.dtype, np.integer) for array in outputs.values())
    return whole == 1 and any(array.shape[-1:] == (4,) for array in outputs.values()) and shapes[0] == shapes[1]


def _single(outputs: Arrays, size: tuple[int, int], classes: int) -> Recognised:
    """The layout of graphs with one output."""
    array = next(iter(outputs.values()))
    if len(outputs) == 1 and array.ndim == 3:
        return _queries(array, classes) or _cells(array, size, classes)
    if (
        len(outputs) == 1
        and array.ndim == 4
        and array.shape[1] > 5
        and array.shape[2:] == (size[1] // 16, size[0] // 16)
    ):
        return Recognised("fastestdet", array.shape[1] - 5)
    return Recognised(None, reason=f"its outputs {_shapes(outputs)} fit none")


def _queries(array: npt.NDArray[Any], classes: int) -> Recognised | None:
    """Layouts with a few hundred rows, (B, Q, F)."""
    _, first, second = array.shape
    if first > _MAX_QUERIES or first < second:
        return None
    if second == 6 and _is_scored(array):
        return Recognised("yolov10")
    relative = float(np.abs(array[..., :4]).max()) <= 1.5
    return Recognised("rtdetr-ultralytics", second - 4) if relative or classes == second - 4 else None


def _cells(array: npt.NDArray[Any], size: tuple[int, int], classes: int) -> Recognised:
    """Layouts with a row or a column for every cell."""
    _, first, second = array.shape
    if first < second:
        return Recognised("yolov8", first - 4)
    if classes == second - 4 and classes > 0:
        return Recognised("yolov8", classes, {"rows": True})
    return Recognised("yolox" if _is_raw(array, size) else "yolov5", second - 5)


def _is_scored(array: npt.NDArray[Any]) -> bool:
    """Whether the last columns are a score and the number of a class."""
    score, label = array[..., 4], array[..., 5]
    return bool(((score >= 0) & (score <= 1)).all() and (label == np.round(label)).all() and (label >= 0).all())


def _is_raw(array: npt.NDArray[Any], size: tuple[int, int]) -> bool:
    """Whether positions are offsets from grid cells, and not pixels of the input."""
    try:
        cells, per_cell = grid(*size, array.shape[1])
    except ModelError:
        return False
    if per_cell != 1:
        return False
    centre = (cells[:, :2] + 0.5) * cells[:, 2:]
    decoded = np.median(np.abs(array[0, :, :2] - centre) / cells[:, 2:])
    raw = np.median(np.abs(array[0, :, :2] - 0.5))
    return bool(raw < decoded)


def _count(layout: str, outputs: Arrays) -> int | None:
    """The number of classes that a network of a layout has; None where it cannot be seen.

    Raises:
        ModelError: the outputs cannot be of the layout.
    """
    arrays = list(outputs.values())
    wrong = ModelError(f"layout {layout!r} does not fit the outputs of this graph: {_shapes(outputs)}")
    if layout in ("yolov5", "yolox", "yolov8", "yolov10", "rtdetr-ultralytics"):
        if arrays[0].ndim != 3:
            raise wrong
        _, first, second = arrays[0].shape
        features = min(first, second) if layout == "yolov8" else second
        return None if layout == "yolov10" else _positive(features - (5 if layout in ("yolov5", "yolox") else 4), wrong)
    if layout in ("detr", "rtdetr", "rfdetr"):
        names = [name for name in ("logits", "pred_logits", "labels") if name in outputs]
        if not names:
            raise wrong
        count = outputs[names[0]].shape[-1]
        return _positive(count - 1 if layout == "detr" else count, wrong)
    if layout == "fastestdet":
        return _positive(arrays[0].shape[1] - 5, wrong)
    return None


def _positive(count: int, otherwise: ModelError) -> int:
    if count < 1:
        raise otherwise
    return int(count)


def _parameters(layout: str, outputs: Arrays) -> dict[str, Any]:
    if layout in ("torchvision", "tensorflow"):
        return {"first_label": 1}
    if layout == "yolov8":
        (_, first, second) = next(iter(outputs.values())).shape
        return {"rows": True} if first > second else {}
    return {}
