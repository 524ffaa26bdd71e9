"""The drawings of docs/concepts.md: ``python -m docs.builder.drawings docs/images``.

Each has a light ground of its own, so that it is legible on light and dark pages.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

INK, FAINT, GROUND = "#1f2933", "#71808f", "#f7f9fb"
BLUE, ORANGE, GREEN, RED = "#2563a8", "#c2620e", "#2c7a4b", "#b3261e"
_WIDTH = 720


class Drawing:
    """Shapes on a ground with rounded corners, in the order in which they are added.

    Args:
        height: pixels; the width is the same for all.
        title: what it shows, for those who cannot see it.
    """

    def __init__(self, height: int, title: str) -> None:
        self._height, self._title = height, title
        self._shapes: list[str] = []

    def box(self, x: float, y: float, w: float, h: float, *, line: str = INK, fill: str = "none", **more: Any) -> None:
        """A rectangle; `more` are attributes of SVG, with underscores for hyphens."""
        self._add("rect", x=x, y=y, width=w, height=h, stroke=line, fill=fill, **more)

    def line(self, x0: float, y0: float, x1: float, y1: float, *, line: str = FAINT, **more: Any) -> None:
        """A straight line."""
        self._add("line", x1=x0, y1=y0, x2=x1, y2=y1, stroke=line, **more)

    def text(self, x: float, y: float, text: str, *, fill: str = INK, size: int = 14, anchor: str = "start") -> None:
        """A line of text; y is that of its baseline."""
        inner = text.replace("&", "&amp;").replace("<", "&lt;")
        self._add("text", inner, x=x, y=y, fill=fill, font_size=size, text_anchor=anchor, stroke="none")

    def arrow(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """A line with a head at its end."""
        self.line(x0, y0, x1, y1, line=INK, stroke_width=1.5, marker_end="url(#head)")

    def svg(self) -> str:
        """The drawing as a file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {self._height}" role="img" '
            f'font-family="system-ui, sans-serif" stroke-width="1.5">\n<title>{self._title}</title>\n'
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0 0 8 4 0 8z" fill="{INK}"/></marker></defs>\n'
            f'<rect x="0.5" y="0.5" width="{_WIDTH - 1}" height="{self._height - 1}" rx="8" fill="{GROUND}" '
            f'stroke="{FAINT}" stroke-width="1"/>\n'
        )
        return head + "\n".join(self._shapes) + "\n</svg>\n"

    def _add(self, kind: str, /, inner: str = "", **attributes: Any) -> None:
        texts = "".join(f' {name.replace("_", "-")}="{_number(value)}"' for name, value in attributes.items())
        self._shapes.append(f"<{kind}{texts}>{inner}</{kind}>" if inner else f"<{kind}{texts}/>")


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def tiles() -> Drawing:
    """A scene, its overlapping tiles, and objects in them."""
    d = Drawing(300, "A scene is searched in tiles that overlap")
    left, top, side, step = 40, 50, 110, 82
    for row in range(2):
        for col in range(4):
            d.box(left + col * step, top + row * step, side, side, line=FAINT, stroke_width=1)
    for col in range(1, 4):
        d.box(left + col * step, top, side - step, side + step, line="none", fill=BLUE, fill_opacity=0.1)
    d.box(left + step, top, side, side, line=BLUE, stroke_width=3)
    for x, y, w, h in [(60, 75, 16, 9), (190, 92, 14, 8), (300, 70, 9, 15), (95, 190, 15, 9), (330, 205, 17, 9)]:
        d.box(x, y, w, h, line=ORANGE, fill=ORANGE, fill_opacity=0.35)
    d.box(221, 130, 16, 9, line=ORANGE, fill=ORANGE, fill_opacity=0.35)
    d.text(left, 34, "a scene of any size")
    d.text(430, 70, "a tile: what the network sees at once,", fill=BLUE)
    d.text(430, 90, "in full resolution", fill=BLUE)
    d.text(430, 125, "the overlap: an object that is smaller")
    d.text(430, 145, "is whole in at least one tile")
    d.text(430, 180, "objects of a few pixels", fill=ORANGE)
    d.text(430, 215, "Reduced to one tile, the scene would", fill=INK)
    d.text(430, 235, "lose them.", fill=INK)
    d.arrow(425, 66, 240, 66)
    d.text(left, 275, "--tile 512 --overlap 0.25", fill=FAINT, size=13)
    return d


def units() -> Drawing:
    """Units of work, read by strips, processed anywhere, merged to the same result."""
    d = Drawing(300, "Units of a scene go to any worker, and the result is the same")
    for row in range(3):
        for col in range(3):
            d.box(40 + col * 70, 50 + row * 70, 70, 70, line=INK, stroke_width=2)
            for i in range(2):
                for j in range(2):
                    d.box(44 + col * 70 + i * 28, 54 + row * 70 + j * 28, 34, 34, line=FAINT, stroke_width=0.8)
    d.box(40, 120, 210, 14, line="none", fill=BLUE, fill_opacity=0.3)
    d.text(40, 34, "a scene in nine units of four tiles")
    d.text(40, 282, "a strip of blocks is decoded once", fill=BLUE, size=13)
    for i, name in enumerate(("a thread", "a worker on another node", "the same worker, after a restart")):
        y = 70 + i * 75
        d.arrow(258, 155, 318, y)
        d.box(325, y - 20, 215, 40, line=INK, fill="#ffffff", rx=4)
        d.text(432, y + 5, name, size=13, anchor="middle")
        d.arrow(545, y, 585, 145)
    d.text(592, 140, "one map layer,", fill=GREEN)
    d.text(592, 160, "the same bytes", fill=GREEN)
    return d


