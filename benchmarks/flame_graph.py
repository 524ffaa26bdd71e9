"""Flame graphs as plain SVG: how often each call was on the stack, its callees below it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape

Stack = tuple[str, ...]

WIDTH, ROW, MARGIN, TOP = 1400, 17, 8, 44
#: Calls with a smaller share of the samples are left out.
MIN_SHARE = 0.002
#: Pixels that a letter needs.
LETTER = 6.3
#: Colours by what a frame's file belongs to, safe for the colour-blind; the first that fits.
COLOURS = {
    "geosod/": ("geosod", "#e69f00"),
    "torch/": ("torch", "#56b4e9"),
    "ray/": ("Ray", "#cc79a7"),
    "numba/": ("numba", "#009e73"),
    "": ("Python and other libraries", "#d0d0d0"),
}


@dataclass(slots=True)
class _Call:
    samples: int = 0
    callees: dict[str, _Call] = field(default_factory=dict)


def flame_graph(stacks: Mapping[Stack, int], title: str) -> str:
    """The text of an SVG file.

    Args:
        stacks: samples by stack, the outermost call first.
        title: shown above the graph.
    """
    root = _tree(stacks)
    rows = list(_rows(root, root.samples * MIN_SHARE))
    depth = 1 + max((row for _, row, _, _ in rows), default=0)
    height = TOP + depth * ROW + MARGIN
    scale = (WIDTH - 2 * MARGIN) / max(1, root.samples)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{MARGIN}" y="16" font-size="13" font-weight="bold">{escape(title)}</text>',
        *_legend(),
        *(_box(name, MARGIN + start * scale, row, samples, root.samples) for name, row, start, samples in rows),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _tree(stacks: Mapping[Stack, int]) -> _Call:
    root = _Call()
    for stack, samples in stacks.items():
        call = root
        call.samples += samples
        for frame in stack:
            call = call.callees.setdefault(frame, _Call())
            call.samples += samples
    return root


def _rows(call: _Call, least: float, row: int = 0, start: int = 0) -> Iterator[tuple[str, int, int, int]]:
    """Name, row, first sample and number of samples of every call that is large enough, depth first."""
    for name, callee in sorted(call.callees.items(), key=lambda item: -item[1].samples):
        if callee.samples >= least:
            yield name, row, start, callee.samples
            yield from _rows(callee, least, row + 1, start)
        start += callee.samples


def _box(name: str, x: float, row: int, samples: int, of: int) -> str:
    width, y = samples / of * (WIDTH - 2 * MARGIN), TOP + row * ROW
    _, colour = next(found for mark, found in COLOURS.items() if mark in name)
    letters = int((width - 4) / LETTER)
    shown = name if len(name) <= letters else f"{name[: letters - 1]}…" if letters > 3 else ""
    text = f'<text x="{x + 3:.1f}" y="{y + 12}">{escape(shown)}</text>' if shown else ""
    return (
        f"<g><title>{escape(name)}: {samples / of:.1%}</title>"
        f'<rect x="{x:.1f}" y="{y}" width="{max(0.3, width - 0.4):.1f}" height="{ROW - 1}" fill="{colour}"/>{text}</g>'
    )


def _legend() -> Iterator[str]:
    x = float(MARGIN)
    for name, colour in COLOURS.values():
        yield f'<rect x="{x:.0f}" y="24" width="11" height="11" fill="{colour}"/>'
        yield f'<text x="{x + 15:.0f}" y="34">{escape(name)}</text>'
        x += 15 + LETTER * len(name) + 18
