"""Names for the types of arrays, and the limits of pixel values by percentiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
PixelArray = npt.NDArray[Any]


def paired(x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
    """(N, 2) float64 of two (N,); `np.stack` takes several times as long for the few points of a small scene."""
    x = np.asarray(x)
    out = np.empty((len(x), 2))
    out[:, 0], out[:, 1] = x, y
    return out


def percentile_limits(values: PixelArray, percentages: tuple[float, float]) -> tuple[float, float]:
    """The values (n,) at two percentages, a little apart even where all values are the same; 0 and 1 for no values."""
    if not len(values):
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values.astype(np.float64), percentages))
    min_span = 1.0 if values.dtype.kind in "ui" else max(abs(low) * 1e-6, 1e-12)
    return low, max(high, low + min_span)
