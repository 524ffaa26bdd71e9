"""RetinaNet (Lin et al. 2017, *Focal Loss for Dense Object Detection*) on levels P2 to P6, for small objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geosod.detectors.zoo.anchors import Anchors, Size, check_places, decoded, regular_shapes
from geosod.detectors.zoo.dense import (
    PRIOR_LOGIT,
    PyramidNetwork,
    Tower,
    above,
    at_places,
    best_places,
    head_convolution,
    places,
    probabilities,
)
from geosod.errors import ConfigError


class RetinaNet(PyramidNetwork):
    """Prior boxes at every cell of the pyramid; one head for all levels says what is in them and where exactly.

    Args:
        tower: convolutions before the last one, of each of the two branches.
        head_norm: "none", or "group" for group normalisation in the branches.
        sizes: sides of the prior boxes of P2 to P6 in pixels of the input; None for twice the strides, which is 8, 16,
            32, 64, 128 (Gong et al. 2021).
        ratios: heights relative to widths, for all levels, or a list for each.
        scales: factors of every size, as 1, 2^⅓, 2^⅔ for three boxes of each ratio.
        trunk: what `PyramidNetwork` takes.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        tower: int = 4,
        head_norm: str = "none",
        sizes: Sequence[float] | None = None,
        ratios: Sequence[float] | Sequence[Sequence[float]] = (0.5, 1.0, 2.0),
        scales: Sequence[float] = (1.0,),
        **trunk: Any,
    ) -> None:
        super().__init__(**trunk)
        sides = [2.0 * stride for stride in self.strides] if sizes is None else list(sizes)
        self.anchors = Anchors(self.strides, regular_shapes(sides, ratios, scales))
        each = self.anchors.counts[0]
        if set(self.anchors.counts) != {each}:
            raise ConfigError(f"RetinaNet: ratios={ratios} must have one length for all levels, which share a head")
        self.class_tower = Tower(self.channels, tower, norm=head_norm)
        self.box_tower = Tower(self.channels, tower, norm=head_norm)
        self.class_out = head_convolution(self.channels, each * self.classes, bias=PRIOR_LOGIT)
        self.box_out = head_convolution(self.channels, each * 4)

    def forward(self, images: Tensor) -> Tensor:
        """(B, N, classes + 4) of images (B, bands, H, W): logits of the classes and offsets of the N prior boxes."""
        found = [
            torch.cat(
                [
                    places(self.class_out(self.class_tower(level)), self.classes),
                    places(self.box_out(self.box_tower(level)), 4),
                ],
                dim=2,
            )
            for level in self.levels(images)
        ]
        return torch.cat(found, dim=1)

    def decode(self, raw: Tensor, *, size: Size, threshold: float, topk: int) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels, see `decode_anchors`."""
        return decode_anchors(raw, self.anchors, size=size, threshold=threshold, topk=topk)

    def decode_fixed(self, raw: Tensor, *, size: Size, threshold: float, topk: int) -> tuple[Tensor, Tensor, Tensor]:
        """As `decode`, whose operations an ONNX graph can hold."""
        return self.decode(raw, size=size, threshold=threshold, topk=topk)


def decode_anchors(
    raw: Tensor, anchors: Anchors, *, size: Size, threshold: float, topk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of the best prior boxes and classes, in float32.

    Args:
        raw: (B, N, classes + 4), logits and offsets.
        anchors: of the N places.
        size: height and width of the images in pixels.
        threshold: minimum score, which is the sigmoid of the logit.
        topk: maximum number of boxes of one image; the best ones are kept.

    Returns:
        Boxes (B, K, 4) float32 ``x0, y0, x1, y1`` in pixels of the image, not clipped to it; scores (B, K) float32,
        descending, -inf for rows that are no boxes; and labels (B, K) int64.

    Raises:
        ModelError: N is not the number of prior boxes of such images.
    """
    priors = anchors.boxes(size, raw.device)
    check_places(raw, len(priors), size)
    logits, place, labels = best_places(raw[..., :-4].float(), topk)
    boxes = decoded(at_places(raw[..., -4:], place).float(), priors[place])
    return boxes, above(probabilities(logits), threshold), labels
