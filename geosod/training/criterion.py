"""What all criteria have in common: a network, targets without degenerate boxes, and what sums are divided by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from geosod.errors import LabelError
from geosod.training.targets import MIN_SIDE, Targets

#: Maps a scalar of this process, as its number of positive examples, to what its sum of losses is divided by.
Normaliser = Callable[[Tensor], Tensor]
#: Coordinates are clamped to so many pixels on either side of the origin: areas then are finite in float32.
_FARTHEST = 1e6


def local_normaliser(count: Tensor) -> Tensor:
    """The count of this process, at least 1."""
    return count.clamp(min=1.0)


def distributed_normaliser(count: Tensor) -> Tensor:
    """The mean of all processes' counts, of which the sum is at least 1.

    Where gradients are averaged over processes, as by DistributedDataParallel, several of them with this normaliser
    compute what one does with all their images.
    """
    total = count.detach().clone()
    torch.distributed.all_reduce(total)
    return total.clamp(min=1.0) / torch.distributed.get_world_size()


class Criterion(nn.Module):
    """The losses of a network on labelled images. Subclasses define `losses`.

    Attributes:
        network: of the zoo.
        normaliser: what sums of losses are divided by, of their process's count of examples. By default the count.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.normaliser: Normaliser = local_normaliser

    def forward(self, images: Tensor, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Scalar losses, float32, of which the sum is to be minimised.

        Args:
            images: (B, bands, H, W) float32, as the network gets them; H and W are multiples of 32.
            targets: of each image, on any device. Boxes without area or with a coordinate that is no number are left
                out. They may lie outside the image.

        Raises:
            LabelError: there are not as many targets as images, or a label is not one of the network's classes.
        """
        if len(targets) != len(images):
            raise LabelError(f"{len(targets)} targets for {len(images)} images; give one for each")
        return self.losses(images, [cleaned(one, images.device, classes=self.classes) for one in targets])

    @property
    def classes(self) -> int:
        """Number of classes of the network."""
        return int(self.network.classes)

    def losses(self, images: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        """As `forward`, of targets on the device of the images, without degenerate boxes."""
        raise NotImplementedError

    def examples(self, images: Tensor, targets: Sequence[Targets]) -> list[tuple[Tensor, Tensor]]:
        """To be looked at: of each image the boxes (P, 4) that are positive examples, and their labels (P,).

        Prior boxes, or cells of a map, in pixels of the images; nothing where a criterion has neither.
        """
        return [(images.new_zeros((0, 4)), images.new_zeros(0, dtype=torch.int64)) for _ in targets]


def cleaned(targets: Targets, device: torch.device, *, classes: int) -> Targets:
    """Targets on a device without degenerate boxes, in float32; objects of label -1 are ignored.

    Raises:
        LabelError: a label is neither -1 nor one of the classes, or the arrays have different lengths.
    """
    boxes = targets.boxes.to(device, torch.float32).reshape(-1, 4)
    labels, ignored = targets.labels.to(device, torch.int64), targets.ignored.to(device, torch.bool)
    if not len(boxes) == len(labels) == len(ignored):
        raise LabelError(f"targets have {len(boxes)} boxes, {len(labels)} labels and {len(ignored)} flags")
    wrong = labels[(labels < -1) | (labels >= classes)]
    if len(wrong):
        raise LabelError(f"label {int(wrong[0])} is neither -1 nor one of the network's classes, 0 to {classes - 1}")

    sound = torch.isfinite(boxes).all(dim=1)
    boxes = boxes.clamp(-_FARTHEST, _FARTHEST)
    sound &= (boxes[:, 2:] - boxes[:, :2] > MIN_SIDE).all(dim=1)
    limits = None if targets.valid_range is None else targets.valid_range.to(device, torch.float32)
    return Targets(boxes[sound], labels[sound], (ignored | (labels < 0))[sound], limits)
