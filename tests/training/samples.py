"""Networks and targets for the tests of criteria: small, and made in a moment."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import nn

from geosod.detectors.zoo.centre import Centre
from geosod.detectors.zoo.faster_rcnn import FasterRCNN
from geosod.detectors.zoo.fcos import FCOS
from geosod.detectors.zoo.fpn import SmallFPN
from geosod.detectors.zoo.retinanet import RetinaNet
from geosod.detectors.zoo.ssd import SSD
from geosod.detectors.zoo.unet import CentreUNet
from geosod.training.targets import Targets

#: What makes every network small.
SMALL = {"bands": 3, "classes": 2, "backbone": "slim", "width": 8, "channels": 16}
SIDE = 64


def retinanet(**options) -> RetinaNet:
    return RetinaNet(**(SMALL | {"tower": 1} | options))


def fcos(**options) -> FCOS:
    return FCOS(**(SMALL | {"tower": 1} | options))


def faster_rcnn(**options) -> FasterRCNN:
    return FasterRCNN(**(SMALL | {"proposals": 40, "hidden": 64, "pool": 5} | options))


def ssd(**options) -> SSD:
    return SSD(**({"bands": 3, "classes": 2, "backbone": "slim", "width": 16} | options))


def centre(**options) -> Centre:
    return Centre(**(SMALL | {"head": 1} | options))


def small_fpn(**options) -> SmallFPN:
    return SmallFPN(**({"bands": 3, "classes": 2, "width": 8} | options))


def centre_unet(**options) -> CentreUNet:
    return CentreUNet(**({"bands": 3, "classes": 2, "width": 4, "deep": 1} | options))


NETWORKS = {
    "retinanet": retinanet,
    "fcos": fcos,
    "faster-rcnn": faster_rcnn,
    "ssd": ssd,
    "centre": centre,
    "small-fpn": small_fpn,
    "centre-unet": centre_unet,
}


def fix(network: nn.Module, raw: torch.Tensor) -> None:
    """Make a network's raw output a parameter, so that a gradient says what a loss asks of it."""
    network.raw = nn.Parameter(raw)
    network.forward = lambda images: network.raw


def targets(boxes, labels=None, ignored=None, valid_range=None) -> Targets:
    found = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Targets(
        found,
        torch.zeros(len(found), dtype=torch.int64) if labels is None else torch.tensor(labels, dtype=torch.int64),
        torch.zeros(len(found), dtype=torch.bool) if ignored is None else torch.tensor(ignored, dtype=torch.bool),
        None if valid_range is None else torch.tensor(valid_range),
    )


def drawn(seed: int = 0, *, count: int = 2) -> tuple[torch.Tensor, list[Targets]]:
    """Dark images with bright squares of two classes, red and green."""
    rng = torch.Generator().manual_seed(seed)
    images, labelled = torch.rand(count, 3, SIDE, SIDE, generator=rng) * 0.1, []
    for image in images:
        boxes, labels = [], []
        for col, row in ((6, 8), (38, 6), (10, 40), (40, 38)):
            width, height = (int(n) for n in torch.randint(8, 16, (2,), generator=rng))
            label = int(torch.randint(0, 2, (1,), generator=rng))
            image[label, row : row + height, col : col + width] = 1.0
            boxes.append([col, row, col + width, row + height])
            labels.append(label)
        labelled.append(targets(boxes, labels))
    return images, labelled


#: Coordinates as they come: ordinary, outside the image, huge, and not numbers.
_COORDINATES = st.one_of(
    st.floats(-20, SIDE + 20, width=32),
    st.sampled_from([0.0, 8.0, 16.0, float(SIDE), -1e9, 1e9, 3e38, float("nan"), float("inf"), -float("inf")]),
)


@st.composite
def any_targets(draw) -> Targets:
    count = draw(st.integers(0, 6))
    boxes = [[draw(_COORDINATES) for _ in range(4)] for _ in range(count)]
    labels = [draw(st.integers(-1, 1)) for _ in range(count)]
    ignored = [draw(st.booleans()) for _ in range(count)]
    low = draw(st.sampled_from([None, 0.0, 10.0]))
    return targets(boxes, labels, ignored, None if low is None else [low, draw(st.sampled_from([12.0, float("inf")]))])
