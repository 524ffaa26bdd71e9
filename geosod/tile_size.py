"""Sizes and overlaps of tiles in the forms people write them: 640, "640x512", 0.25, 64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from geosod.errors import ConfigError

#: (width, height) in pixels.
TileSize = tuple[int, int]
#: Along x and along y: pixels where an int, a share of the tile's side where a float below 1.
Overlap = tuple[int | float, int | float]

#: Tile sides are multiples of this, the coarsest stride of the shipped networks.
STRIDE = 32
MIN_SIDE, MAX_SIDE = 32, 8192


def parse_tile(value: Any) -> TileSize:
    """A tile size from a side, ``"WIDTHxHEIGHT"``, or (width, height).

    Raises:
        ConfigError: a side is not a whole number, or not a multiple of 32 from 32 to 8192.
    """
    sides = [_number(part, f"tile {value!r}: give 640, or 640x512 (width x height)") for part in _pair(value)]
    for side in sides:
        if not (isinstance(side, int) and MIN_SIDE <= side <= MAX_SIDE and side % STRIDE == 0):
            raise ConfigError(
                f"tile {value!r}: a side must be a multiple of {STRIDE} from {MIN_SIDE} to {MAX_SIDE} pixels, such as "
                "640 or 640x512 (width x height)"
            )
    return int(sides[0]), int(sides[1])


def parse_overlap(value: Any) -> Overlap:
    """An overlap from a ratio below 1, a number of pixels, ``"XxY"``, or (x, y) of either.

    Raises:
        ConfigError: a value is negative, or neither a ratio below 1 nor a whole number of pixels.
    """
    across = [
        _number(part, f"overlap {value!r}: give a ratio, such as 0.25, or pixels, such as 64") for part in _pair(value)
    ]
    for part in across:
        if not (part >= 0 and (isinstance(part, int) or part < 1)):
            raise ConfigError(
                f"overlap {value!r}: give a ratio of the tile from 0.0 to below 1, such as 0.25, or whole pixels, such "
                "as 64; for x and y apart 0.25x0.1 or 64x32"
            )
    return across[0], across[1]


def overlap_pixels(overlap: Overlap, tile: TileSize) -> tuple[int, int]:
    """Overlap along x and y in pixels. A ratio is taken of the tile's side and rounded down, as SAHI does.

    Raises:
        ConfigError: the overlap is not below the tile's side.
    """
    x, y = (
        math.floor(part * side) if isinstance(part, float) else part for part, side in zip(overlap, tile, strict=True)
    )
    if not (0 <= x < tile[0] and 0 <= y < tile[1]):
        raise ConfigError(
            f"overlap {x} x {y} must be at least 0 and below the tile's {tile[0]} x {tile[1]} pixels; "
            "choose another --overlap (the model's does not fit every tile), or a larger tile"
        )
    return x, y


def compact(pair: Sequence[Any]) -> Any:
    """One value where both are the same, else a list of both: how cards and YAML files write pairs."""
    return pair[0] if pair[0] == pair[1] else list(pair)


def _pair(value: Any) -> tuple[Any, Any]:
    parts = value.lower().split("x") if isinstance(value, str) else value
    if isinstance(parts, Sequence):
        if len(parts) not in (1, 2):
            raise ConfigError(f"{value!r}: give one value, or two as 640x512 (x first)")
        return parts[0], parts[-1]
    return parts, parts


def _number(value: Any, problem: str) -> int | float:
    """An int where it is written as one: "64" and 64 are pixels, "0.25" and 0.25 a ratio."""
    try:
        if isinstance(value, str):
            text = value.strip()
            return int(text) if text.lstrip("+-").isdigit() else float(text)
        if isinstance(value, bool):
            raise TypeError
        return int(value) if isinstance(value, int) or hasattr(value, "__index__") else float(value)
    except (TypeError, ValueError):
        raise ConfigError(problem) from None
