"""Small YOLO networks with random weights, whose boxes depend on every channel of the image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

#: No network, no installation, and no settings of a user.
os.environ.update(YOLO_OFFLINE="1", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
NAMES = ("plane", "ship", "tank")


def tiny_yolo(config: str = "yolov8n.yaml", *, seed: int = 0) -> Any:
    """An `ultralytics.YOLO` with three classes, which finds some tens of boxes in an image of noise."""
    ultralytics = pytest.importorskip("ultralytics")
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(seed)
    yolo = ultralytics.YOLO(config)
    yolo.model = DetectionModel(config, nc=len(NAMES), verbose=False)
    yolo.model.names = dict(enumerate(NAMES))
    _calibrate(yolo.model)
    head = yolo.model.model[-1]
    with torch.no_grad():
        for name in ("cv3", "one2one_cv3"):
            for i, branch in enumerate(getattr(head, name, None) or ()):
                branch[-1].weight.mul_(2)
                branch[-1].bias.copy_(torch.tensor([-1.8, -2.2, -2.6]) - i)
        for name in ("cv2", "one2one_cv2"):
            for branch in getattr(head, name, None) or ():
                bias = branch[-1].bias.view(4, -1)
                branch[-1].weight.mul_(0.25)
                # Another distance on each side, so that exchanged sides show.
                if bias.shape[1] == 1:
                    bias[:, 0] = torch.tensor([0.8, 1.2, 1.6, 2.4])
                for side in range(4 if bias.shape[1] > 1 else 0):
                    bias[side] = 0
                    bias[side, 1 + side] = 6
    yolo.model.eval()
    return yolo


def _calibrate(network: torch.nn.Module) -> None:
    """Normalise as for noise: the values of networks with random weights vanish from layer to layer."""
    layers = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(np.stack([picture(256, 256, seed) for seed in range(4)])).float() / 255)
    network.eval()


def saved_yolo(path: Path, config: str = "yolov8n.yaml", *, seed: int = 0) -> Path:
    """The file of such a network."""
    yolo = tiny_yolo(config, seed=seed)
    yolo.ckpt = {"train_args": {"imgsz": 256, "task": "detect"}}
    yolo.save(path)
    return path


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(3, H, W) uint8: noise of several sizes, another in each band."""
    rng = np.random.default_rng(seed)
    image = np.zeros((3, height, width))
    for cell in (1, 4, 16, 40):
        coarse = rng.random((3, -(-height // cell), -(-width // cell)))
        image += coarse.repeat(cell, 1).repeat(cell, 2)[:, :height, :width]
    image -= image.min()
    image *= np.array([255, 200, 120])[:, None, None] / image.max()
    return image.astype(np.uint8)
