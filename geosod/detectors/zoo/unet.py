"""A U-shaped network that finds the centres of objects of one size, to a fraction of a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geosod.detectors.zoo import VIEWS
from geosod.detectors.zoo.layers import ConvNorm, exact_convolution
from geosod.detectors.zoo.norms import folded
from geosod.detectors.zoo.peaks import decode_fixed_peaks, peaks
from geosod.detectors.zoo.views import mean_of_views
from geosod.errors import ConfigError

#: Minimum sum of the two bands of the NDVI: one step of 8 bits, so that black pixels have index 0.
_MIN_SUM = 1 / 255


class _Up(nn.Module):
    """Narrows a deep map, doubles it, and joins it with the map of the way down (Ronneberger et al. 2015)."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(inner, outer, 1)
        self.join = nn.Sequential(ConvNorm(2 * outer, outer), ConvNorm(outer, outer))

    def forward(self, deep: Tensor, beside: Tensor) -> Tensor:
        doubled = F.interpolate(self.narrow(deep), scale_factor=2.0, mode="nearest")
        joined: Tensor = self.join(torch.cat([doubled, beside], dim=1))
        return joined


class CentreUNet(nn.Module):
    """U-Net (Ronneberger et al. 2015) whose output is a centre heat map at full resolution (Zhou et al. 2019).

    For objects that are labelled by points, or all of about one size: a box of a fixed side stands about every peak
    of the heat map. No part of it pools over the whole tile. An output pixel depends on the pixels within `reach` of
    it and, as pixels are pooled by 8 x 8, on where it lies in its block: results are the same in tiles that are
    offset by multiples of 8 px.

    Args:
        bands: channels of the input.
        classes: number of classes.
        width: channels at stride 1; twice as many at 2, four times at 4, eight times at 8.
        deep: convolutions at stride 8, at least 1.
        ndvi: positions of the red and the near-infrared band among the input bands. The network then gets their
            normalised difference as one more channel, -1 ... 1. None adds nothing.
        side: side of every box in pixels.
        window: side in pixels, odd, of the square in which a peak is the highest.
        refine: distance in pixels of the neighbours used to place a peak between pixels; 0 leaves it on its pixel.
        views: of an image, whose heat maps are averaged, see `mean_of_views`; one in training.

    Raises:
        ConfigError: an argument is out of range.
    """

    stride = 1
    candidates_per_box = 2

    def __init__(
        self,
        *,
        bands: int,
        classes: int,
        width: int = 16,
        deep: int = 4,
        ndvi: Sequence[int] | None = None,
        side: float = 12.0,
        window: int = 5,
        refine: int = 1,
        views: int = 1,
    ) -> None:
        super().__init__()
        self.views = views
        self.bands, self.classes, self.width, self.deep = bands, classes, width, deep
        self.ndvi = None if ndvi is None else tuple(map(int, ndvi))
        self.side, self.window, self.refine = float(side), window, refine
        #: Compute the last convolution as products and sums, see `exported`.
        self.sums = False
        self._check()
        inner = bands + (self.ndvi is not None)
        w1, w2, w4, w8 = (width * k for k in (1, 2, 4, 8))
        self.down1 = nn.Sequential(ConvNorm(inner, w1), ConvNorm(w1, w1))
        self.down2 = nn.Sequential(ConvNorm(w1, w2), ConvNorm(w2, w2))
        self.down4 = nn.Sequential(ConvNorm(w2, w4), ConvNorm(w4, w4))
        self.bottom = nn.Sequential(ConvNorm(w4, w8), *(ConvNorm(w8, w8, residual=True) for _ in range(deep - 1)))
        self.up4, self.up2, self.up1 = _Up(w8, w4), _Up(w4, w2), _Up(w2, w1)
        self.out = nn.Conv2d(w1, classes, 1)
        nn.init.normal_(self.out.weight, std=0.01)
        # A prior of 1 % keeps the first steps from being swamped by empty pixels (Lin et al. 2017, focal loss).
        nn.init.constant_(self.out.bias, -4.6)  # type: ignore[arg-type]

    def _check(self) -> None:
        bands, classes, deep, width = self.bands, self.classes, self.deep, self.width
        side, window, refine, ndvi = self.side, self.window, self.refine, self.ndvi
        if min(bands, classes, deep) < 1 or width < 4:
            raise ConfigError(
                f"CentreUNet: bands={bands}, classes={classes} and deep={deep} must be at least 1, "
                f"and width={width} at least 4"
            )
        if not side > 0 or window < 3 or window % 2 == 0 or refine < 0:
            raise ConfigError(
                f"CentreUNet: side={side} must be above 0, window={window} odd and at least 3, "
                f"and refine={refine} at least 0"
            )
        if self.views not in VIEWS:
            raise ConfigError(f"CentreUNet: views={self.views} must be one of {', '.join(map(str, VIEWS))}")
        if ndvi is not None and (len(ndvi) != 2 or not all(0 <= i < bands for i in ndvi)):
            raise ConfigError(f"CentreUNet: ndvi={ndvi} must be two positions among {bands} bands: red, nir")

    @property
    def reach(self) -> int:
        """The receptive field: pixels farther away than this do not affect an output pixel.

        The 3 x 3 convolutions of each stride reach its own number of pixels, and a block of 8 x 8 is seen as one.
        """
        return 2 * (1 + 2 + 4) * 2 + 8 * self.deep + 7

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes, H, W) float32 of the centre heat map of images (B, bands, H, W) scaled to 0 ... 1.

        H and W are multiples of 8.
        """
        return mean_of_views(self._logits, x, 1 if self.training else self.views)

    def _logits(self, x: Tensor) -> Tensor:
        c1 = self.down1(self._with_index(x))
        c2 = self.down2(F.max_pool2d(c1, 2))
        c4 = self.down4(F.max_pool2d(c2, 2))
        top = self.up4(self.bottom(F.max_pool2d(c4, 2)), c4)
        top = self.up1(self.up2(top, c2), c1)
        # In bfloat16 whole neighbourhoods of a peak would have one height.
        return exact_convolution(self.out, top, sums=self.sums)

    def _with_index(self, x: Tensor) -> Tensor:
        if self.ndvi is None:
            return x
        red, nir = (x[:, i : i + 1].float() for i in self.ndvi)
        index = (nir - red) / (nir + red).clamp(min=_MIN_SUM)
        return torch.cat([x, index.to(x.dtype)], dim=1)

    def exported(self, precision: str) -> CentreUNet:
        """The module to make a graph of, for a runtime that computes it in a precision.

        In bf16 and fp16 the last convolution is written as sums, since OpenVINO rounds what convolutions return.
        """
        copy = self.fused()
        copy.sums = precision in ("bf16", "fp16")
        return copy

    def fused(self) -> CentreUNet:
        """A copy for inference, in eval mode, with every batch normalisation folded into its convolution."""
        return folded(self)

    def decode(
        self,
        raw: Tensor,
        *,
        size: tuple[int, int],  # noqa: ARG002
        threshold: float,
        topk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes of the fixed side about the peaks of the heat map; see `peaks`.

        Args:
            raw: (B, classes, H, W) from the network.
            size: height and width of the images; the maps have it, too.
            threshold: minimum score.
            topk: maximum number of boxes of one image; the best ones are kept.

        Returns:
            Boxes (B, K, 4) float32 ``x0, y0, x1, y1`` in pixels of the tile frame, not clipped to it; scores
            (B, K) float32, descending, -inf where there are no more; and labels (B, K) int64.
        """
        centres, scores, labels = peaks(raw, threshold=threshold, topk=topk, window=self.window, refine=self.refine)
        half = self.side / 2
        return torch.cat([centres - half, centres + half], dim=-1), scores, labels

    def decode_fixed(
        self,
        raw: Tensor,
        *,
        size: tuple[int, int],  # noqa: ARG002
        threshold: float,
        topk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `decode`, with `topk` rows for every image, in operations that an ONNX graph can hold.

        Peaks of one height are in any order, also where they are too many.
        """
        window, refine = self.window, self.refine
        centres, scores, labels = decode_fixed_peaks(raw, threshold=threshold, topk=topk, window=window, refine=refine)
        half = self.side / 2
        return torch.cat([centres - half, centres + half], dim=-1), scores, labels

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments that rebuild the network."""
        names = ("bands", "classes", "width", "deep", "side", "window", "refine", "views")
        return {name: getattr(self, name) for name in names} | {"ndvi": None if self.ndvi is None else list(self.ndvi)}


def centre_loss(raw: Tensor, heat: Tensor, *, positives: Tensor) -> Tensor:
    """Penalty-reduced focal loss (Zhou et al. 2019), a scalar.

    Args:
        raw: (B, classes, H, W) logits.
        heat: (B, classes, H, W) float32 in 0 ... 1, falling off around the centres.
        positives: (B, classes, H, W) bool, the pixels that hold a centre.
    """
    logits = raw.float()
    prob = logits.sigmoid()
    hit = (1 - prob) ** 2 * F.logsigmoid(logits)
    miss = (1 - heat) ** 4 * prob**2 * F.logsigmoid(-logits)
    return -torch.where(positives, hit, miss).sum() / positives.sum().clamp(min=1)
