"""How objects at tile borders are reported.

A simulated perfect detector finds each object in every tile that shows a part of it. Its boxes are off by some jitter,
have random scores, and end up to a model card's margin before the tile's edge. Objects have sides of 4 pixels to 3
tiles, thin ones included, and do not touch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.options import Options
from benchmarks.table import Row, Table
from geosod.detections import Detections
from geosod.evaluation.scene_score import match
from geosod.merging.merge import merge
from geosod.tiling.grid import Grid, make_grid

TILES, OVERLAPS = (256, 512, 1024), (0.0, 0.125, 0.25, 0.5)
#: Maximum error of the sides of boxes in pixels; less for objects under 24 pixels.
JITTER = 2.0
#: Pixels by which fragments may end before their tile's edge: a model card's `border_px`.
MARGIN = 2.0
GROUPS = ("within the overlap", "within a tile", "larger")
Boxes = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """Counts of objects of a range of sizes, and of the boxes reported for them.

    Attributes:
        objects: number of objects.
        found: objects found at IoU 0.5.
        duplicates: further boxes that lie mostly on an object that was found, or that contain most of it.
        fragments: all other boxes.
    """

    objects: int = 0
    found: int = 0
    duplicates: int = 0
    fragments: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def place(size: float, side: tuple[float, float], rng: np.random.Generator, *, gap: float, tries: int) -> Boxes:
    """(N, 4) rectangles in a square of `size`, sides log-uniform within `side`, at least `gap` apart; largest first."""
    sides = np.exp(rng.uniform(*np.log(side), (tries, 2)))
    sides = sides[np.argsort(-sides.max(axis=1))]
    placed = np.empty((0, 4))
    for w, h in sides:
        if max(w, h) > size:
            continue
        x, y = rng.uniform(0, size - w), rng.uniform(0, size - h)
        box = np.array([x, y, x + w, y + h])
        separate = (placed[:, :2] > box[2:] + gap).any(axis=1) | (placed[:, 2:] < box[:2] - gap).any(axis=1)
        if separate.all():
            placed = np.vstack([placed, box])
    return placed


def jitter_of(boxes: Boxes) -> Boxes:
    """(N, 4) maximum error of each corner in pixels."""
    # Two boxes of one object then have an IoU of at least one half.
    return np.tile(np.minimum(JITTER, (boxes[:, 2:] - boxes[:, :2]) / 12), 2)


def seen(objects: Boxes, grid: Grid, rng: np.random.Generator) -> list[Detections]:
    """The boxes that a perfect detector reports for each tile."""
    tiles = []
    for col, row, width, height in grid.windows_array().tolist():
        window = np.array([col, row, col + width, row + height], float)
        inside = np.array([col > 0, row > 0, col + width < grid.width, row + height < grid.height])
        boxes = objects + rng.uniform(-1, 1, objects.shape) * jitter_of(objects)
        beyond = np.concatenate([boxes[:, :2] < window[:2], boxes[:, 2:] > window[2:]], axis=1)
        boxes = np.clip(boxes, np.tile(window[:2], 2), np.tile(window[2:], 2))
        short = rng.uniform(0, MARGIN, boxes.shape) * [1, 1, -1, -1]
        boxes = np.where(beyond & inside, boxes + short, boxes)
        boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)]
        touching = (np.abs(boxes - window) <= MARGIN) & inside
        fragment = touching @ np.array([1, 2, 4, 8])
        score = rng.uniform(0.3, 1, len(boxes))
        tiles.append(Detections(boxes=boxes, scores=score, labels=np.zeros(len(boxes)), fragment=fragment))
    return tiles


def figures(objects: Boxes, found: Detections, group: npt.NDArray[np.int64]) -> list[Figures]:
    """Figures of each group of objects; a box that found no object counts for the group of the nearest object."""
    hit, again = match(objects, np.zeros(len(objects)), found.boxes, np.zeros(len(found)), found.scores)
    got = np.zeros(len(objects), bool)
    got[hit[hit >= 0]] = True
    rest, repeats = found.boxes[hit < 0], again[hit < 0]
    low, high = np.maximum(rest[:, None, :2], objects[:, :2]), np.minimum(rest[:, None, 2:], objects[:, 2:])
    near = group[np.prod(np.clip(high - low, 0, None), axis=2).argmax(axis=1)]
    counts = (group, group[got], near[repeats], near[~repeats])
    return [
        Figures(*row) for row in zip(*(np.bincount(c, minlength=len(GROUPS)).tolist() for c in counts), strict=True)
    ]


def trial(tile: int, share: float, seed: int, *, borders: bool, method: str = "nms") -> list[Figures]:
    """Figures of each of `GROUPS` for one scene of 8 × 8 tiles, merged with or without the border policy."""
    size, overlap = 8 * tile, int(share * tile)
    grid, rng = make_grid(size, size, tile=tile, overlap=overlap), np.random.default_rng([tile, overlap, seed])
    # Without overlap, two boxes on either side of an edge cannot be distinguished from one object.
    gap = 1.0 if overlap else 2 * (JITTER + MARGIN) + 1
    objects = place(size, (4.0, 3.0 * tile), rng, gap=gap, tries=2000)
    side = (objects[:, 2:] - objects[:, :2]).max(axis=1)
    group = np.where(side + 2 * JITTER <= overlap, 0, np.where(side <= tile, 1, 2))
    raw = Detections.concat(seen(objects, grid, rng))
    return figures(
        objects, merge(raw, method=method, borders=borders, margin=MARGIN, gap=0.0 if overlap else 2 * MARGIN), group
    )


def run(options: Options) -> list[Table]:
    """The figures of all tiles and overlaps; with the documentation's folder it draws the pictures there, too."""
    rows: list[Row] = []
    seeds = options.pick(6, 1)
    for tile, share in product(options.pick(TILES, TILES[:1]), OVERLAPS):
        runs = [[trial(tile, share, seed, borders=b) for seed in range(seeds)] for b in (True, False)]
        for k, name in enumerate(GROUPS):
            kept, plain = (sum((trial[k] for trial in group), Figures()) for group in runs)
            if kept.objects:
                row: Row = {"tile": str(tile), "overlap": f"{share:.1%}", "objects": name, "number": kept.objects}
                rows.append({**row, **_shares(kept, ""), **_shares(plain, "without: ")})
    if options.docs is not None:
        draw_cases(options.docs / "images")
    return [Table.of("borders", "Objects at borders of tiles, with and without the border policy", rows)]


