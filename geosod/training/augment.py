"""Changes to a sample that leave its labels true: turns, light, single bands, noise, hidden parts, pasted objects.

All are of values from 0 to 1 after the card's scaling, so that they mean the same for 8 and 16 bits; invalid pixels
keep their fill value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from geosod.arrays import FloatArray
from geosod.training.config import TrainConfig
from geosod.training.pixels import Pixels
from geosod.training.shown import Objects, Shown

#: Relative brightness and contrast, and exponents of gamma, at strength 1: standard deviations.
_BRIGHTNESS, _CONTRAST, _GAMMA = 0.06, 0.15, 0.15
#: The same of single bands, which differ between sensors, hours and haze.
_BAND_BRIGHTNESS, _BAND_CONTRAST = 0.025, 0.07
#: At strength 1: standard deviation of noise, and of blur in pixels.
_NOISE, _BLUR = 0.02, 0.8
#: Share of an object's width and height that is hidden, at most.
_HIDDEN = 0.6

#: Random numbers and a scale → an object of another image with a margin around it, in pixels of that scale; None where
#: none could be read.
Donor = Callable[[np.random.Generator, float], Shown | None]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Changes a sample at random.

    Attributes:
        flips: "all" (the eight symmetries of a square), "horizontal" or "none".
        photometric: strength of changes of brightness, contrast and gamma.
        noise: strength of noise and blur.
        occlusion: share of the objects of which a part is hidden.
        copy_paste: share of the samples into which objects are pasted.
        donor: draws an object to paste.
        fill: value of invalid pixels.
    """

    flips: str = "all"
    photometric: float = 1.0
    noise: float = 0.3
    occlusion: float = 0.0
    copy_paste: float = 0.0
    donor: Donor | None = None
    fill: float = 0.0

    @classmethod
    def of(cls, config: TrainConfig, *, donor: Donor | None, fill: float) -> Augmentation:
        """As the settings say."""
        names = ("flips", "photometric", "noise", "occlusion", "copy_paste")
        return cls(**{name: getattr(config, name) for name in names}, donor=donor, fill=fill)

    def __call__(self, shown: Shown, rng: np.random.Generator) -> Shown:
        """A changed sample; the one that is passed in stays as it is."""
        if self.donor is not None and rng.random() < self.copy_paste:
            shown = paste(shown, self.donor, rng)
        if self.occlusion:
            shown = occlude(shown, self.occlusion, rng)
        shown = turned(shown, _turn(self.flips, rng))
        values, valid = shown.pixels.values, shown.pixels.valid
        if self.photometric:
            values = relit(values, self.photometric, rng)
        if self.noise:
            values = roughened(values, self.noise, rng)
        values = values.masked_fill(~valid, self.fill)
        return replace(shown, pixels=Pixels(values, valid))


def _turn(flips: str, rng: np.random.Generator) -> int:
    """0 … 7: how many quarter turns, and 4 more for a flip before them."""
    return int(rng.integers(8)) if flips == "all" else 4 * int(rng.integers(2)) if flips == "horizontal" else 0


def turned(shown: Shown, turn: int) -> Shown:
    """A sample flipped from left to right where `turn` is 4 or more, then turned by `turn` % 4 right angles."""
    values, valid, boxes = shown.pixels.values, shown.pixels.valid, shown.objects.boxes
    if turn >= 4:
        values, valid = values.flip(2), valid.flip(1)
        boxes = flipped_boxes(boxes, width=values.shape[2])
    for _ in range(turn % 4):
        boxes = quarter_turned_boxes(boxes, width=values.shape[2])
        values, valid = torch.rot90(values, 1, (1, 2)), torch.rot90(valid, 1, (0, 1))
    pixels = Pixels(values.contiguous(), valid.contiguous())
    return replace(shown, pixels=pixels, objects=replace(shown.objects, boxes=boxes))


def flipped_boxes(boxes: FloatArray, *, width: int) -> FloatArray:
    """Boxes (N, 4) of an image that was flipped from left to right."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def quarter_turned_boxes(boxes: FloatArray, *, width: int) -> FloatArray:
    """Boxes (N, 4) of an image of a width that was turned counter-clockwise by a right angle, as `torch.rot90` does."""
    return np.stack([boxes[:, 1], width - boxes[:, 2], boxes[:, 3], width - boxes[:, 0]], axis=1)


def relit(values: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Values (C, H, W) in another light: for all bands together, and a little for each by itself."""
    bands = len(values)
    mean = values.mean(dim=(1, 2), keepdim=True)
    contrast = np.exp(strength * (_CONTRAST * rng.normal() + _BAND_CONTRAST * rng.normal(size=bands)))
    shift = strength * (_BRIGHTNESS * rng.normal() + _BAND_BRIGHTNESS * rng.normal(size=bands))
    gamma = float(np.exp(strength * _GAMMA * rng.normal()))
    changed = (values - mean) * _by_band(contrast) + mean * (1 + _by_band(shift)) + _by_band(shift) / 4
    return changed.clamp_(1e-4, 1).pow_(gamma)


