"""Criteria that call the training forward of a library: torchvision's detection networks, and those of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from geosod.errors import ConfigError, TrainingError, one_line
from geosod.training.criterion import Criterion
from geosod.training.targets import Targets

MASK, DROP = "mask", "drop"
#: Boxes of which less than this side in pixels lies in the image are left out: both libraries refuse those without.
_MIN_SIDE = 0.5
#: What torch says where a network chooses more places than its maps have.
_TOO_FEW = "selected index k out of range"
#: Stages of torchvision's ResNets, the last one first.
_STAGES = ("layer4", "layer3", "layer2", "layer1", "conv1")


class LibraryCriterion(Criterion):
    """The losses that a library computes of its own network, as it weights them.

    Libraries know no ignored objects. By default their pixels are replaced by the mean of the others, but for those
    that a counted object covers, so that they are an example of nothing. SNIP's ranges of proposals do not reach the
    library. Sums of losses are divided by the library, so that several workers average their own means.

    Args:
        network: a module of the library.
        labels: for each class, the library's number of it.
        frozen_norms: whether batch normalisation of the backbone keeps its statistics and weights.
        ignored: "mask", or "drop" to leave them in the image as background.

    Raises:
        ConfigError: an argument is none of its values.
    """

    def __init__(self, network: Any, *, labels: Sequence[int], frozen_norms: bool = False, ignored: str = MASK) -> None:
        super().__init__(network)
        if ignored not in (MASK, DROP):
            raise ConfigError(f"loss: ignored={ignored!r} is neither {MASK!r} nor {DROP!r}")
        self._ignored = ignored
        self.register_buffer("numbers", torch.tensor(list(labels), dtype=torch.int64), persistent=False)
        self._norms = list(_norms(network)) if frozen_norms else []
        for norm in self._norms:
            norm.requires_grad_(False)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.get_buffer("numbers"))

    def train(self, mode: bool = True) -> LibraryCriterion:
        """Set the mode of all modules but frozen normalisation."""
        super().train(mode)
        for norm in self._norms:
            norm.eval()
        return self

    def losses(self, images: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        """See `Criterion.losses`.

        Raises:
            TrainingError: the library refuses the batch, or what the network makes of it.
        """
        counted = [_counted(one, images.shape) for one in targets]
        if self._ignored == MASK and any(one.ignored.any() for one in targets):
            images = without_ignored(images, targets)
        numbers = self.get_buffer("numbers")
        try:
            return self.library_losses(images, [(boxes, numbers[labels]) for boxes, labels in counted])
        except (ValueError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and _TOO_FEW not in str(error):
                raise
            height, width = images.shape[2:]
            raise TrainingError(
                f"{type(self.network).__name__} refuses a batch of {len(images)} images of {width} x {height} px: "
                f"{one_line(error)[:300]}; if values are not finite use a lower --lr, if they are too few for batch "
                "normalisation a larger --batch, and if they are fewer than the network's queries a larger --tile"
            ) from error

    def library_losses(self, images: Tensor, objects: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """The losses of images, and of each boxes (N, 4) float32, clipped to it, and numbers (N,) of their classes."""
        raise NotImplementedError


class TorchvisionCriterion(LibraryCriterion):
    """The loss dict of torchvision's RetinaNet, FCOS, Faster R-CNN or SSD; its resizing is left out unless it is fixed.

    Args:
        trainable_layers: of a ResNet, stages that are trained, counted from the last one, 0 to 5; None for all.
        of_all: see `LibraryCriterion`.

    Raises:
        ConfigError: an argument is none of its values, or the backbone has no such stages.
    """

    def __init__(self, network: Any, *, trainable_layers: int | None = None, **of_all: Any) -> None:
        super().__init__(network, **of_all)
        # In training only; in detection the adapter does what the card says.
        network.transform._skip_resize = network.transform.fixed_size is None
        if trainable_layers is not None:
            _freeze(network, trainable_layers)

    def library_losses(self, images: Tensor, objects: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """See `LibraryCriterion`."""
        found: dict[str, Tensor] = self.network(
            list(images), [{"boxes": boxes, "labels": labels} for boxes, labels in objects]
        )
        return found


class TransformersCriterion(LibraryCriterion):
    """The loss of a network of transformers, float32, in which alone boxes as fractions of an image are exact."""

    def library_losses(self, images: Tensor, objects: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """See `LibraryCriterion`."""
        height, width = images.shape[2:]
        size = images.new_tensor([width, height])
        labels = [
            {
                "class_labels": numbers,
                "boxes": torch.cat([(b[:, :2] + b[:, 2:]) / 2 / size, (b[:, 2:] - b[:, :2]) / size], dim=1),
            }
            for b, numbers in objects
        ]
        with torch.autocast(images.device.type, enabled=False):
            found = self.network(pixel_values=images.float().contiguous(), labels=labels)
        return {"detection": found.loss}


def without_ignored(images: Tensor, targets: Sequence[Targets]) -> Tensor:
    """Images (B, C, H, W) in which pixels of ignored objects have the mean of the others, but those of counted ones."""
    images = images.clone()
    height, width = images.shape[2:]
    for image, one in zip(images, targets, strict=True):
        hidden = torch.zeros((height, width), dtype=torch.bool, device=images.device)
        for kind, value in ((one.ignored, True), (~one.ignored, False)):
            low, high = one.boxes[kind, :2].floor().clamp(min=0), one.boxes[kind, 2:].ceil().clamp(min=0)
            for x0, y0, x1, y1 in torch.cat([low, high], dim=1).long().tolist():
                hidden[y0:y1, x0:x1] = value
        shown = image[:, ~hidden] if not hidden.all() else image.flatten(1)
        image[:, hidden] = shown.mean(dim=1)[:, None]
    return images


def _counted(one: Targets, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Boxes and labels of the objects that count, clipped to an image."""
    limits = one.boxes.new_tensor([shape[3], shape[2]] * 2)
    boxes = torch.minimum(one.boxes.clamp(min=0), limits)
    kept = ~one.ignored & (boxes[:, 2:] - boxes[:, :2] > _MIN_SIDE).all(dim=1)
    return boxes[kept], one.labels[kept]


def _norms(network: Any) -> Iterator[nn.Module]:
    backbone = getattr(network, "backbone", None)
    for module in () if backbone is None else backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            yield module


def _freeze(network: Any, count: int) -> None:
    body = getattr(network.backbone, "body", None)
    if not all(hasattr(body, name) for name in _STAGES) or not 0 <= count <= len(_STAGES):
        raise ConfigError(
            f"loss: trainable_layers={count} is for networks with a ResNet, and 0 to {len(_STAGES)} of its stages"
        )
    assert body is not None
    for name in (*_STAGES[count:], *(("bn1",) if count < len(_STAGES) else ())):
        getattr(body, name).requires_grad_(False)
