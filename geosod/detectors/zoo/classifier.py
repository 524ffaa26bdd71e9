"""A classifier of crops: the second stage of staged detection."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from geosod.detectors.zoo.backbones import Backbone
from geosod.detectors.zoo.dense import check_classes
from geosod.detectors.zoo.norms import folded


class CropClassifier(nn.Module):
    """The mean of a backbone's last map, and a linear layer.

    Args:
        bands: channels of the input.
        classes: number of classes.
        backbone, stem_stride, norm, width: see `Backbone`.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        bands: int,
        classes: int,
        backbone: str = "efficientnet-lite0",
        stem_stride: int = 2,
        norm: str = "batch",
        width: int = 24,
    ) -> None:
        super().__init__()
        check_classes(classes)
        self.bands, self.classes = bands, classes
        self.backbone = Backbone(backbone, bands=bands, stem_stride=stem_stride, norm=norm, width=width)
        self.out = nn.Linear(self.backbone.channels[-1], classes)

    def forward(self, crops: Tensor) -> Tensor:
        """Logits (B, classes) of crops (B, bands, H, W) scaled to about 0 ... 1; H and W are multiples of 32."""
        logits: Tensor = self.out(self.backbone(crops)[-1].mean(dim=(2, 3)))
        return logits

    def fused(self) -> Self:
        """A copy for inference, in eval mode, with batch normalisation folded into convolutions."""
        return folded(self)
