"""What the programs of all peers share: the network, the tiles it takes, and how they report what they found.

Each program is a function that `benchmarks.child` calls in the environment of its peer. It gets the scene, the model,
how to run it, and where to write its boxes; it returns when its network was loaded and when it was done.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geosod.detections import Detections
from geosod.detectors.detector import Detector
from geosod.machine import usable_cpus
from geosod.running.detect import make_job
from geosod.running.job import Job, resolve_execution
from geosod.scene import TileBatch

Pixels = npt.NDArray[np.uint8]


def load(model: str, settings: dict[str, Any], *, batch: int = 1, threads: int | None = None) -> tuple[Job, Detector]:
    """The model as geosod would run it, or as `settings` say, on all cores unless `threads` says otherwise; warm."""
    job = make_job(model, **settings)
    execution, _ = resolve_execution(job)
    execution = replace(execution, batch=batch, threads=threads or usable_cpus())
    detector = job.model.load(execution, rules=job.class_rules)
    detector.warm_up(job.tile)
    return job, detector


def predict(detector: Detector, images: Sequence[Pixels]) -> list[Detections]:
    """What is found in images (H, W, C) that are no larger than a tile, in their own pixels."""
    width, height = detector.card.tile_size
    pixels = np.zeros((len(images), 3, height, width), np.uint8)
    for tile, image in zip(pixels, images, strict=True):
        tile[:, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
    windows = np.tile(np.array([[0, 0, width, height]], np.int64), (len(images), 1))
    return detector.detect(TileBatch(pixels, windows, None, windows[:, 2:]))


def report(out: str, loaded: float, boxes: Any, scores: Any, labels: Any) -> dict[str, float]:
    """Write what was found where `benchmarks.peers.compare` finds it."""
    end = time.monotonic()
    arrays: dict[str, Any] = {
        "boxes": np.reshape(boxes, (-1, 4)),
        "scores": np.asarray(scores),
        "labels": np.asarray(labels),
    }
    np.savez(Path(out), **arrays)
    return {"loaded": loaded, "end": end}
