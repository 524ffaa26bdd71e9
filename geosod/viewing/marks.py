"""What all pictures share: colours, fonts, and the outline of a box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ImageDraw, ImageFont

from geosod.errors import ConfigError
from geosod.palette import PALETTE, Colour

SHADOW = (16, 18, 22)
PANEL = (24, 26, 31)
TEXT = (236, 238, 240)
FAINT = (160, 166, 174)


def colour_of(label: int) -> Colour:
    """Colour of a class, the same in every picture."""
    return PALETTE[label % len(PALETTE)]


def checked_image(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The image, contiguous; ConfigError unless it is (H, W, 3) uint8."""
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise ConfigError(
            f"a picture needs (H, W, 3) uint8 pixels, got {pixels.shape} {pixels.dtype}; convert the image first"
        )
    return np.ascontiguousarray(pixels)


def box_columns(boxes: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Boxes (N, 4) and labels (N,); ConfigError where there are more of one."""
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    classes = np.asarray(labels, np.int64).reshape(-1)
    if len(corners) != len(classes):
        raise ConfigError(f"{len(corners)} boxes but {len(classes)} labels; give one label per box")
    return corners, classes


def font_of(size: int) -> Any:
    """The font of all pictures, in a size in pixels."""
    return ImageFont.load_default(size=size)


def class_name(label: int, class_names: Sequence[str]) -> str:
    """The name of a class, or its number where it has none."""
    return class_names[label] if 0 <= label < len(class_names) else f"class {label}"


def draw_outline(draw: ImageDraw.ImageDraw, corner: npt.NDArray[np.float64], colour: Colour, *, width: int) -> None:
    """A rectangle around the box, with a dark outer line so that it is visible on any background."""
    x0, y0, x1, y1 = (float(v) for v in np.round(corner))
    x1, y1 = max(x0, x1 - 1), max(y0, y1 - 1)
    draw.rectangle((x0 - width, y0 - width, x1 + width, y1 + width), outline=SHADOW, width=1)
    draw.rectangle(
        (x0 - width + 1, y0 - width + 1, x1 + width - 1, y1 + width - 1), outline=colour, width=width - 1 or 1
    )
