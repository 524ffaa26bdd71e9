"""Pictures as WebP files in memory."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

QUALITY = 80
#: Longest side that the format allows.
MAX_SIDE = 16_383


def webp_bytes(image: npt.NDArray[np.uint8]) -> bytes:
    """A picture as the content of a WebP file.

    Args:
        image: (H, W, 4) uint8, red, green, blue and opacity; no side above `MAX_SIDE`.
    """
    file = io.BytesIO()
    Image.fromarray(image, "RGBA").save(file, "WEBP", quality=QUALITY, method=4)
    return file.getvalue()
