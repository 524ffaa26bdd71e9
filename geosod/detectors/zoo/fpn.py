"""A small anchor-free network for small objects: centre heat map and box sides on a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geosod.detectors.zoo.layers import ConvNorm, double, stage
from geosod.detectors.zoo.norms import folded
from geosod.detectors.zoo.peaks import best_of, highest_around
from geosod.errors import ConfigError

#: Sides are regressed as exponents, in cells of the output; beyond this a box would leave any tile.
_LARGEST_EXPONENT = 6.0


class SmallFPN(nn.Module):
    """Feature pyramid (Lin et al. 2017) with one centre-point head at stride 4 (Zhou et al. 2019).

    Levels of stride 4, 8, 16 and 32 are computed bottom-up and summed top-down. The head says for every cell
    of 4 x 4 px how likely the centre of an object of each class lies in it, where exactly that centre is, and
    how large the box is.

    Args:
        bands: channels of the input.
        classes: number of classes.
        width: channels at stride 4; the deeper levels have two, three and four times as many.
        fusion: factor of the upsampled map where it is added to strides 16, 8 and 4. Factors below 1 keep
            the deep levels from washing out small objects (S-alpha, Gong et al. 2021).

    Raises:
        ConfigError: an argument is out of range.
    """

    stride = 4
    candidates_per_box = 2

    def __init__(self, *, bands: int, classes: int, width: int = 24, fusion: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
        super().__init__()
        if min(bands, classes) < 1 or width < 4 or len(fusion) != 3:
            raise ConfigError(
                f"SmallFPN: bands={bands} and classes={classes} must be at least 1, width={width} at least 4, "
                f"and fusion={tuple(fusion)} three factors, for strides 16, 8 and 4"
            )
        self.bands, self.classes, self.width, self.fusion = bands, classes, width, tuple(map(float, fusion))
        half = max(4, width // 2)
        self.stem = nn.Sequential(ConvNorm(bands, half, kernel=4, stride=2), ConvNorm(half, width, stride=2))
        self.level4 = nn.Sequential(ConvNorm(width, width, residual=True))
        self.level8 = stage(width, 2 * width, blocks=1)
        self.level16 = stage(2 * width, 3 * width, blocks=2)
        self.level32 = stage(3 * width, 4 * width, blocks=2)
        self.lateral = nn.ModuleList(nn.Conv2d(k * width, width, 1) for k in (4, 3, 2))
        self.smooth = ConvNorm(width, width)
        self.head = ConvNorm(width, 2 * width)
        self.out = nn.Conv2d(2 * width, classes + 4, 1)
        nn.init.normal_(self.out.weight, std=0.01)
        # A prior of 1 % keeps the first steps from being swamped by empty cells (Lin et al. 2017, focal loss).
        bias = torch.zeros(classes + 4)
        bias[:classes] = -4.6
        self.out.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Raw maps (B, classes + 4, H / 4, W / 4) of images (B, bands, H, W) scaled to about 0 ... 1.

        H and W are multiples of 32. The first channels are logits of the centre heat map; the last four
        the centre's offset from the middle of the cell (x, y) in cells, and the logarithms of width and
        height in cells.
        """
        c4 = self.level4(self.stem(x))
        c8 = self.level8(c4)
        c16 = self.level16(c8)
        c32 = self.level32(c16)
        a16, a8, a4 = self.fusion
        top = torch.add(self.lateral[1](c16), double(self.lateral[0](c32)), alpha=a16)
        top = torch.add(self.lateral[2](c8), double(top), alpha=a8)
        raw: Tensor = self.out(self.head(self.smooth(torch.add(c4, double(top), alpha=a4))))
        return raw

    def fused(self) -> SmallFPN:
        """A copy for inference, in eval mode, with every batch normalisation folded into its convolution."""
        return folded(self)

    def exported(self, precision: str) -> SmallFPN:  # noqa: ARG002
        """The module to make a graph of, for a runtime that computes it in a precision."""
        return folded(self)

    def decode(
        self,
        raw: Tensor,
        *,
        size: tuple[int, int],  # noqa: ARG002
        threshold: float,
        topk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels of raw maps, see `decode`."""
        return decode(raw, threshold=threshold, topk=topk, stride=self.stride)

    def decode_fixed(
        self,
        raw: Tensor,
        *,
        size: tuple[int, int],  # noqa: ARG002
        threshold: float,
        topk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `decode`, in operations that an ONNX graph can hold."""
        return decode_fixed(raw, threshold=threshold, topk=topk, stride=self.stride)


def _corners(offset: Tensor, log_size: Tensor) -> Tensor:
    """Offsets (N, 2) and logarithms of sizes (N, 2), in cells → ``x0, y0, x1, y1`` about the middle of the cell."""
    half = log_size.clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT).exp() / 2
    return torch.cat([offset - half, offset + half], dim=-1)


