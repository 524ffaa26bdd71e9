"""How values show themselves in notebooks: tables, and drawings of boxes, as HTML without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

from geosod.palette import PALETTE

#: Boxes that a drawing shows at most, and rows of a table.
MAX_DRAWN, MAX_ROWS = 2000, 10
#: Longest side of a drawing.
_SIDE = 260
_CELL = "text-align:left;padding:2px 12px 2px 0"


def grid(header: Sequence[str], rows: Sequence[Sequence[object]], *, more: int = 0) -> str:
    """A table.

    Args:
        header: names of the columns; none for a table of names and values.
        rows: their cells, shown as text.
        more: number of rows that are left out.
    """
    head = "".join(f'<th style="{_CELL}">{escape(name)}</th>' for name in header)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{escape(str(cell))}</td>' for cell in row) + "</tr>" for row in rows
    )
    rest = f"<p>and {more:,} more</p>" if more else ""
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if header else ''}<tbody>{body}</tbody></table>{rest}"


def card(title: str, *parts: str) -> str:
    """A value with a title; the parts, which are HTML, stand beside each other where there is room."""
    shown = "".join(f"<div>{part}</div>" for part in parts if part)
    return f'<div><b>{escape(title)}</b><div style="display:flex;flex-wrap:wrap;gap:16px">{shown}</div></div>'


def boxes_svg(
    boxes: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int32],
    frame: tuple[float, float, float, float] | None = None,
) -> str:
    """A drawing of boxes, in colours of their classes.

    Args:
        boxes: (N, 4) ``x0, y0, x1, y1`` in pixels, the most important first; so many as `MAX_DRAWN` are drawn.
        labels: (N,) class ids.
        frame: what the drawing shows, likewise; None is what the boxes need.

    Returns:
        An SVG element; "" where there is nothing to show.
    """
    if frame is None:
        if not len(boxes):
            return ""
        frame = (*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist())
    x0, y0, x1, y1 = frame
    scale = _SIDE / max(x1 - x0, y1 - y0, 1e-9)
    width, height = max(4.0, (x1 - x0) * scale), max(4.0, (y1 - y0) * scale)
    corners = (boxes[:MAX_DRAWN] - np.array([x0, y0, x0, y0])) * scale
    drawn = []
    for (left, top, right, bottom), label in zip(corners.tolist(), labels[:MAX_DRAWN].tolist(), strict=True):
        red, green, blue = PALETTE[label % len(PALETTE)]
        w, h = max(2.0, right - left), max(2.0, bottom - top)
        drawn.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{w:.1f}" height="{h:.1f}" '
            f'fill="rgb({red} {green} {blue} / 35%)" stroke="rgb({red} {green} {blue})"/>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.1f} {height:.1f}" style="background:#23272e">{"".join(drawn)}</svg>'
    )
