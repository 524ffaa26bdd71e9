"""FCOS (Tian et al. 2019, *Fully Convolutional One-Stage Object Detection*): boxes from points, without prior boxes.

With quality "varifocal" the class score itself says how well the box fits, as in VarifocalNet (Zhang et al. 2021) but
without its deformable convolution and second box.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from geosod.detectors.zoo.anchors import Size, centres, check_places
from geosod.detectors.zoo.dense import (
    PRIOR_LOGIT,
    PyramidNetwork,
    Tower,
    above,
    at_places,
    best_places,
    head_convolution,
    places,
)
from geosod.errors import ConfigError

QUALITIES = ("centre-ness", "varifocal")
#: Logarithm of the largest distance from a point to a side of its box, in strides.
_MAX_LOG_DISTANCE = 6.0


class FCOS(PyramidNetwork):
    """From the middle of every cell of the pyramid the distances to the four sides of the object it lies in.

    Args:
        tower: convolutions before the last one, of each of the two branches.
        head_norm: "none", or "group" for group normalisation in the branches, as published.
        quality: "centre-ness", a prediction of how central the point is, which is multiplied with the class score; or
            "varifocal", where scores are trained to be the IoU of the box.
        trunk: what `PyramidNetwork` takes.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(self, *, tower: int = 4, head_norm: str = "group", quality: str = "centre-ness", **trunk: Any) -> None:
        super().__init__(**trunk)
        if quality not in QUALITIES:
            raise ConfigError(f"FCOS: quality={quality!r} is none of {', '.join(QUALITIES)}")
        self.quality = quality
        self.class_tower = Tower(self.channels, tower, norm=head_norm)
        self.box_tower = Tower(self.channels, tower, norm=head_norm)
        self.class_out = head_convolution(self.channels, self.classes, bias=PRIOR_LOGIT)
        self.box_out = head_convolution(self.channels, 4 + self.has_centreness)
        #: Scale of the logarithms of distances of each level, which share a head.
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in self.strides)

    @property
    def has_centreness(self) -> bool:
        """Whether the raw output ends with a logit of centre-ness."""
        return self.quality == "centre-ness"

    def forward(self, images: Tensor) -> Tensor:
        """(B, N, classes + 4) of images (B, bands, H, W): logits, logarithms of distances to the sides in strides.

        With centre-ness, its logit comes last.
        """
        found = []
        for level, scale in zip(self.levels(images), self.scales, strict=True):
            shapes = places(self.box_out(self.box_tower(level)), 4 + self.has_centreness)
            classes = places(self.class_out(self.class_tower(level)), self.classes)
            found.append(torch.cat([classes, shapes[..., :4] * scale, shapes[..., 4:]], dim=2))
        return torch.cat(found, dim=1)

    def parts(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits (B, N, classes), logarithms of distances (B, N, 4), and logits of centre-ness (B, N) or None."""
        logits, shapes = raw[..., : self.classes], raw[..., self.classes : self.classes + 4]
        return logits, shapes, raw[..., -1] if self.has_centreness else None

    def decode(self, raw: Tensor, *, size: Size, threshold: float, topk: int) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes of the best points and classes, in float32.

        Args:
            raw: (B, N, ...) from the network.
            size: height and width of the images in pixels.
            threshold: minimum score; with centre-ness that is the geometric mean of class and centre-ness.
            topk: maximum number of boxes of one image; the best ones are kept.

        Returns:
            Boxes (B, K, 4) float32 ``x0, y0, x1, y1`` in pixels of the image, not clipped to it; scores (B, K) float32,
            descending, -inf for rows that are no boxes; and labels (B, K) int64.

        Raises:
            ModelError: N is not the number of points of such images.
        """
        points, strides = centres(size, self.strides, raw.device)
        check_places(raw, len(points), size)
        logits, shapes, centreness = self.parts(raw)
        # In float64: see `dense.probabilities`.
        scores = logits.double().sigmoid()
        if centreness is not None:
            scores = (scores * centreness.double().sigmoid()[..., None]).sqrt()
        best, place, labels = best_places(scores.float(), topk)
        boxes = boxes_at(points[place], strides[place], at_places(shapes, place).float())
        return boxes, above(best, threshold), labels

    def decode_fixed(self, raw: Tensor, *, size: Size, threshold: float, topk: int) -> tuple[Tensor, Tensor, Tensor]:
        """As `decode`, whose operations an ONNX graph can hold."""
        return self.decode(raw, size=size, threshold=threshold, topk=topk)


def boxes_at(points: Tensor, strides: Tensor, shapes: Tensor) -> Tensor:
    """Boxes (..., 4) about points (..., 2), from logarithms of the distances left, up, right and down, in strides."""
    distances = shapes.clamp(max=_MAX_LOG_DISTANCE).exp() * strides[..., None]
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)
