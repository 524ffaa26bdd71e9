"""Things of a layout → the primitives that draw them, and their bounding boxes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from geosod.arrays import FloatArray, IntArray

#: Kinds of primitives. A HULL is a rectangle that tapers to a bow at +u; a ROOF has a lit and a dark side.
RECT, HULL, DISC, ROOF, WAKE, DASH = 0, 1, 2, 3, 4, 5

#: Kinds of things. The first three are the classes of the truth, in the order of its labels.
VESSEL, VEHICLE, TANK, ROAD, PAD, PIER, BUILDING, TREE = 0, 1, 2, 3, 4, 5, 6, 7

#: Columns of a primitive.
SHAPE_COLUMNS = (
    *("kind", "cx", "cy", "cos", "sin", "half_length", "half_width", "red", "green", "blue"),
    *("opacity", "grain", "extra", "softness"),
)

#: Where the hull of a vessel starts to taper, as a fraction of its half length.
_SHOULDER = 0.25
_TIP = 0.15

_HULLS = np.array([[236, 236, 232], [222, 226, 230], [240, 238, 224], [60, 70, 92], [150, 44, 38], [196, 200, 204]])
_DECKS = np.array([[206, 196, 172], [168, 128, 88], [214, 214, 210], [126, 148, 166], [188, 176, 150], [98, 112, 124]])
_PAINTS = np.array(
    [
        [236, 236, 234],
        [204, 206, 210],
        [28, 30, 34],
        [178, 34, 32],
        [34, 66, 150],
        [224, 222, 214],
        [152, 156, 162],
        [236, 234, 228],
        [58, 62, 70],
        [226, 178, 40],
        [196, 198, 200],
        [96, 28, 34],
    ]
)
_CARGO = np.array([[226, 226, 222], [52, 96, 156], [198, 92, 40], [238, 238, 236], [70, 128, 84], [186, 188, 190]])
_SHELLS = np.array([[232, 232, 226], [214, 216, 216], [240, 238, 230], [176, 138, 110], [196, 204, 196]])
_ROOFS = np.array([[168, 92, 70], [150, 84, 66], [128, 124, 122], [176, 112, 84], [108, 106, 110], [146, 138, 126]])


def true_boxes(things: dict[str, npt.NDArray[np.float64]]) -> FloatArray:
    """Bounding boxes (N, 4) float64, scene frame, tight on the outline of each thing (without its shadow and wake).

    Args:
        things: columns ``kind, cx, cy, half_length, half_width, angle``, each (N,); angles in radians.
    """
    cos, sin = np.cos(things["angle"]), np.sin(things["angle"])
    hl, hw = things["half_length"], things["half_width"]
    u = np.stack([-hl, -hl, hl, hl, hl, hl], axis=1)
    v = np.stack([-hw, hw, -hw, hw, -hw, hw], axis=1)
    hull = things["kind"] == VESSEL
    u[hull] = hl[hull, None] * np.array([-1, -1, _SHOULDER, _SHOULDER, 1, 1])
    v[hull] = hw[hull, None] * np.array([-1, 1, -1, 1, -_TIP, _TIP])
    x = things["cx"][:, None] + u * cos[:, None] - v * sin[:, None]
    y = things["cy"][:, None] + u * sin[:, None] + v * cos[:, None]
    boxes = np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], axis=1)
    disc = things["kind"] == TANK
    centre = np.stack([things["cx"], things["cy"]], axis=1)[disc]
    boxes[disc] = np.concatenate([centre - hl[disc, None], centre + hl[disc, None]], axis=1)
    return boxes


class _Brush:
    """Collects primitives of one kind of thing; `add` adds one primitive for each thing."""

    def __init__(self, things: dict[str, npt.NDArray[np.float64]]) -> None:
        self.t = things
        self.cos, self.sin = np.cos(things["angle"]), np.sin(things["angle"])
        self.parts: list[FloatArray] = []
        self.layers: list[IntArray] = []

    def add(
        self,
        kind: int,
        layer: int,
        colour: npt.ArrayLike,
        *,
        at: tuple[npt.ArrayLike, npt.ArrayLike] = (0.0, 0.0),
        shift: tuple[npt.ArrayLike, npt.ArrayLike] = (0.0, 0.0),
        size: tuple[npt.ArrayLike, npt.ArrayLike] = (1.0, 1.0),
        opacity: npt.ArrayLike = 1.0,
        grain: float = 2.0,
        extra: npt.ArrayLike = 0.0,
        soft: npt.ArrayLike = 1.0,
        keep: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """`at` moves along and across the thing and `size` scales it, in half sizes; `shift` is in pixels."""
        hl, hw = self.t["half_length"], self.t["half_width"]
        u, v = np.asarray(at[0]) * hl, np.asarray(at[1]) * hw
        cx = self.t["cx"] + u * self.cos - v * self.sin + np.asarray(shift[0])
        cy = self.t["cy"] + u * self.sin + v * self.cos + np.asarray(shift[1])
        rgb = np.broadcast_to(np.asarray(colour, float), (len(hl), 3))
        sizes = (hl * np.asarray(size[0]), hw * np.asarray(size[1]))
        columns = (kind, cx, cy, self.cos, self.sin, *sizes, *rgb.T, opacity, grain, extra, soft)
        part = np.stack([np.broadcast_to(np.asarray(c, float), hl.shape) for c in columns], axis=1)
        part = part if keep is None else part[keep]
        self.parts.append(part)
        self.layers.append(np.full(len(part), layer, np.int64))


def _vessels(b: _Brush) -> None:
    variant, hl = b.t["variant"], b.t["half_length"]
    moving = b.t["moving"] > 0
    pick = (variant * len(_HULLS)).astype(int)
    deck = _DECKS[(variant * 613).astype(int) % len(_DECKS)]
    extra = _SHOULDER
    b.add(WAKE, 3, (214, 226, 228), at=(-3.2, 0), size=(2.4, 2.2), opacity=0.55 * moving, keep=moving)
    b.add(HULL, 6, (8, 18, 26), shift=(0.06 * hl + 0.8, 0.06 * hl + 0.9), opacity=0.35, extra=extra, soft=1.6)
    b.add(HULL, 7, _HULLS[pick], extra=extra)
    big = hl > 5.0
    b.add(HULL, 8, deck, size=(0.84, 0.66), extra=extra, keep=big)
    long = hl > 14.0
    cabin = np.where(long, -0.5, -0.1)
    b.add(RECT, 9, (246, 246, 244), at=(cabin, 0), size=(np.where(long, 0.22, 0.28), 0.6), keep=big)
    b.add(RECT, 9, (58, 76, 92), at=(cabin + 0.2, 0), size=(0.06, 0.5), keep=big)
    small = ~big
    b.add(RECT, 8, (92, 88, 84), at=(-0.25, 0), size=(0.3, 0.5), opacity=0.8, keep=small)
    holds = long & (variant * 97 % 1 > 0.5)
    for place in (-0.08, 0.2):
        b.add(RECT, 9, (118, 84, 66), at=(place, 0), size=(0.11, 0.5), keep=holds)
    sails = big & ~long & (variant * 31 % 1 > 0.55)
    b.add(RECT, 10, (244, 244, 240), at=(0.05, 0), size=(0.5, 0.09), keep=sails)


def _vehicles(b: _Brush) -> None:
    variant, hl = b.t["variant"], b.t["half_length"]
    car = hl < 6.6
    lorry = ~car
    paint = _PAINTS[(variant * len(_PAINTS)).astype(int)]
    cargo = _CARGO[(variant * 389).astype(int) % len(_CARGO)]
    b.add(RECT, 6, (14, 16, 18), shift=(0.9, 1.1), opacity=0.45, soft=1.5)
    b.add(RECT, 7, np.where(car[:, None], paint, cargo), grain=1.0)
    glass = (42, 50, 60)
    b.add(RECT, 8, glass, at=(0.33, 0), size=(0.13, 0.74), opacity=0.85, keep=car)
    b.add(RECT, 8, glass, at=(-0.6, 0), size=(0.10, 0.7), opacity=0.7, keep=car)
    b.add(RECT, 8, paint, at=(0.84, 0), size=(0.16, 0.94), keep=lorry)
    b.add(RECT, 9, (52, 54, 58), at=(0.655, 0), size=(0.03, 0.9), keep=lorry)
    b.add(RECT, 9, glass, at=(0.93, 0), size=(0.05, 0.8), opacity=0.8, keep=lorry)


def _tanks(b: _Brush) -> None:
    variant, r = b.t["variant"], b.t["half_length"]
    shell = _SHELLS[(variant * len(_SHELLS)).astype(int)]
    b.add(DISC, 6, (26, 26, 28), shift=(0.22 * r + 0.6, 0.26 * r + 0.6), opacity=0.55, soft=1.6)
    b.add(DISC, 7, shell * 0.82, extra=-16.0)
    b.add(DISC, 8, shell, size=(np.maximum(0.86, 1 - 1.5 / r), 1.0), extra=-12.0)
    floating = (variant * 53 % 1 > 0.6) & (r > 7)
    b.add(DISC, 9, shell * 0.7, size=(0.72, 1.0), extra=14.0, keep=floating)
    b.add(DISC, 10, (120, 120, 118), size=(np.minimum(0.2, 1.4 / r), 1.0), opacity=0.7, keep=~floating & (r > 5))


def _roads(b: _Brush) -> None:
    b.add(RECT, 0, (134, 130, 122), size=(1.03, 1.28), opacity=0.75, soft=2.0)
    b.add(RECT, 1, (96, 97, 99), size=(1.03, 1.0), grain=3.0)
    b.add(DASH, 2, (196, 196, 190), size=(1.0, 0.07), opacity=0.7, extra=16.0)


def _pads(b: _Brush) -> None:
    """Car parks (variant below 0.5) are asphalt with lines; other pads are concrete with a kerb."""
    variant = b.t["variant"]
    park = variant < 0.5
    b.add(RECT, 0, np.where(park[:, None], (150, 148, 142), (168, 158, 140)), size=(1.03, 1.03), opacity=0.9)
    b.add(RECT, 1, np.where(park[:, None], (106, 107, 109), (182, 176, 164)), grain=3.5)
    b.add(RECT, 2, (196, 190, 176), size=(1.0, 0.03), opacity=0.6, keep=~park)


def _piers(b: _Brush) -> None:
    b.add(RECT, 1, (12, 26, 34), shift=(2.0, 2.4), opacity=0.4, soft=2.0)
    b.add(RECT, 2, (172, 162, 146), grain=4.0)
    b.add(RECT, 3, (192, 184, 168), size=(1.0, 0.55), grain=3.0)


def _buildings(b: _Brush) -> None:
    variant = b.t["variant"]
    roof = _ROOFS[(variant * len(_ROOFS)).astype(int)]
    tall = 3.0 + 6.0 * (variant * 71 % 1)
    b.add(RECT, 4, (22, 24, 26), shift=(tall, 1.2 * tall), opacity=0.5, soft=2.0)
    b.add(ROOF, 5, roof, grain=3.0, extra=-np.where(variant * 37 % 1 > 0.3, 14.0, 2.0))


def _trees(b: _Brush) -> None:
    variant, r = b.t["variant"], b.t["half_length"]
    shade = 26.0 * (variant[:, None] - 0.5)
    b.add(DISC, 4, (22, 28, 18), shift=(0.5 * r, 0.6 * r), opacity=0.45, soft=3.0)
    b.add(DISC, 5, np.array([62, 86, 48]) + shade, grain=11.0, extra=-15.0, soft=2.5)


_DRAWERS = {
    VESSEL: _vessels,
    VEHICLE: _vehicles,
    TANK: _tanks,
    ROAD: _roads,
    PAD: _pads,
    PIER: _piers,
    BUILDING: _buildings,
    TREE: _trees,
}


def draw(things: dict[str, npt.NDArray[np.float64]]) -> FloatArray:
    """Primitives (P, 14) float64 in paint order, columns as in `SHAPE_COLUMNS`.

    Args:
        things: columns ``kind, cx, cy, half_length, half_width, angle, variant, moving``, each (N,).
    """
    shapes, layers = [np.empty((0, len(SHAPE_COLUMNS)))], [np.empty(0, np.int64)]
    for kind, drawer in _DRAWERS.items():
        chosen = things["kind"] == kind
        brush = _Brush({name: column[chosen] for name, column in things.items()})
        drawer(brush)
        shapes += brush.parts
        layers += brush.layers
    order = np.argsort(np.concatenate(layers), kind="stable")
    return np.ascontiguousarray(np.concatenate(shapes)[order])