def _shares(f: Figures, prefix: str) -> Row:
    counts = {"found": f.found, "duplicates": f.duplicates, "fragments": f.fragments}
    return {f"{prefix}{name}": f"{count / f.objects:.2%}" for name, count in counts.items()}


#: Name, title, overlap and objects of the pictures; tiles of 100 pixels.
CASES = (
    (
        "within",
        "An object within the overlap: its fragments are assigned to the whole box",
        30,
        [[92.0, 34, 116, 62], [150.0, 120, 170, 160]],
    ),
    (
        "larger",
        "Larger than the overlap: fragments that agree where tiles overlap are stitched",
        20,
        [[40.0, 30, 150, 70]],
    ),
    ("giant", "Larger than a tile, where four tiles meet", 20, [[25.0, 20, 215, 150]]),
    (
        "none",
        "No overlap: fragments on either side of an edge are stitched",
        0,
        [[60.0, 30, 250, 75], [30.0, 110, 60, 170]],
    ),
)


def draw_cases(folder: Path) -> list[Path]:
    """Write a picture of each case: without the border policy on the left, with it on the right."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_draw(folder / f"borders-{name}.svg", title, overlap, objects) for name, title, overlap, objects in CASES]


def _draw(path: Path, title: str, overlap: int, objects: list[list[float]]) -> Path:
    width, height = 3 * 100 - 2 * overlap, 2 * 100 - overlap
    grid, truth = make_grid(width, height, tile=100, overlap=overlap), np.array(objects, float)
    raw = Detections.concat(seen(truth, grid, np.random.default_rng(5)))
    shift, panels = width + 20, []
    for k, borders in enumerate((False, True)):
        kept = merge(raw, borders=borders, margin=MARGIN, gap=0.0 if overlap else 2 * MARGIN)
        body = [_rect((0, 0, width, height), 'fill="#f7f5f0" stroke="#999"')]
        body += [_rect(w, 'fill="none" stroke="#999" stroke-width=".6"') for w in _corners(grid)]
        body += [_rect(box, 'fill="#c8d4df" stroke="none"') for box in truth]
        body += [_rect(b, 'fill="none" stroke="#667" stroke-width=".6" stroke-dasharray="2 2"') for b in raw.boxes]
        body += [
            _rect(b, f'fill="none" stroke="{"#1a7f37" if borders else "#c0392b"}" stroke-width="2"') for b in kept.boxes
        ]
        caption = f"borders {'on' if borders else 'off'}: {len(raw)} boxes, {len(kept)} reported"
        body.append(f'<text x="0" y="{height + 14}" font-size="10" font-family="sans-serif">{caption}</text>')
        panels.append(f'<g transform="translate({k * shift + 10} 30)">{"".join(body)}</g>')
    # On white, so that the text can be read on dark pages.
    paper = '<rect width="100%" height="100%" fill="#fff"/>'
    head = f'{paper}<text x="10" y="18" font-size="12" font-family="sans-serif">{title}</text>'
    size = f'viewBox="0 0 {2 * shift} {height + 52}" width="{3 * shift}"'
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{head}{"".join(panels)}</svg>\n')
    return path


def _corners(grid: Grid) -> Boxes:
    windows = grid.windows_array().astype(float)
    windows[:, 2:] += windows[:, :2]
    return windows


def _rect(box: Iterable[float], style: str) -> str:
    x0, y0, x1, y1 = (round(float(v), 1) for v in box)
    return f'<rect x="{x0}" y="{y0}" width="{round(x1 - x0, 1)}" height="{round(y1 - y0, 1)}" {style}/>'
