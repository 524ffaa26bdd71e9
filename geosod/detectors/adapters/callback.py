"""A function from an image to its boxes, as those of supervision's InferenceSlicer, as a detector."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from geosod.detectors.adapters.image_batches import RGB, ClassIds, Found, eight_bit, image_card
from geosod.detectors.contract import RawBoxes
from geosod.detectors.detector import IN_PROCESS, Detector
from geosod.errors import ConfigError, ModelError
from geosod.results import Execution
from geosod.tile_size import Overlap, TileSize

_ANSWER = ("xyxy", "confidence", "class_id")


def from_callback(
    callback: Callable[[Any], Any],
    *,
    classes: Sequence[str] | Mapping[int, str],
    tile: int | TileSize = 640,
    overlap: float | Overlap = 0.2,
    bands: Sequence[str] = RGB,
    threshold: float = 0.0,
    batch_size: int = 1,
    execution: Execution | None = None,
    name: str | None = None,
    **fields: Any,
) -> Detector:
    """A detector from a function that takes an image and returns boxes, such as ``supervision.Detections``.

    The function is called for one image at a time, from one thread at a time.

    Args:
        callback: takes an array (H, W, C) uint8, writable, with the bands in the order of `bands`, and returns an
            object with `xyxy` (k, 4), pixels of the image; `confidence` (k,) or None, which counts as 1; and `class_id`
            (k,) or None. Where its `data` has "class_name", names decide, not ids.
        classes: names in the order of ids 0, 1, …, or ids and names.
        tile, overlap, threshold: as in `geosod.ModelCard`.
        bands: names of the input bands; ("blue", "green", "red") for a function that expects BGR.
        batch_size: above 1, the function takes a list of so many images and returns a list.
        execution: None for single tiles on the CPU with one thread of torch.
        name: of the model, which stands in outputs; default: that of the function. Give weights of another training
            another name: they are not part of the digest.
        fields: further fields of `geosod.ModelCard`. `nms_iou` is 1 by default: the function does its own NMS.

    Raises:
        ConfigError: `callback` cannot be called, or classes cannot be read.
        ModelError: a field is out of range.
    """
    if not callable(callback):
        raise ConfigError(f"callback is a {type(callback).__name__}; pass a function from an image to its boxes")
    if batch_size < 1:
        raise ConfigError(f"batch_size {batch_size} must be at least 1")
    if execution is None:
        execution = Execution(IN_PROCESS.device, "eager", "fp32", batch_size, 1)
    ids = ClassIds.of(classes)
    title = name or str(getattr(callback, "__name__", type(callback).__name__))
    stated = {"adapter": "callback", "architecture": title, "provenance": _provenance(callback)} | fields
    card = image_card(title, ids, bands, tile=tile, overlap=overlap, threshold=threshold, **stated)
    return Detector(card, CallbackAdapter(callback, ids, batched=batch_size > 1), execution)


class CallbackAdapter:
    """Calls a function for every image of a batch, or once with all of them."""

    def __init__(self, callback: Callable[[Any], Any], classes: ClassIds, *, batched: bool) -> None:
        self._callback, self._classes, self._batched = callback, classes, batched
        self._lock = threading.Lock()

    def predict(self, images: Tensor) -> RawBoxes:
        """The boxes of images (B, C, H, W) float32, 0 to 1."""
        arrays = eight_bit(images)
        with self._lock:
            answers = self._callback(arrays) if self._batched else [self._callback(array) for array in arrays]
        if not isinstance(answers, list | tuple) or len(answers) != len(arrays):
            got = f"{len(answers)} entries" if isinstance(answers, list | tuple) else f"a {type(answers).__name__}"
            raise ModelError(
                f"the callback returned {got} for {len(arrays)} images; it must return a list, one for each"
            )
        height, width = images.shape[2:]
        return RawBoxes.per_tile([_found(answer, self._classes, (width, height)) for answer in answers])


def _found(answer: Any, classes: ClassIds, size: tuple[int, int]) -> Found:
    if not all(hasattr(answer, name) for name in _ANSWER):
        raise ModelError(
            f"the callback returned a {type(answer).__name__}; it must return an object with "
            f"{', '.join(_ANSWER)}, such as supervision.Detections"
        )
    boxes = np.array(answer.xyxy, np.float32).reshape(-1, 4)
    scores = _column(answer, "confidence", len(boxes))
    beyond = (boxes[:, :2] > np.array(size)).any(axis=1)
    if beyond.any():
        raise ModelError(
            f"the callback returned the box {boxes[beyond][0].tolist()} of an image of {size[0]} x {size[1]} px; it "
            "must run the model on the image that it gets, and return boxes in its pixels"
        )
    confidence = np.ones(len(boxes), np.float32) if scores is None else scores.astype(np.float32)
    return boxes, confidence, _labels(answer, classes, len(boxes))


def _column(answer: Any, name: str, count: int) -> npt.NDArray[Any] | None:
    values = getattr(answer, name, None)
    if values is None:
        return None
    column = np.array(values).reshape(-1)
    if len(column) != count:
        raise ModelError(f"the callback returned {count} boxes, but {len(column)} values of {name}; it needs one each")
    return column


def _labels(answer: Any, classes: ClassIds, count: int) -> npt.NDArray[np.int64]:
    names = (getattr(answer, "data", None) or {}).get("class_name")
    ids = _column(answer, "class_id", count)
    if names is not None and len(names) == count:
        return np.array([_named(str(name), classes) for name in names], np.int64)
    if ids is not None:
        return np.array([classes.label(int(i)) for i in ids], np.int64)
    if count and len(classes.names) > 1:
        raise ModelError(
            f"the callback returned boxes without class_id, but there are {len(classes.names)} classes; return "
            "class_id or data['class_name'], or name one class"
        )
    return np.zeros(count, np.int64)


def _named(name: str, classes: ClassIds) -> int:
    if name not in classes.names:
        raise ModelError(
            f"the callback returned class {name!r}, but classes names only {', '.join(classes.names[:20])}; add it to "
            "classes, or leave its boxes out in the callback"
        )
    return classes.names.index(name)


def _provenance(callback: Callable[[Any], Any]) -> dict[str, Any]:
    """Where a function is from, and the sha256 of its file, so that changed code is another model."""
    while isinstance(callback, functools.partial):
        callback = callback.func
    kind = callback if inspect.isroutine(callback) else type(callback)
    found = {"function": f"{kind.__module__}:{kind.__qualname__}"}
    # Functions that were typed at a prompt, or are part of a library, have no source.
    with contextlib.suppress(OSError, TypeError):
        found["sha256"] = hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()
    return found
