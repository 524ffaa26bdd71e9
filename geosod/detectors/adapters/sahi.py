"""A detection model of SAHI as a detector: Ultralytics, torchvision, Hugging Face, MMDetection, Detectron2 and more."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from geosod.detectors.adapters.image_batches import RGB, ClassIds, Found, eight_bit, image_card
from geosod.detectors.bundle import sha256_of
from geosod.detectors.contract import RawBoxes
from geosod.detectors.detector import Detector
from geosod.errors import ConfigError
from geosod.results import Execution
from geosod.tile_size import Overlap, TileSize

_METHODS = ("perform_inference", "convert_original_predictions")


def from_sahi(
    model: Any,
    *,
    classes: Sequence[str] | Mapping[int, str] | None = None,
    tile: int | TileSize = 640,
    overlap: float | Overlap = 0.2,
    bands: Sequence[str] = RGB,
    threshold: float | None = None,
    batched: bool | None = None,
    execution: Execution | None = None,
    name: str | None = None,
    **fields: Any,
) -> Detector:
    """A detector from a ``sahi.models.base.DetectionModel``, such as ``AutoDetectionModel.from_pretrained`` returns.

    The model resizes, finds and suppresses boxes as it does in SAHI; geosod cuts the tiles, merges and georeferences.
    One thread uses it at a time, since it keeps its last predictions. It runs on its own device.

    Args:
        model: loaded.
        classes: ids and names, or names in the order of ids 0, 1, …; None for the model's `category_mapping`, after
            its `category_remapping`.
        tile, overlap: as in `geosod.ModelCard`.
        bands: names of the input bands; most models take red, green and blue.
        threshold: minimum score; None for the model's `confidence_threshold`, below which it finds nothing.
        batched: give a batch to the model at once, where it can; None does so for models on a GPU. On CPUs it is not
            faster, and with some networks a tile's boxes depend on its place in the batch, in the last bits.
        execution: None for single tiles and one thread of torch on the CPU.
        name: of the model, which stands in outputs.
        fields: further fields of `geosod.ModelCard`. `nms_iou` is 1 by default: the model does its own NMS.

    Raises:
        ConfigError: `model` is none of SAHI's, does not name its classes, or the threshold is below the model's.
        ModelError: a field is out of range.
    """
    lacks = [method for method in _METHODS if not callable(getattr(model, method, None))]
    if isinstance(model, type) or lacks:
        raise ConfigError(f"model is a {type(model).__name__}, no loaded sahi DetectionModel; see docs/adapters.md")
    lowest = float(model.confidence_threshold)
    if threshold is not None and threshold < lowest:
        raise ConfigError(
            f"threshold {threshold} is below the SAHI model's confidence_threshold {lowest}; load it with "
            f"confidence_threshold={threshold}"
        )
    ids = ClassIds.of(_classes(model) if classes is None else classes)
    kind = type(model).__name__
    settings = {"confidence_threshold": lowest, "image_size": getattr(model, "image_size", None)}
    own = {"adapter": "sahi", "architecture": kind, "weights_digest": _digest(model), "parameters": settings}
    score = lowest if threshold is None else threshold
    card = image_card(name or kind, ids, bands, tile=tile, overlap=overlap, threshold=score, **(own | fields))
    if batched is None:
        batched = "cpu" not in str(getattr(model, "device", "cpu"))
    return Detector(card, SahiAdapter(model, ids, batched=batched), execution)


class SahiAdapter:
    """Calls a model of SAHI as ``sahi.predict`` does."""

    def __init__(self, model: Any, classes: ClassIds, *, batched: bool) -> None:
        self._model, self._classes = model, classes
        # Versions of SAHI before 0.12 take single images alone.
        self._batched = batched and hasattr(model, "perform_batch_inference")
        self._lock = threading.Lock()

    @property
    def min_score(self) -> float:
        """The model returns no boxes below it."""
        return float(self._model.confidence_threshold)

    def predict(self, images: Tensor) -> RawBoxes:
        """The boxes of images (B, C, H, W) float32, 0 to 1."""
        arrays = eight_bit(images)
        with self._lock:
            return RawBoxes.per_tile([self._found(objects) for objects in self._predictions(arrays)])

    def _predictions(self, images: list[npt.NDArray[np.uint8]]) -> list[list[Any]]:
        """SAHI's objects of each image."""
        shapes = [list(image.shape[:2]) for image in images]
        if self._batched:
            self._model.perform_batch_inference(images)
            self._model.convert_original_predictions(shift_amount=[[0, 0] for _ in images], full_shape=shapes)
            return list(self._model.object_prediction_list_per_image)
        found = []
        for image, shape in zip(images, shapes, strict=True):
            self._model.perform_inference(image)
            self._model.convert_original_predictions(shift_amount=[0, 0], full_shape=shape)
            found.append(list(self._model.object_prediction_list))
        return found

    def _found(self, objects: list[Any]) -> Found:
        boxes = np.array([found.bbox.to_xyxy() for found in objects], np.float32).reshape(-1, 4)
        scores = np.array([float(found.score.value) for found in objects], np.float32)
        labels = [self._classes.label(int(found.category.id), found.category.name) for found in objects]
        return boxes, scores, np.array(labels, np.int64)


def _classes(model: Any) -> dict[int, str]:
    """Ids of a model's categories, as its predictions have them, and their names."""
    mapping, remapping = model.category_mapping, getattr(model, "category_remapping", None)
    if not mapping:
        raise ConfigError(
            "the SAHI model has no category_mapping; pass classes={id: name}, or load the model with category_mapping"
        )
    try:
        names = {int(i): str(name) for i, name in mapping.items()}
        if not remapping:
            return names
        joined: dict[int, list[str]] = {}
        for old, new in remapping.items():
            joined.setdefault(int(new), []).append(names[int(old)])
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"the SAHI model's categories cannot be read, at {error}: category_mapping must be {{id: name}}, and "
            "category_remapping {id: new id} with texts of the same ids; or pass classes"
        ) from error
    return {i: "/".join(dict.fromkeys(of_id)) for i, of_id in joined.items()}


def _digest(model: Any) -> str:
    """sha256 of the weights file, where there is one."""
    path = getattr(model, "model_path", None)
    if not isinstance(path, str | Path) or not Path(path).is_file():
        return ""
    return sha256_of(Path(path))
