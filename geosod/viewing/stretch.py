"""Pixels of any type as a person sees them."""

from __future__ import annotations

from typing import Any

import numpy as np

from geosod.arrays import PixelArray, percentile_limits

_STRETCH = (2.0, 98.0)


def as_picture(pixels: PixelArray) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(H, W, 3) uint8 of pixels (C, H, W): the first three bands, or the first one three times.

    Values other than uint8 are stretched between their 2nd and 98th percentile.
    """
    bands = pixels[:3] if len(pixels) >= 3 else pixels[[0, 0, 0]]
    if bands.dtype != np.uint8:
        low, high = percentile_limits(bands[np.isfinite(bands)], _STRETCH)
        bands = (np.clip((np.nan_to_num(bands.astype(np.float64)) - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(bands.transpose(1, 2, 0))
