"""The loop that one writes first: read a window with rasterio, one forward pass on all cores, NMS at the end."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import rasterio
import torch
import torchvision

from benchmarks.peers.network import load, predict, report
from geosod.tiling.grid import make_grid


def run(scene: str, model: str, out: str, settings: dict[str, Any]) -> dict[str, float]:
    job, detector = load(model, settings)
    loaded = time.monotonic()
    boxes, scores, labels = [], [], []
    with rasterio.open(scene) as dataset:
        grid = make_grid(dataset.width, dataset.height, tile=job.tile, overlap=job.overlap)
        for col, row, width, height in grid.windows_array().tolist():
            pixels = dataset.read([1, 2, 3], window=((row, row + height), (col, col + width)))
            found = predict(detector, [pixels.transpose(1, 2, 0)])[0]
            boxes.append(found.boxes + np.array([col, row, col, row]))
            scores.append(found.scores)
            labels.append(found.labels)
    columns = [np.concatenate(column) for column in (boxes, scores, labels)]
    kept = nms(*columns)
    return report(out, loaded, *(column[kept] for column in columns))


def nms(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Indices that torchvision's NMS keeps, class by class."""
    columns = torch.from_numpy(boxes), torch.from_numpy(scores).double(), torch.from_numpy(labels)
    return torchvision.ops.batched_nms(*columns, 0.5).numpy()
