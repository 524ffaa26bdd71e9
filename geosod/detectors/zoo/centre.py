"""A centre heat map on the finest level of a pyramid, for boxes and points (Zhou et al. 2019, *Objects as Points*)."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from geosod.detectors.zoo import VIEWS
from geosod.detectors.zoo.anchors import Size
from geosod.detectors.zoo.dense import PRIOR_LOGIT, PyramidNetwork
from geosod.detectors.zoo.fpn import decode, decode_fixed
from geosod.detectors.zoo.layers import ConvNorm, double, exact_convolution
from geosod.detectors.zoo.norms import set_norm
from geosod.detectors.zoo.peaks import decode_fixed_peaks, peaks
from geosod.detectors.zoo.views import mean_of_views
from geosod.errors import ConfigError


class Centre(PyramidNetwork):
    """For every cell how likely an object's centre lies in it; and where exactly, and how large its box is.

    Args:
        stride: of the heat map, in pixels of the input: that of P2, or a half or a quarter of it. Maps finer than P2
            are P2 repeated, and features of the image itself added.
        head: convolutions before the last one.
        side: side in pixels of every box, for objects that are labelled by points or all of one size; None for boxes
            that are predicted.
        window: with `side`: side in cells, odd, of the square in which a peak is the highest.
        refine: with `side`: distance in cells of the neighbours used to place a peak between cells; 0 for its middle.
        views: with `side`: of an image, whose heat maps are averaged, see `mean_of_views`; one in training.
        trunk: what `PyramidNetwork` takes.

    Raises:
        ConfigError: an argument is out of range.
    """

    candidates_per_box = 2
    only_finest = True

    def __init__(
        self,
        *,
        stride: int = 4,
        head: int = 2,
        side: float | None = None,
        window: int = 3,
        refine: int = 1,
        views: int = 1,
        **trunk: Any,
    ) -> None:
        super().__init__(**trunk)
        finest = self.strides[0]
        strides = [finest // k for k in (1, 2, 4) if finest >= k]
        if stride not in strides or head < 0:
            raise ConfigError(
                f"Centre: stride={stride} must be one of {', '.join(map(str, strides))}, since P2 has stride {finest}, "
                f"and head={head} at least 0"
            )
        if (side is not None and not side > 0) or window < 3 or window % 2 == 0 or refine < 0:
            raise ConfigError(
                f"Centre: side={side} must be above 0 or left out, window={window} odd and at least 3, and "
                f"refine={refine} at least 0"
            )
        if views not in VIEWS or (views > 1 and side is None):
            raise ConfigError(
                f"Centre: views={views} must be one of {', '.join(map(str, VIEWS))}, and 1 without a side: offsets and "
                "sides of boxes would have to be turned as well"
            )
        self.stride, self.side, self.window, self.refine, self.views = stride, side, window, refine, views
        #: Compute the last convolution as products and sums, see `exported`.
        self.sums = False
        width = self.channels
        self.finer = nn.ModuleList(ConvNorm(width, width) for _ in range((finest // stride).bit_length() - 1))
        self.detail = nn.ModuleList(
            ConvNorm(self.bands, width, kernel=3 if stride == 1 else stride + 2, stride=stride)
            for _ in range(bool(len(self.finer)))
        )
        self.head = nn.Sequential(*(ConvNorm(width, width) for _ in range(head)))
        for part in (self.finer, self.detail, self.head):
            # These have no weights to start from, whose statistics could stay as they are.
            set_norm(part, "batch" if trunk.get("norm", "batch") == "batch" else "group")
        self.out = nn.Conv2d(width, self.classes + (0 if self.has_side else 4), 1)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.out.bias[: self.classes], PRIOR_LOGIT)  # type: ignore[index]

    @property
    def has_side(self) -> bool:
        """Whether every box has the same side."""
        return self.side is not None

    def forward(self, images: Tensor) -> Tensor:
        """Raw maps (B, classes + 4, H / stride, W / stride) float32 of images (B, bands, H, W).

        Logits of the heat map, then as in `SmallFPN` the centre's offset and the logarithms of the box's sides, in
        cells; with `side` the logits alone.
        """
        return mean_of_views(self._maps, images, 1 if self.training else self.views)

    def _maps(self, images: Tensor) -> Tensor:
        (top,) = self.levels(images)
        for block in self.finer:
            top = block(double(top))
        for block in self.detail:
            top = top + block(images)
        # In bfloat16 whole neighbourhoods of a peak would have one height.
        return exact_convolution(self.out, self.head(top), sums=self.sums)

    def exported(self, precision: str) -> Self:
        """The module to make a graph of, for a runtime that computes it in a precision.

        In bf16 and fp16 the last convolution is written as sums, since OpenVINO rounds what convolutions return.
        """
        copy = self.fused()
        copy.sums = precision in ("bf16", "fp16")
        return copy

    def decode(
        self,
        raw: Tensor,
        *,
        size: Size,  # noqa: ARG002
        threshold: float,
        topk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes at the peaks of the heat map.

        Args:
            raw: (B, classes + 4, h, w) from the network, or (B, classes, h, w) with `side`.
            size: height and width of the images in pixels.
            threshold: minimum score.
            topk: maximum number of boxes of one image; the best ones are kept.

        Returns:
            Boxes (B, K, 4) float32 ``x0, y0, x1, y1`` in pixels of the image, not clipped to it; scores (B, K) float32,
            descending, -inf for rows that are no boxes; and labels (B, K) int64.
        """
        if not self.has_side:
            return decode(raw, threshold=threshold, topk=topk, stride=self.stride)
        return self._about(peaks(raw, threshold=threshold, topk=topk, window=self.window, refine=self.refine))

    def decode_fixed(
        self,
        raw: Tensor,
        *,
        size: Size,  # noqa: ARG002
        threshold: float,
        topk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `decode`, whose operations an ONNX graph can hold."""
        if not self.has_side:
            return decode_fixed(raw, threshold=threshold, topk=topk, stride=self.stride)
        return self._about(
            decode_fixed_peaks(raw, threshold=threshold, topk=topk, window=self.window, refine=self.refine)
        )

    def _about(self, found: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        centres, scores, labels = found
        half = float(self.side or 0) / 2
        centres = centres * self.stride
        return torch.cat([centres - half, centres + half], dim=-1), scores, labels