def components() -> Drawing:
    """Components of overlapping boxes: final ones stay, pending ones meet in the next unit."""
    d = Drawing(300, "Groups of boxes that no other unit can touch are final")
    d.box(40, 50, 220, 200, line=INK, stroke_width=2)
    d.box(260, 50, 220, 200, line=INK, stroke_width=2)
    d.text(40, 34, "unit A")
    d.text(480, 34, "unit B", anchor="end")
    d.box(236, 50, 48, 200, line="none", fill=ORANGE, fill_opacity=0.1)
    for x, y in [(70, 80), (78, 86), (74, 76)]:
        d.box(x, y, 40, 26, line=GREEN, stroke_width=1.5)
    for x, y in [(120, 190), (128, 184)]:
        d.box(x, y, 36, 30, line=GREEN)
    for x, y in [(370, 100), (378, 106), (366, 108)]:
        d.box(x, y, 42, 26, line=GREEN)
    for x, y in [(214, 140), (236, 146)]:
        d.box(x, y, 42, 26, line=ORANGE, stroke_width=2)
    for x, y in [(250, 138), (262, 148)]:
        d.box(x, y, 42, 26, line=ORANGE, stroke_width=2, stroke_dasharray="5 3")
    d.text(505, 90, "final: merged where", fill=GREEN)
    d.text(505, 110, "they were found", fill=GREEN)
    d.text(505, 150, "pending: sent raw to where", fill=ORANGE)
    d.text(505, 170, "they meet, and merged", fill=ORANGE)
    d.text(505, 190, "there as one group", fill=ORANGE)
    d.text(
        40, 280, "Merging acts inside groups only, so the result is that of merging the whole scene at once.", size=13
    )
    return d


def borders() -> Drawing:
    """An object at the border of two tiles: one box, not three."""
    d = Drawing(280, "An object at the border of tiles is reported once and whole")
    for x, title in ((40, "what the tiles report"), (400, "what geosod writes")):
        d.text(x, 34, title)
        d.box(x, 50, 170, 170, line=FAINT, stroke_width=1)
        d.box(x + 110, 50, 170, 170, line=FAINT, stroke_width=1)
    d.box(175, 100, 78, 42, line="none", fill=FAINT, fill_opacity=0.35)
    d.box(176, 101, 34, 40, line=RED, stroke_width=2, stroke_dasharray="5 3")
    d.box(174, 98, 80, 45, line=GREEN, stroke_width=2)
    d.box(535, 100, 78, 42, line="none", fill=FAINT, fill_opacity=0.35)
    d.box(534, 98, 80, 45, line=GREEN, stroke_width=2.5)
    d.arrow(332, 135, 388, 135)
    d.text(40, 243, "a fragment, cut by the left tile's edge", fill=RED, size=13)
    d.text(40, 263, "the whole object, in the right tile", fill=GREEN, size=13)
    d.text(400, 243, "the whole box has absorbed its fragment;", size=13)
    d.text(400, 263, "fragments without a whole box are stitched", size=13)
    return d


def pyramid() -> Drawing:
    """Levels: small objects in full resolution, large ones in a reduced scene."""
    d = Drawing(290, "Large objects are searched in reduced levels")
    for x, side, name, sizes in (
        (40, 180, "scale 1", "objects of some pixels"),
        (300, 90, "scale 0.5", "larger ones"),
        (480, 45, "scale 0.25, or full", "the largest"),
    ):
        top = 230 - side
        d.box(x, top, side, side, line=INK, fill="#ffffff", stroke_width=2)
        scale = side / 180
        d.box(x + 110 * scale, top + 30 * scale, 56 * scale, 120 * scale, line="none", fill=BLUE, fill_opacity=0.35)
        for dx, dy in ((20, 30), (35, 120), (60, 75)):
            d.box(x + dx * scale, top + dy * scale, 10 * scale, 7 * scale, line="none", fill=ORANGE)
        d.box(x + 4, top + 4, 41, 41, line=GREEN, stroke_width=2)
        d.text(x, 252, name, size=13)
        d.text(x, 272, sizes, size=13, fill=FAINT)
    d.text(40, 32, "a tile has the same size on all levels", fill=GREEN)
    d.text(340, 32, "At scale 1 the blue object is larger than a tile.", fill=BLUE)
    d.arrow(232, 185, 290, 185)
    d.arrow(402, 205, 470, 205)
    return d


DRAWINGS = {"tiles": tiles, "units": units, "components": components, "borders": borders, "pyramid": pyramid}


if __name__ == "__main__":
    for name, draw in DRAWINGS.items():
        Path(sys.argv[1], f"concept-{name}.svg").write_text(draw().svg(), "utf-8")
