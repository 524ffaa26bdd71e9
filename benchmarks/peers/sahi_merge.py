"""SAHI's merging of the boxes that `benchmarks.merge` times geosod with."""

from __future__ import annotations

import time

import numpy as np
from sahi.postprocess import combine

from benchmarks import forest


def seconds(made_by: str) -> dict[str, float]:
    """CPU seconds by method, for the boxes of a function of `benchmarks.forest` and a number, ``raw_boxes:1000``."""
    function, _, number = made_by.partition(":")
    boxes = getattr(forest, function)(int(number))
    warm = np.array([[0, 0, 9, 9, 0.5, 0], [1, 1, 9, 9, 0.4, 0]], np.float32)
    rows = np.column_stack([boxes.boxes, boxes.scores, boxes.labels]).astype(np.float32)
    found = {}
    for method in ("nms", "greedy_nmm", "nmm"):
        merge = getattr(combine, f"batched_{method}")
        merge(warm, "IOU", 0.5)
        start = time.process_time()
        merge(rows, "IOU", 0.5)
        found[method] = time.process_time() - start
    return found
