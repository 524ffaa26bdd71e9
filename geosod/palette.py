"""Colours: of classes, and which bands are shown as red, green and blue."""

from __future__ import annotations

from collections.abc import Sequence

Colour = tuple[int, int, int]

#: The colour-blind safe palette of Okabe and Ito; colours that contrast most with imagery come first.
PALETTE: tuple[Colour, ...] = (
    (240, 228, 66),
    (86, 180, 233),
    (213, 94, 0),
    (204, 121, 167),
    (0, 158, 115),
    (230, 159, 0),
    (0, 114, 178),
    (255, 255, 255),
)

_RGB = ("red", "green", "blue")


def visible_bands(names: Sequence[str]) -> list[int]:
    """Indices of the bands called red, green and blue; else of the first three, or of the first one three times."""
    lower = [name.lower() for name in names]
    if set(_RGB) <= set(lower):
        return [lower.index(name) for name in _RGB]
    return [0, 1, 2] if len(lower) >= 3 else [0, 0, 0]
