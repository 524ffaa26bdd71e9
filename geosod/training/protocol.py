"""How well predicted points match true ones, by the protocol of Ventura et al. 2024."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

from geosod.arrays import FloatArray, IntArray
from geosod.errors import ConfigError


@dataclass(frozen=True, slots=True)
class PointScore:
    """Counts over a whole split, and the metrics derived from them.

    Attributes:
        matched: number of pairs of a predicted and a true point.
        found: number of predicted points.
        truth: number of true points.
        squared: sum of the squared distances of the pairs, in square pixels.
        gsd: metres a pixel.
    """

    matched: int
    found: int
    truth: int
    squared: float
    gsd: float

    @property
    def precision(self) -> float:
        """Fraction of the predicted points that are matched; nan without any."""
        return self.matched / self.found if self.found else float("nan")

    @property
    def recall(self) -> float:
        """Fraction of the true points that are matched; nan without any."""
        return self.matched / self.truth if self.truth else float("nan")

    @property
    def f_score(self) -> float:
        """Harmonic mean of precision and recall; nan without any point."""
        return 2 * self.matched / (self.found + self.truth) if self.found + self.truth else float("nan")

    @property
    def rmse(self) -> float:
        """Root of the mean squared distance of the pairs, in metres; nan without any."""
        return self.gsd * (self.squared / self.matched) ** 0.5 if self.matched else float("nan")

    def figures(self) -> dict[str, float | int]:
        """All metrics and counts, rounded, for a JSON record."""
        shares = {"precision": self.precision, "recall": self.recall, "f_score": self.f_score, "rmse_m": self.rmse}
        counts = {"trees": self.truth, "predictions": self.found, "matched": self.matched}
        return {name: round(value, 4) for name, value in shares.items()} | counts


def assign(found: FloatArray, truth: FloatArray, *, limit: float) -> IntArray:
    """Pair predicted points with true ones, one to one: the maximum number of pairs, with the minimum total distance.

    Args:
        found: (M, 2) predicted ``x, y`` in pixels.
        truth: (N, 2) true ones, same frame.
        limit: maximum distance of a pair in pixels.

    Returns:
        (K, 2) int64 rows of `found` and of `truth`.

    Raises:
        ConfigError: the limit is not above 0.
    """
    if not limit > 0:
        raise ConfigError(f"limit={limit}: the maximum distance of a pair must be above 0 px")
    distance = np.linalg.norm(found[:, None] - truth[None], axis=2)
    allowed = distance <= limit
    # A forbidden pair costs more than all allowed ones together, so it never replaces an allowed one.
    forbidden = limit * (min(distance.shape, default=0) + 1)
    rows, cols = linear_sum_assignment(np.where(allowed, distance, forbidden))
    chosen = allowed[rows, cols]
    return np.column_stack([rows[chosen], cols[chosen]]).astype(np.int64)


def score_points(pairs: Iterable[tuple[FloatArray, FloatArray]], *, gsd: float, limit: float = 10.0) -> PointScore:
    """Precision, recall, F-score and RMSE over a whole split (Ventura et al. 2024).

    Args:
        pairs: predicted (M, 2) and true (N, 2) points ``x, y`` of every image, in pixels of one frame.
        gsd: metres a pixel.
        limit: maximum distance of a match in pixels; the protocol's 6 m are 10 px at 0.6 m.
    """
    matched, n_found, n_truth, squared = 0, 0, 0, 0.0
    for found, truth in pairs:
        rows = assign(found, truth, limit=limit)
        matched, n_found, n_truth = matched + len(rows), n_found + len(found), n_truth + len(truth)
        squared += float(((found[rows[:, 0]] - truth[rows[:, 1]]) ** 2).sum())
    return PointScore(matched, n_found, n_truth, squared, gsd)
