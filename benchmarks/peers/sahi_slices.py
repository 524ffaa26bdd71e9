"""SAHI: the image in memory, `get_sliced_prediction` on it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from sahi.models.base import DetectionModel
from sahi.predict import get_sliced_prediction
from sahi.prediction import ObjectPrediction

from benchmarks.peers.network import Pixels, load, predict, report
from geosod.detectors.detector import Detector
from geosod.machine import usable_cpus
from geosod.running.job import Job

#: What SAHI does by default, and what is most like geosod's NMS.
POSTPROCESSING = {
    "default": {},
    "nms": {
        "postprocess_type": "NMS", "postprocess_match_metric": "IOU", "postprocess_match_threshold": 0.5,
        "force_postprocess_type": True,
    },
}  # fmt: skip


class SlicedDetector(DetectionModel):  # type: ignore[misc]
    """A detector behind SAHI's interface, with batches of its own."""

    def __init__(self, job: Job, detector: Detector) -> None:
        self.detector, self.names = detector, dict(enumerate(job.model.card.classes))
        mapping = {str(label): name for label, name in self.names.items()}
        super().__init__(confidence_threshold=job.class_rules.min_score, device="cpu", category_mapping=mapping)

    def load_model(self) -> None:
        self.model = self.detector

    @property
    def category_names(self) -> list[str]:
        return list(self.names.values())

    def perform_inference(self, image: Pixels) -> None:
        self._original_predictions = predict(self.detector, [image])

    def perform_batch_inference(self, images: list[Pixels]) -> None:
        self._original_predictions = predict(self.detector, images)

    def _create_object_prediction_list_from_original_predictions(
        self, shift_amount_list: Any = ((0, 0),), full_shape_list: Any = None
    ) -> None:
        shifts = shift_amount_list if isinstance(shift_amount_list[0], list | tuple) else [shift_amount_list]
        shapes = full_shape_list if full_shape_list and isinstance(full_shape_list[0], list | tuple) else None
        self._object_prediction_list_per_image = [
            [
                ObjectPrediction(
                    bbox=box, category_id=label, score=score, category_name=self.names[label],
                    shift_amount=list(shifts[i]), full_shape=shapes[i] if shapes else full_shape_list,
                )
                for box, label, score in zip(
                    found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
                )
            ]
            for i, found in enumerate(self._original_predictions)
        ]  # fmt: skip


def run(
    scene: str, model: str, out: str, settings: dict[str, Any], *, batch: int = 1, postprocessing: str = "nms"
) -> dict[str, float]:
    job, detector = load(model, settings, batch=batch)
    sliced = SlicedDetector(job, detector)
    loaded = time.monotonic()
    with rasterio.open(scene, num_threads=usable_cpus()) as dataset:
        image = np.ascontiguousarray(dataset.read([1, 2, 3]).transpose(1, 2, 0))
    (width, height), (across, down) = job.tile, job.overlap
    result = get_sliced_prediction(
        image, sliced, slice_height=height, slice_width=width, overlap_height_ratio=down / height,
        overlap_width_ratio=across / width, perform_standard_pred=False, verbose=0, batch_size=batch,
        **POSTPROCESSING[postprocessing],
    )  # fmt: skip
    found = result.object_prediction_list
    boxes = [each.bbox.to_xyxy() for each in found]
    return report(out, loaded, boxes, [each.score.value for each in found], [each.category.id for each in found])


def best_batch(scene: str, model: str, out: str, settings: dict[str, Any], *, batches: list[int]) -> int:
    """The batch size with which SAHI is fastest on a scene."""
    seconds = {}
    for batch in batches:
        times = run(scene, model, out, settings, batch=batch)
        seconds[batch] = times["end"] - times["loaded"]
        Path(out).unlink()
    return min(seconds, key=lambda batch: seconds[batch])
