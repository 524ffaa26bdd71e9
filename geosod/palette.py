"""The colours of classes."""

from __future__ import annotations

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