def decode(raw: Tensor, *, threshold: float, topk: int, stride: int = SmallFPN.stride) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes at the peaks of the heat map.

    A cell is a peak where no neighbour among the eight around it has a higher score of the same class
    (Zhou et al. 2019). Runs on the device of `raw`, in float32.

    Args:
        raw: (B, classes + 4, h, w) from the network.
        threshold: minimum score.
        topk: maximum number of boxes of one image; the best ones are kept.
        stride: pixels on a side of a cell.

    Returns:
        Boxes (B, K, 4) float32 ``x0, y0, x1, y1`` in pixels of the tile frame, not clipped to it; scores
        (B, K) float32, descending, -inf where there are no more; labels (B, K) int64. K is the number of peaks of the
        image that has most, or `topk`.
    """
    heat = raw[:, :-4].float()
    scores, index = best_of(heat, highest_around(heat, 3) == heat, threshold=threshold, topk=topk)
    return _boxes(raw, index, stride), scores, index // heat[0, 0].numel()


def decode_fixed(
    raw: Tensor, *, threshold: float, topk: int, stride: int = SmallFPN.stride
) -> tuple[Tensor, Tensor, Tensor]:
    """As `decode`, with `topk` rows for every image, in operations that an ONNX graph can hold."""
    heat = raw[:, :-4].float().contiguous()
    peaks = torch.where(highest_around(heat, 3) == heat, heat, torch.full_like(heat, -torch.inf)).flatten(1)
    best, index = peaks.topk(min(topk, peaks.shape[1]), dim=1)
    scores = best.sigmoid()
    scores = torch.where((scores >= threshold) & torch.isfinite(best), scores, torch.full_like(scores, -torch.inf))
    return _boxes(raw, index, stride), scores, index // (raw.shape[2] * raw.shape[3])


def _boxes(raw: Tensor, index: Tensor, stride: int) -> Tensor:
    """Boxes (B, K, 4) at places (B, K) of the flattened heat map."""
    rows, cols = raw.shape[2:]
    cell = index % (rows * cols)
    shape = raw[:, -4:].flatten(2).gather(2, cell[:, None].expand(-1, 4, -1)).float().transpose(1, 2)
    middle = torch.stack([cell % cols, cell.div(cols, rounding_mode="floor")], dim=-1).float() + 0.5
    return (_corners(shape[..., :2], shape[..., 2:]) + middle.repeat(1, 1, 2)) * stride


def loss(raw: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
    """Penalty-reduced focal loss of the centres (Zhou et al. 2019) and GIoU plus L1 loss of the boxes.

    Args:
        raw: (B, classes + 4, h, w) from the network.
        targets: ``heat`` (B, classes, h, w) float, 1 at centres and falling off around them; ``shape``
            (B, 4, h, w) float, what the box channels should say; and ``weight`` (B, h, w) float, how much a
            cell's box counts, 0 where it has none.

    Returns:
        Scalars ``centre``, ``box`` and their weighted sum ``total``.
    """
    classes = raw.shape[1] - 4
    logits, heat = raw[:, :classes].float(), targets["heat"]
    prob = logits.sigmoid()
    positive = heat >= 1.0 - 1e-6
    hit = (1 - prob) ** 2 * F.logsigmoid(logits)
    miss = (1 - heat) ** 4 * prob**2 * F.logsigmoid(-logits)
    centre = -torch.where(positive, hit, miss).sum() / positive.sum().clamp(min=1)
    b, y, x = torch.nonzero(targets["weight"] > 0, as_tuple=True)
    weight = targets["weight"][b, y, x]
    found, wanted = raw[:, classes:].float()[b, :, y, x], targets["shape"][b, :, y, x]
    # An offset matters in proportion to the side it moves.
    size = wanted[:, 2:].exp()
    error = ((found[:, :2] - wanted[:, :2]) / size).abs().sum(1) + (found[:, 2:] - wanted[:, 2:]).abs().sum(1)
    giou = _giou(_corners(found[:, :2], found[:, 2:]), _corners(wanted[:, :2], wanted[:, 2:]))
    box = ((1 - giou + 0.3 * error) * weight).sum() / weight.sum().clamp(min=1.0)
    return {"centre": centre, "box": box, "total": centre + box}


def _giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al. 2019) of boxes (N, 4) pair by pair."""
    area_a, area_b = ((s[:, 2] - s[:, 0]) * (s[:, 3] - s[:, 1]) for s in (a, b))
    common = torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1).clamp(min=1e-6)
    inter = common.clamp(min=0).prod(1)
    union = (area_a + area_b - inter).clamp(min=1e-6)
    return inter / union - (hull - union) / hull


def describe(model: SmallFPN) -> dict[str, Any]:
    """The arguments that rebuild the network, and its size."""
    return {
        "bands": model.bands,
        "classes": model.classes,
        "width": model.width,
        "fusion": list(model.fusion),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
