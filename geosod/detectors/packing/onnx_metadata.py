"""What people write into ONNX files: the metadata of Ultralytics' exports and of the QGIS plugin Deepness."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from geosod.errors import ModelError

#: A value longer than this is not read: 10,000 names fit.
_MAX_LENGTH = 1 << 20
#: Deepness' name of a kind of detector → our layout, and its parameters.
_DETECTOR_TYPES: dict[str, tuple[str, dict[str, Any]]] = {
    "YOLO_v5_or_v7_default": ("yolov5", {}),
    "YOLO_v6": ("yolov5", {"objectness": False}),
    "YOLO_v9": ("yolov8", {}),
    "YOLO_Ultralytics": ("yolov8", {}),
}


@dataclass(slots=True)
class Stated:
    """What metadata state; fields that they do not are empty.

    Attributes:
        classes: names of the classes.
        size: (width, height) of the input in pixels.
        layout, parameters: of the outputs.
        card: fields of `ModelCard`.
        input: fields of `NetworkInput`.
        provenance: of the file.
    """

    classes: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    layout: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    input: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


def read_metadata(metadata: Mapping[str, str], *, where: str) -> Stated:
    """What the metadata of an ONNX file state.

    Args:
        metadata: keys and texts.
        where: what to call the file in an error.

    Raises:
        ModelError: they are of a model that is no detector, or a value cannot be read.
    """
    values = {key: _value(text) for key, text in metadata.items() if len(text) <= _MAX_LENGTH}
    try:
        if "task" in values or "names" in values:
            return _ultralytics(values)
        if "model_type" in values or "class_names" in values or "det_conf" in values:
            return _deepness(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{where}: its metadata cannot be read: {type(error).__name__}: {error}") from error
    return Stated()


def _value(text: str) -> Any:
    """A value that was written as JSON or as Python's literals; else the text itself."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


def names_in_order(names: Any) -> tuple[str, ...]:
    """The values of {0: "a", 1: "b"}, of {"0": "a"}, or of a list, in order; gaps are "unused".

    Raises:
        ValueError: keys are no numbers of classes.
    """
    if isinstance(names, list | tuple):
        return tuple(map(str, names))
    numbered = {int(key): str(name) for key, name in names.items()}
    if numbered and not (min(numbered) >= 0 and max(numbered) < 100_000):
        raise ValueError(f"names of classes have the numbers {min(numbered)} to {max(numbered)}")
    return tuple(numbered.get(i, "unused") for i in range(max(numbered, default=-1) + 1))


def _ultralytics(values: Mapping[str, Any]) -> Stated:
    """Keys task, names, imgsz, stride, end2end, args, channels, license, description, version."""
    task = values.get("task", "detect")
    if task not in ("detect", "classify"):
        raise ModelError(
            f"this model's task is {task!r}; geosod runs detectors of axis-aligned boxes (task 'detect') and "
            "classifiers of crops (task 'classify'), so export one"
        )
    found = Stated(classes=names_in_order(values.get("names", {})))
    if size := values.get("imgsz"):
        height, width = size if isinstance(size, list | tuple) else (size, size)
        found.size = int(width), int(height)
    if task == "classify":
        found.layout = "classifier"
        return found
    args = values.get("args")
    if (isinstance(args, dict) and args.get("nms")) or str(values.get("end2end", "")).lower() == "true":
        found.layout = "yolov10"
    for key, name in (
        ("description", "description"),
        ("version", "ultralytics"),
        ("date", "exported"),
        ("author", "author"),
    ):
        if key in values:
            found.provenance[name] = str(values[key])
    if text := str(values.get("license", "")):
        found.card["license"] = "AGPL-3.0-only" if text.startswith("AGPL-3.0") else text.split(" (", maxsplit=1)[0]
    if "description" in values:
        found.card["description"] = str(values["description"])
    return found


def _deepness(values: Mapping[str, Any]) -> Stated:
    """Keys of the plugin's documentation, "Adding metadata to ONNX model"; resolution is in cm a pixel."""
    kind = str(values.get("model_type", "Detector"))
    if kind.lower() != "detector":
        raise ModelError(f"this model is a {kind!r}; geosod runs detectors (model_type 'Detector')")
    found = Stated(classes=names_in_order(values.get("class_names", {})))
    if size := values.get("tiles_size"):
        found.size = int(size), int(size)
    if resolution := values.get("resolution"):
        found.card["gsd"] = float(resolution) / 100
    if (overlap := values.get("tiles_overlap")) is not None:
        found.card["overlap"] = float(overlap) / 100
    for key, name in (("det_conf", "threshold"), ("det_iou_thresh", "nms_iou")):
        if key in values:
            found.card[name] = float(values[key])
    if kind_of_detector := values.get("det_type"):
        if kind_of_detector not in _DETECTOR_TYPES:
            known = ", ".join(_DETECTOR_TYPES)
            raise ModelError(f"det_type {kind_of_detector!r} is unknown; known are {known}; state --layout")
        found.layout, found.parameters = _DETECTOR_TYPES[kind_of_detector]
    for key, name in (("standardization_mean", "mean"), ("standardization_std", "std")):
        if key in values:
            found.input[name] = tuple(map(float, values[key]))
    return found
