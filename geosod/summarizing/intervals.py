"""Confidence intervals of counts."""

from __future__ import annotations

import numpy as np

from geosod.arrays import FloatArray, IntArray
from geosod.errors import ConfigError


def poisson_interval(counts: IntArray, level: float) -> tuple[FloatArray, FloatArray]:
    """Exact intervals of the expected number of objects (Garwood 1936), from the quantiles of chi-squared.

    They hold for objects that are independent of each other, and say nothing of what the model misses or invents.

    Args:
        counts: (N,) numbers of objects.
        level: the rate at which an interval contains the expected number.

    Returns:
        (N,) lower and (N,) upper ends; 0 objects have a lower end of 0.

    Raises:
        ConfigError: the level is not between 0 and 1, or scipy is not installed.
    """
    if not 0 < level < 1:
        raise ConfigError(f"confidence {level}: the rate of an interval is between 0 and 1, such as 0.95")
    try:
        from scipy.special import gammaincinv  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError('intervals are computed with scipy; pip install "geosod[summarize]"') from error
    tail, number = (1 - level) / 2, np.asarray(counts, np.float64)
    low = np.where(number > 0, gammaincinv(np.maximum(number, 1), tail), 0.0)
    return low, np.asarray(gammaincinv(number + 1, 1 - tail), np.float64)
