"""DeepForest: `predict_tile` with its own network and its defaults, but for random weights."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import numpy as np
from deepforest.main import deepforest

from benchmarks.peers.network import report
from benchmarks.peers.retinanet import OVERLAP, TILE, network


def run(scene: str, model: str, out: str, settings: dict[str, Any]) -> dict[str, float]:  # noqa: ARG001
    with tempfile.TemporaryDirectory() as logs:
        names = {"num_classes": 1, "label_dict": {"Tree": 0}, "model": {"name": None}, "log_root": logs}
        forest = deepforest(model=network(), config_args=names)
        forest.set_labels({"Tree": 0})
        loaded = time.monotonic()
        found = forest.predict_tile(path=scene, patch_size=TILE, patch_overlap=OVERLAP)
    if found is None:
        return report(out, loaded, np.zeros((0, 4)), [], [])
    boxes = found[["xmin", "ymin", "xmax", "ymax"]].to_numpy()
    return report(out, loaded, boxes, found["score"].to_numpy(), np.zeros(len(found), np.int64))