def _by_band(factors: FloatArray) -> Tensor:
    return torch.from_numpy(np.asarray(factors, np.float32))[:, None, None]


def roughened(values: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Values (C, H, W) with noise, or blurred, or neither."""
    kind = rng.random()
    if kind < 0.35:
        scale = strength * _NOISE * abs(rng.normal())
        noise = rng.standard_normal(values.shape, dtype=np.float32) * np.float32(scale)
        return (values + torch.from_numpy(noise)).clamp_(0, 1)
    if kind < 0.7:
        return blurred(values, strength * _BLUR * abs(rng.normal()))
    return values


def blurred(values: Tensor, sigma: float) -> Tensor:
    """Values (C, H, W) convolved with a Gaussian of some pixels, edges repeated."""
    reach = int(np.ceil(2.5 * sigma))
    if sigma < 0.2 or min(values.shape[1:]) <= reach:
        return values
    x = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    rows = F.conv2d(F.pad(values[:, None], (0, 0, reach, reach), mode="replicate"), kernel[None, None, :, None])
    both = F.conv2d(F.pad(rows, (reach, reach, 0, 0), mode="replicate"), kernel[None, None, None])
    return both[:, 0]


def occlude(shown: Shown, share: float, rng: np.random.Generator) -> Shown:
    """A sample in which parts of some objects are covered with noise around the image's mean."""
    # An ignored region may be all that is shown.
    values, boxes = shown.pixels.values.clone(), shown.objects.boxes[~shown.objects.ignored]
    height, width = values.shape[1:]
    for box in boxes[rng.random(len(boxes)) < share]:
        size = (box[2:] - box[:2]) * rng.uniform(0.2, _HIDDEN, 2)
        corner = box[:2] + rng.uniform(0, 1, 2) * (box[2:] - box[:2] - size)
        x0, y0 = np.maximum(np.floor(corner), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(corner + size), [width, height]).astype(int)
        if x1 > x0 and y1 > y0:
            noise = rng.normal(0, 0.15, (len(values), y1 - y0, x1 - x0)).astype(np.float32)
            centre = values.mean(dim=(1, 2), keepdim=True)
            values[:, y0:y1, x0:x1] = (centre + torch.from_numpy(noise)).clamp_(0, 1)
    return replace(shown, pixels=Pixels(values, shown.pixels.valid))


def paste(shown: Shown, donor: Donor, rng: np.random.Generator) -> Shown:
    """A sample with up to three objects of other images where there is valid ground and no object (copy-paste)."""
    values = shown.pixels.values.clone()
    height, width = values.shape[1:]
    objects = shown.objects
    for _ in range(int(rng.integers(1, 4))):
        given = donor(rng, shown.scale)
        if given is None:
            continue
        given = turned(given, int(rng.integers(8)))
        rows, cols = given.pixels.values.shape[1:]
        if rows >= height or cols >= width:
            continue
        x, y = int(rng.integers(width - cols)), int(rng.integers(height - rows))
        spot = (slice(y, y + rows), slice(x, x + cols))
        box = np.array([x, y, x + cols, y + rows], np.float64)
        taken = (objects.boxes[:, :2] < box[2:]).all(axis=1) & (objects.boxes[:, 2:] > box[:2]).all(axis=1)
        if taken.any() or not shown.pixels.valid[spot].all() or not given.pixels.valid.all():
            continue
        edge = _soft_edge(rows, cols)
        values[:, *spot] = values[:, *spot] * (1 - edge) + given.pixels.values * edge
        moved = replace(given.objects, boxes=given.objects.boxes + np.tile([x, y], 2))
        objects = Objects.concat([objects, moved])
    return replace(shown, pixels=Pixels(values, shown.pixels.valid), objects=objects)


def _soft_edge(rows: int, cols: int) -> Tensor:
    """(rows, cols) 1 inside, falling off over two pixels at the edges, so that no seam gives a pasted object away."""
    y = torch.minimum(torch.arange(rows), torch.arange(rows).flip(0))
    x = torch.minimum(torch.arange(cols), torch.arange(cols).flip(0))
    return ((torch.minimum(y[:, None], x[None]).float() + 0.5) / 2).clamp_(max=1)
