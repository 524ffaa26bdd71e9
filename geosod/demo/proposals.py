"""A list of things proposed for the scene, and the sizes of such things."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from geosod.arrays import FloatArray

#: Surface that a thing needs under all its corners.
ANY, LAND, WATER = 0.0, 1.0, 2.0

COLUMNS = (
    *("kind", "cx", "cy", "half_length", "half_width", "angle", "variant", "moving"),
    *("surface", "group", "parent"),
)

#: Centres must differ by this many pixels in x or y, or the peaks in the network's heat map would merge.
_MIN_SPACING = 8.3


class Proposals:
    """Proposals as columns, in order of precedence."""

    def __init__(self) -> None:
        self._parts: list[FloatArray] = []
        self._count = 0
        self.group = 0

    def add(
        self,
        kind: int,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        half: tuple[npt.ArrayLike, npt.ArrayLike],
        angle: npt.ArrayLike,
        variant: npt.ArrayLike,
        surface: float = LAND,
        moving: npt.ArrayLike = 0.0,
        parent: npt.ArrayLike = -1.0,
    ) -> int:
        """Append things of one kind; returns the index of the first. A thing is kept only if its `parent` is."""
        columns = np.broadcast_arrays(
            *np.atleast_1d(kind, x, y, half[0], half[1], angle, variant, moving, surface, self.group, parent)
        )
        first = self._count
        self._parts.append(np.stack(columns, axis=1).astype(np.float64))
        self._count += len(self._parts[-1])
        return first

    def table(self) -> dict[str, FloatArray]:
        """All proposals, one array per column of `COLUMNS`."""
        rows = np.concatenate(self._parts) if self._parts else np.empty((0, len(COLUMNS)))
        return {name: np.ascontiguousarray(rows[:, i]) for i, name in enumerate(COLUMNS)}


def offset_points(
    x: float, y: float, angle: float, u: npt.ArrayLike, v: npt.ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Points given by distances `u` along and `v` across an axis through (x, y)."""
    u, v = np.asarray(u, float), np.asarray(v, float)
    return x + u * math.cos(angle) - v * math.sin(angle), y + u * math.sin(angle) + v * math.cos(angle)


def min_spacing(wanted: float, direction: float) -> float:
    """Spacing of a row along `direction`: `wanted`, or more if centres would be too close for the detector."""
    return max(wanted, _MIN_SPACING / max(abs(math.cos(direction)), abs(math.sin(direction))))


def car_sizes(rng: np.random.Generator, n: int) -> tuple[FloatArray, FloatArray]:
    """Half lengths and half widths of n cars, in pixels."""
    length = rng.uniform(6.2, 11.0, n)
    return length / 2, length * rng.uniform(0.44, 0.52, n) / 2


def lorry_sizes(rng: np.random.Generator, n: int) -> tuple[FloatArray, FloatArray]:
    """Half lengths and half widths of n vans and lorries, in pixels."""
    length = 13.5 + 26.0 * rng.random(n) ** 1.6
    return length / 2, np.clip(length * rng.uniform(0.26, 0.4, n), 5.5, 7.4) / 2


def boat_sizes(rng: np.random.Generator, n: int, low: float, high: float) -> tuple[FloatArray, FloatArray]:
    """Half lengths and half widths of n vessels with lengths between `low` and `high`, in pixels."""
    length = low + (high - low) * rng.random(n) ** 1.5
    return length / 2, length * np.clip(rng.normal(0.37, 0.04, n) - 0.0022 * length, 0.22, 0.45) / 2
