"""The loss of a classifier of crops, which are cut from slices as staged detection cuts them from tiles."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from geosod.detectors.card import ModelCard
from geosod.detectors.staged import Crops
from geosod.errors import ConfigError
from geosod.training.assign import some_of
from geosod.training.criterion import Criterion
from geosod.training.overlaps import covered_matrix
from geosod.training.targets import Targets

#: Last class of a classifier that is trained here: what is no object. It is not reported.
BACKGROUND = "background"
#: Share of a box of the background that may lie in an object.
_MAX_COVERED = 0.2
_TRIES = 4


class CropCriterion(Criterion):
    """Cross entropy of crops around objects, shifted and resized as a detector's boxes are, and of background.

    For each object a box of its size somewhere else, which overlaps no object, is an example of the background, so that
    the classifier turns down what a detector found there. Everything random depends on torch's generator.

    Args:
        network: a classifier, whose last class is the background.
        card: of the classifier: size and context of its crops, and its bands.
        shift: standard deviation of the shift of a box, a share of its sides, and of the logarithm of its size.
        smoothing: of the labels.
        background: boxes of the background for each object.
        crops: at most so many of a batch, drawn among them: a slice may show a thousand objects.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        network: Any,
        *,
        card: ModelCard,
        shift: float = 0.1,
        smoothing: float = 0.05,
        background: float = 1.0,
        crops: int = 256,
    ) -> None:
        super().__init__(network)
        if not (0 <= shift <= 1 and 0 <= smoothing < 1 and background >= 0 and crops >= 2):
            raise ConfigError(
                f"crops: shift={shift} must be from 0 to 1, smoothing={smoothing} from 0 to below 1, "
                f"background={background} not negative, and crops={crops} at least 2"
            )
        self._crops = Crops(card, card.bands)
        self._shift, self._smoothing, self._background, self._most = shift, smoothing, background, crops

    def losses(self, images: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        """Scalar ``class``."""
        boxes, labels, tile = self._chosen(images, targets)
        divisor = self.normaliser(images.new_tensor(float(len(boxes))))
        if not len(boxes):
            # All of the network takes part, so that workers without objects wait for nobody.
            nothing = torch.stack([p.sum() for p in self.network.parameters() if p.requires_grad]).sum() * 0.0
            return {"class": nothing}
        if len(boxes) == 1:
            # A single crop has no statistics.
            boxes, labels, tile = (part.repeat_interleave(2, dim=0) for part in (boxes, labels, tile))
            divisor = divisor * 2
        crops = self._crops.cut(images, self._crops.regions(boxes, tile))
        logits = self.network(self._crops.ready(crops)).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self._smoothing, reduction="sum")
        return {"class": loss / divisor}

    def _chosen(self, images: Tensor, targets: list[Targets]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (M, 4), their classes, and the index of their image."""
        found: list[tuple[Tensor, Tensor]] = []
        for target in targets:
            kept = some_of(torch.nonzero(~target.ignored).flatten(), self._most)
            boxes, labels = target.boxes[kept], target.labels[kept]
            empty = self._elsewhere(boxes, target.boxes, images.shape[3], images.shape[2])
            found.append(
                (
                    torch.cat([self._jittered(boxes), empty]),
                    torch.cat([labels, labels.new_full((len(empty),), int(self.network.classes) - 1)]),
                )
            )
        counts = torch.tensor([len(boxes) for boxes, _ in found], device=images.device)
        tile = torch.repeat_interleave(torch.arange(len(found), device=images.device), counts)
        chosen = torch.cat([boxes for boxes, _ in found]), torch.cat([labels for _, labels in found]), tile
        some = some_of(torch.arange(len(tile), device=images.device), self._most)
        boxes, labels, tile = (part[some] for part in chosen)
        return boxes, labels, tile

    def _jittered(self, boxes: Tensor) -> Tensor:
        size = boxes[:, 2:] - boxes[:, :2]
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + size * self._shift * torch.randn_like(size)
        half = size * torch.exp(self._shift * torch.randn_like(size)) / 2
        return torch.cat([centre - half, centre + half], dim=1)

    def _elsewhere(self, boxes: Tensor, taken: Tensor, width: int, height: int) -> Tensor:
        """Boxes of the objects' sizes, at most a little of each in an object or ignored region; fewer where those
        leave hardly room.
        """
        wanted = round(len(boxes) * self._background)
        if not wanted:
            return boxes[:0]
        rows = torch.randint(len(boxes), (wanted * _TRIES,), device=boxes.device)
        size = (boxes[:, 2:] - boxes[:, :2])[rows]
        room = boxes.new_tensor([width, height])
        corner = torch.rand_like(size) * (room - size).clamp(min=0)
        tried = torch.cat([corner, corner + size], dim=1)
        # Not by IoU, which is small for a small box inside a large object.
        free = covered_matrix(tried, taken).amax(dim=1) <= _MAX_COVERED
        return tried[free][:wanted]
