"""DeepForest's network, a RetinaNet with a ResNet-50, with random weights: for DeepForest itself, and for geosod."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geosod import Detector, Execution, ModelCard, RawBoxes

#: What DeepForest uses by default, but for tiles of 400 pixels: geosod takes multiples of 32.
TILE, OVERLAP, SCORE, NMS, MERGE = 416, 0.05, 0.1, 0.05, 0.15


def network() -> Any:
    """The same network in every process."""
    from torchvision.models.detection import retinanet_resnet50_fpn

    torch.manual_seed(0)
    made = retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=1, score_thresh=SCORE, nms_thresh=NMS
    )
    return made.eval()


class RetinaNet:
    """An adapter for a detection network of torchvision."""

    def __init__(self) -> None:
        self.network = network()

    def predict(self, images: Tensor) -> RawBoxes:
        found = self.network(list(images))
        return RawBoxes.per_tile([(each["boxes"], each["scores"], each["labels"]) for each in found])


def detector(execution: Execution) -> Detector:
    """For ``--model benchmarks.peers.retinanet:detector --trust``."""
    card = ModelCard(
        name="retinanet-random", bands=("red", "green", "blue"), dtype="uint8", minimum=(0.0,) * 3,
        maximum=(255.0,) * 3, classes=("Tree",), tile=TILE, overlap=OVERLAP, threshold=SCORE, nms_iou=NMS,
        merge_threshold=MERGE,
    )  # fmt: skip
    return Detector(card, RetinaNet(), execution)
