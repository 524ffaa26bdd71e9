"""What a card says of the network's input: its size, how tiles are brought to it, and the values it expects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from geosod.errors import ModelError
from geosod.tile_size import MAX_SIDE, STRIDE

RESIZES = ("letterbox", "stretch", "inside", "edges")
CORNERS = ("centre", "top-left")
RESAMPLINGS = ("bilinear", "opencv", "antialias", "antialias-float")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkInput:
    """How the pixels of a tile, scaled to 0…1, become the network's input. The default passes them on as they are.

    Attributes:
        size: (width, height) of the input in pixels; None for that of the tile, times `upscale`.
        upscale: factor by which tiles are enlarged where `size` is None.
        resize: how a tile is brought to `size`: "letterbox" keeps the ratio of its sides and fills what is left,
            "stretch" does not. "inside" keeps it and fills nothing: the input is the largest that `size` holds. "edges"
            does so, too, and `size` is (shortest, longest): the shorter side becomes the first, or less where the
            longer one would exceed the second.
        corner: where a letterboxed tile is placed: "centre" or "top-left".
        resampling: "bilinear"; "opencv", which is cv2.resize's bilinear of 8-bit images to the last bit but for a few
            pixels in 10,000; or "antialias", with a wider kernel where it reduces, as Pillow and torchvision do;
            "antialias-float" is that without rounding 8-bit images to 8 bits again.
        fill: value of what is filled and of invalid pixels, as a fraction of the card's range: 114 / 255 for YOLO.
        reverse_bands: give the bands in reverse order, as BGR where the card's are red, green, blue.
        scale: values are multiplied by it: 255 where the network expects 0…255.
        mean, std: after that, per band in the card's order: (value - mean) / std; empty for none.

    Raises:
        ModelError: a value is out of range.
    """

    size: tuple[int, int] | None = None
    upscale: float = 1.0
    resize: str = "letterbox"
    corner: str = "centre"
    resampling: str = "bilinear"
    fill: float = 0.0
    reverse_bands: bool = False
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("size", "mean", "std"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        for name, choices in (("resize", RESIZES), ("corner", CORNERS), ("resampling", RESAMPLINGS)):
            _require(getattr(self, name) in choices, f"{name} {getattr(self, name)!r} is none of {', '.join(choices)}")
        size = self.size
        sound = size is None or (len(size) == 2 and all(isinstance(n, int) and 1 <= n <= MAX_SIDE for n in size))
        _require(sound, f"size {size} is not (width, height) of 1 to {MAX_SIDE} pixels")
        _require(0.1 <= self.upscale <= 16, f"upscale {self.upscale} is not in 0.1..16")
        _require(0 <= self.fill <= 1, f"fill {self.fill} is not in 0..1")
        _require(math.isfinite(self.scale) and self.scale > 0, f"scale {self.scale} must be above 0")
        _require(all(map(math.isfinite, (*self.mean, *self.std))), "mean and std must be numbers")
        _require(all(value > 0 for value in self.std), f"std {self.std} must be above 0")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkInput:
        """From the fields that differ from the default.

        Raises:
            ModelError: a field is unknown or out of range.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        _require(not unknown, f"{', '.join(sorted(unknown))} is unknown")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from the default."""
        default = asdict(NetworkInput())
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value != default[name]
        }

    def check_bands(self, count: int) -> None:
        """Refuse a mean or std that does not have one value for each band.

        Raises:
            ModelError: it does not.
        """
        for name in ("mean", "std"):
            value = getattr(self, name)
            _require(len(value) in (0, count), f"{name} {value} needs one value for each of {count} bands")

    def fit(self, width: int, height: int) -> Fit:
        """Where an image of width × height pixels goes in the network's input."""
        if self.size is None:
            if self.upscale == 1:
                return Fit(width, height, width, height, width, height)
            inner = [max(1, round(side * self.upscale)) for side in (width, height)]
            outer = [-(-side // STRIDE) * STRIDE for side in inner]
            left, top = self._corner(outer, inner)
            return Fit(width, height, outer[0], outer[1], inner[0], inner[1], left, top)
        outer = list(self.size)
        if self.resize == "stretch":
            return Fit(width, height, *self.size, *self.size)
        if self.resize in ("inside", "edges"):
            size = (_inside if self.resize == "inside" else _between_edges)(width, height, self.size)
            return Fit(width, height, *size, *size)
        ratio = min(outer[0] / width, outer[1] / height)
        inner = [min(side, max(1, self._whole(n * ratio))) for side, n in zip(outer, (width, height), strict=True)]
        left, top = self._corner(outer, inner)
        return Fit(width, height, outer[0], outer[1], inner[0], inner[1], left, top)

    def _whole(self, side: float) -> int:
        """YOLOX, which places images at the top left, rounds their scaled sides down; Ultralytics to the nearest."""
        return int(side + 1e-9) if self.corner == "top-left" else round(side)

    def _corner(self, outer: list[int], inner: list[int]) -> tuple[int, int]:
        if self.corner == "top-left":
            return 0, 0
        left, top = (round((a - b) / 2 - 0.1) for a, b in zip(outer, inner, strict=True))
        return left, top


@dataclass(frozen=True, slots=True)
class Fit:
    """Where an image goes in a network's input; pixels, origin at the top-left corner of each.

    Attributes:
        image_width, image_height: of the image.
        width, height: of the input.
        inner_width, inner_height: of the resized image in the input.
        left, top: where it begins.
    """

    image_width: int
    image_height: int
    width: int
    height: int
    inner_width: int
    inner_height: int
    left: int = 0
    top: int = 0

    @property
    def is_identity(self) -> bool:
        """Whether the input is the image."""
        return (self.width, self.height) == (self.image_width, self.image_height) == self.inner

    @property
    def inner(self) -> tuple[int, int]:
        """(width, height) of the resized image."""
        return self.inner_width, self.inner_height

    @property
    def _scales(self) -> tuple[float, float]:
        return self.inner_width / self.image_width, self.inner_height / self.image_height

    def to_input(self, boxes: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Boxes (N, 4) of the image in pixels of the input."""
        x, y = self._scales
        moved = np.asarray(boxes, np.float64).reshape(-1, 4) * [x, y, x, y]
        return np.asarray(moved + np.array([self.left, self.top, self.left, self.top]), np.float64)

    def to_image(self, boxes: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Boxes (N, 4) of the input in pixels of the image."""
        x, y = self._scales
        moved = np.asarray(boxes, np.float64).reshape(-1, 4) - np.array([self.left, self.top, self.left, self.top])
        return np.asarray(moved / [x, y, x, y], np.float64)


def _inside(width: int, height: int, limits: tuple[int, int]) -> tuple[int, int]:
    """The largest size of an image's ratio inside (width, height), rounded as transformers does."""
    ratio = min(limits[0] / width, limits[1] / height)
    return max(1, int(width * ratio)), max(1, int(height * ratio))


def _between_edges(width: int, height: int, edges: tuple[int, int]) -> tuple[int, int]:
    """The size of an image's ratio whose sides reach (shortest, longest), rounded as transformers does."""
    short, long = sorted((width, height))
    limited = long / short * edges[0] > edges[1]
    side = edges[1] * short / long if limited else edges[0]
    if round(side) != short:
        short, long = max(1, round(side)), int(side * long / short)
    return (short, long) if width < height else (long, short)


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ModelError(f"network input: {problem}; fix the card's geosod:input")
