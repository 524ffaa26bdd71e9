"""Heads straight on a backbone's maps (Liu et al. 2016, *SSD*): a small model that keeps minute features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geosod.detectors.zoo.anchors import Anchors, Size, regular_shapes
from geosod.detectors.zoo.backbones import Backbone
from geosod.detectors.zoo.dense import PRIOR_LOGIT, ZooNetwork, check_classes, head_convolution, places
from geosod.detectors.zoo.retinanet import decode_anchors
from geosod.errors import ConfigError


class SSD(ZooNetwork):
    """One convolution for each of a backbone's maps says what is in the prior boxes of its cells, and where exactly.

    Args:
        bands: channels of the input.
        classes: number of classes.
        backbone, stem_stride, norm, width: see `Backbone`.
        maps: how many of the backbone's four maps are used, the finest first.
        sizes: sides of the prior boxes of each map in pixels of the input; None for twice the strides.
        ratios: heights relative to widths, for all maps, or a list for each.
        scales: factors of every size.
        shapes: widths and heights of the prior boxes of each map, as `geosod stats` suggests them, in place of sizes,
            ratios and scales; maps may have different numbers of them.

    Raises:
        ConfigError: an argument is out of range.
    """

    candidates_per_box = 10

    def __init__(
        self,
        *,
        bands: int,
        classes: int,
        backbone: str = "efficientnet-lite0",
        stem_stride: int = 2,
        norm: str = "batch",
        width: int = 24,
        maps: int = 4,
        sizes: Sequence[float] | None = None,
        ratios: Sequence[float] | Sequence[Sequence[float]] = (0.5, 1.0, 2.0),
        scales: Sequence[float] = (1.0, 1.41),
        shapes: Sequence[Sequence[Sequence[float]]] | None = None,
    ) -> None:
        super().__init__()
        check_classes(classes)
        if not 1 <= maps <= 4:
            raise ConfigError(f"SSD: maps={maps} is not in 1..4")
        self.bands, self.classes = bands, classes
        self.backbone = Backbone(backbone, bands=bands, stem_stride=stem_stride, norm=norm, width=width)
        self.strides = self.backbone.strides[:maps]
        self.anchors = Anchors(self.strides, self._shapes(sizes, ratios, scales, shapes))
        outputs = list(zip(self.backbone.channels, self.anchors.counts, strict=False))
        self.class_out = nn.ModuleList(head_convolution(n, k * classes, bias=PRIOR_LOGIT) for n, k in outputs)
        self.box_out = nn.ModuleList(head_convolution(n, k * 4) for n, k in outputs)

    def _shapes(
        self,
        sizes: Sequence[float] | None,
        ratios: Sequence[float] | Sequence[Sequence[float]],
        scales: Sequence[float],
        shapes: Sequence[Sequence[Sequence[float]]] | None,
    ) -> list[list[tuple[float, float]]]:
        if shapes is not None:
            if not all(len(shape) == 2 for level in shapes for shape in level):
                raise ConfigError(f"SSD: shapes={shapes} must be a list of [width, height] for each map")
            return [[(float(width), float(height)) for width, height in level] for level in shapes]
        sides = [2.0 * stride for stride in self.strides] if sizes is None else list(sizes)
        return regular_shapes(sides, ratios, scales)

    def forward(self, images: Tensor) -> Tensor:
        """(B, N, classes + 4) of images (B, bands, H, W): logits of the classes and offsets of the N prior boxes."""
        found = [
            torch.cat([places(classes(level), self.classes), places(boxes(level), 4)], dim=2)
            for level, classes, boxes in zip(self.backbone(images), self.class_out, self.box_out, strict=False)
        ]
        return torch.cat(found, dim=1)

    def decode(self, raw: Tensor, *, size: Size, threshold: float, topk: int) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels, see `geosod.detectors.zoo.retinanet.decode_anchors`."""
        return decode_anchors(raw, self.anchors, size=size, threshold=threshold, topk=topk)

    def decode_fixed(self, raw: Tensor, *, size: Size, threshold: float, topk: int) -> tuple[Tensor, Tensor, Tensor]:
        """As `decode`, whose operations an ONNX graph can hold."""
        return self.decode(raw, size=size, threshold=threshold, topk=topk)
