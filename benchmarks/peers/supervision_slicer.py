"""supervision: `InferenceSlicer` on an open rasterio dataset, of which it reads one window at a time."""

from __future__ import annotations

import time
from typing import Any

import rasterio
import supervision as sv

from benchmarks.peers.network import Pixels, load, predict, report


def run(scene: str, model: str, out: str, settings: dict[str, Any], *, workers: int = 1) -> dict[str, float]:
    """With several workers each runs the network on one core; one worker runs it on all."""
    job, detector = load(model, settings, threads=None if workers == 1 else 1)
    loaded = time.monotonic()

    def callback(tile: Pixels) -> sv.Detections:
        found = predict(detector, [tile])[0]
        return sv.Detections(xyxy=found.boxes, confidence=found.scores, class_id=found.labels)

    slicer = sv.InferenceSlicer(
        callback=callback, slice_wh=job.tile, overlap_wh=job.overlap, iou_threshold=0.5, thread_workers=workers
    )
    with rasterio.open(scene) as dataset:
        found = slicer(dataset)
    return report(out, loaded, found.xyxy, found.confidence, found.class_id)
