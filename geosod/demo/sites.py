"""Proposals for what stands where: harbours, towns, tank farms, roads and what moves on them.

A proposal may stand in water, in cloud or in another's way; the layout decides which of them stay.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from geosod.demo.sprites import BUILDING, PAD, PIER, ROAD, TANK, TREE, VEHICLE, VESSEL
from geosod.demo.terrain import Terrain, survey, urbanity
from geosod.types import FloatArray

#: Ground that a thing needs under all its corners.
ANY, LAND, WATER = 0.0, 1.0, 2.0

COLUMNS = (
    *("kind", "cx", "cy", "half_length", "half_width", "angle", "look", "moving"),
    *("surface", "group", "parent"),
)

_SITE = 512
_CELL = 1024
#: Columns and rows of centres must differ by this much somewhere, or the network's peaks would merge.
_PITCH = 8.3


class Draft:
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
        look: npt.ArrayLike,
        surface: float = LAND,
        moving: npt.ArrayLike = 0.0,
        parent: npt.ArrayLike = -1.0,
    ) -> int:
        """Append things of one kind; returns the index of the first. `parent` must stay for the child to stay."""
        columns = np.broadcast_arrays(
            *np.atleast_1d(kind, x, y, half[0], half[1], angle, look, moving, surface, self.group, parent)
        )
        first = self._count
        self._parts.append(np.stack(columns, axis=1).astype(np.float64))
        self._count += len(self._parts[-1])
        return first

    def table(self) -> dict[str, FloatArray]:
        """All proposals, one array a column of `COLUMNS`."""
        rows = np.concatenate(self._parts) if self._parts else np.empty((0, len(COLUMNS)))
        return {name: np.ascontiguousarray(rows[:, i]) for i, name in enumerate(COLUMNS)}


def _place(x: float, y: float, angle: float, u: npt.ArrayLike, v: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Points given along and across an axis through (x, y)."""
    u, v = np.asarray(u, float), np.asarray(v, float)
    return x + u * math.cos(angle) - v * math.sin(angle), y + u * math.sin(angle) + v * math.cos(angle)


def _pitch(least: float, direction: float) -> float:
    return max(least, _PITCH / max(abs(math.cos(direction)), abs(math.sin(direction))))


def _car_sizes(rng: np.random.Generator, n: int) -> tuple[FloatArray, FloatArray]:
    length = rng.uniform(6.2, 11.0, n)
    return length / 2, length * rng.uniform(0.44, 0.52, n) / 2


def _lorry_sizes(rng: np.random.Generator, n: int) -> tuple[FloatArray, FloatArray]:
    length = 13.5 + 26.0 * rng.random(n) ** 1.6
    return length / 2, np.clip(length * rng.uniform(0.26, 0.4, n), 5.5, 7.4) / 2


def _boat_sizes(rng: np.random.Generator, n: int, low: float, high: float) -> tuple[FloatArray, FloatArray]:
    length = low + (high - low) * rng.random(n) ** 1.5
    return length / 2, length * np.clip(rng.normal(0.37, 0.04, n) - 0.0022 * length, 0.22, 0.45) / 2


def car_park(
    draft: Draft, rng: np.random.Generator, x: float, y: float, angle: float, *, most: tuple[int, int] = (18, 3)
) -> None:
    """Rows of parked cars on asphalt, a few stalls empty; `most` is stalls in a row and pairs of rows."""
    cols, lanes = int(rng.integers(6, most[0] + 1)), int(rng.integers(1, most[1] + 1))
    pitch = _pitch(9.0, angle)
    lane = 34.0
    half = (cols * pitch / 2 + 5.0, lanes * lane / 2 + 3.0)
    pad = draft.add(PAD, x, y, half=half, angle=angle, look=0.2)
    u, v = np.meshgrid((np.arange(cols) - (cols - 1) / 2) * pitch, (np.arange(2 * lanes) - lanes + 0.5) * lane / 2)
    v = v + np.where(np.arange(2 * lanes) % 2, 3.0, -3.0)[:, None]
    full = rng.random(u.shape) < rng.uniform(0.45, 0.9)
    n = int(full.sum())
    px, py = _place(x, y, angle, u[full], v[full] + rng.normal(0, 0.5, n))
    turn = angle + math.pi / 2 + math.pi * rng.integers(0, 2, n) + rng.normal(0, 0.03, n)
    draft.add(VEHICLE, px, py, half=_car_sizes(rng, n), angle=turn, look=rng.random(n), surface=ANY, parent=pad)


def lorry_park(draft: Draft, rng: np.random.Generator, x: float, y: float, angle: float) -> None:
    """A concrete yard with lorries side by side."""
    cols = int(rng.integers(4, 10))
    pitch = _pitch(13.0, angle)
    pad = draft.add(PAD, x, y, half=(cols * pitch / 2 + 6, 27.0), angle=angle, look=0.7)
    full = rng.random(cols) < 0.75
    n = int(full.sum())
    px, py = _place(x, y, angle, ((np.arange(cols) - (cols - 1) / 2) * pitch)[full], rng.normal(0, 1.5, n))
    turn = angle + math.pi / 2 + math.pi * rng.integers(0, 2, n)
    draft.add(VEHICLE, px, py, half=_lorry_sizes(rng, n), angle=turn, look=rng.random(n), surface=ANY, parent=pad)


def tank_farm(draft: Draft, rng: np.random.Generator, x: float, y: float, angle: float) -> None:
    """Storage tanks of one size in a grid on a concrete pad."""
    radius = float(rng.choice([4.2, 6.0, 9.0, 14.0, 20.0, 28.0]))
    cols = int(rng.integers(2, 3 + int(min(6, 130 / (2.6 * radius)))))
    rows = int(rng.integers(1, 3 + int(min(3, 60 / (2.6 * radius)))))
    pitch = _pitch(2.75 * radius, angle)
    half = (cols * pitch / 2 + 4.0, rows * pitch / 2 + 4.0)
    pad = draft.add(PAD, x, y, half=half, angle=angle, look=0.8)
    u, v = np.meshgrid((np.arange(cols) - (cols - 1) / 2) * pitch, (np.arange(rows) - (rows - 1) / 2) * pitch)
    keep = rng.random(u.shape) < 0.9
    n = int(keep.sum())
    px, py = _place(x, y, angle, u[keep], v[keep])
    r = radius * np.where(rng.random(n) < 0.2, rng.uniform(0.75, 1.0, n), 1.0)
    look = (rng.random() + rng.normal(0, 0.04, n)) % 1.0
    draft.add(TANK, px, py, half=(r, r), angle=0.0, look=look, surface=ANY, parent=pad)


def town(draft: Draft, rng: np.random.Generator, x: float, y: float, angle: float) -> None:
    """A street with side streets, houses, trees, parked and moving cars."""
    draft.add(ROAD, x, y, half=(215.0, 7.0), angle=angle, look=0.5)
    for u in (-130.0, 0.0, 130.0):
        sx, sy = _place(x, y, angle, u, 0.0)
        draft.add(ROAD, sx, sy, half=(150.0, 6.0), angle=angle + math.pi / 2, look=0.5)
    _traffic(draft, rng, (x, y, angle), 215.0, 7)
    for u in (-130.0, 0.0, 130.0):
        sx, sy = _place(x, y, angle, u, 0.0)
        _traffic(draft, rng, (float(sx), float(sy), angle + math.pi / 2), 140.0, 4)
    if rng.random() < 0.5:
        px, py = _place(x, y, angle, rng.choice([-65.0, 65.0]), rng.choice([-60.0, 60.0]))
        draft.group += 1
        car_park(draft, rng, float(px), float(py), angle, most=(9, 2))
    draft.group += 1
    n = 34
    u = rng.choice([-180.0, -105.0, -65.0, -28.0, 28.0, 65.0, 105.0, 180.0], n) + rng.normal(0, 6, n)
    v = rng.choice([-130.0, -92.0, -42.0, 42.0, 92.0, 130.0], n) + rng.normal(0, 6, n)
    turn = angle + rng.integers(0, 2, n) * math.pi / 2
    hx, hy = _place(x, y, angle, u, v)
    draft.add(BUILDING, hx, hy, half=(rng.uniform(11, 24, n), rng.uniform(9, 14, n)), angle=turn, look=rng.random(n))
    _trees(draft, rng, x, y, 40)


def _trees(draft: Draft, rng: np.random.Generator, x: float, y: float, n: int) -> None:
    r = rng.uniform(3.0, 7.5, n)
    tx, ty = x + rng.uniform(-220, 220, n), y + rng.uniform(-220, 220, n)
    draft.add(TREE, tx, ty, half=(r, r), angle=0.0, look=rng.random(n))


def _traffic(draft: Draft, rng: np.random.Generator, axis: tuple[float, float, float], reach: float, n: int) -> None:
    """Vehicles on both lanes of a straight road of half length `reach`."""
    x, y, angle = axis
    lane = rng.choice([-1.0, 1.0], n)
    px, py = _place(x, y, angle, rng.uniform(-reach, reach, n), 3.2 * lane)
    long, wide = _car_sizes(rng, n)
    heavy = rng.random(n) < 0.18
    lorry = _lorry_sizes(rng, n)
    half = np.where(heavy, lorry[0], long), np.minimum(np.where(heavy, lorry[1], wide), 2.9)
    turn = angle + np.where(lane > 0, 0.0, math.pi) + rng.normal(0, 0.02, n)
    draft.add(VEHICLE, px, py, half=half, angle=turn, look=rng.random(n))


def marina(draft: Draft, rng: np.random.Generator, x: float, y: float, out: float) -> None:
    """A pier from the shore at (x, y) in direction `out`, with boats side by side."""
    reach = float(rng.uniform(110, 230))
    long = float(rng.uniform(14, 34))
    for side in (0.0, 1.0) if rng.random() < 0.6 else (0.0,):
        bx, by = _place(x, y, out, 0.0, side * (2.4 * long + 26.0))
        cx, cy = _place(float(bx), float(by), out, reach / 2 - 20.0, 0.0)
        pier = draft.add(PIER, cx, cy, half=(reach / 2 + 20.0, 4.0), angle=out, look=0.5, surface=ANY)
        pitch = _pitch(0.36 * long + 3.5, out)
        u = np.arange(24.0, reach, pitch)
        u, v = np.meshgrid(u, np.array([-1.0, 1.0]))
        full = rng.random(u.shape) < 0.8
        n = int(full.sum())
        half = _boat_sizes(rng, n, 0.6 * long, 1.12 * long)
        px, py = _place(float(bx), float(by), out, u[full], v[full] * (half[0] + 5.5))
        turn = out + np.where(v[full] > 0, math.pi / 2, -math.pi / 2) + math.pi * (rng.random(n) < 0.3)
        turn = turn + rng.normal(0, 0.03, n)
        draft.add(VESSEL, px, py, half=half, angle=turn, look=rng.random(n), surface=WATER, parent=pier)


def quay(draft: Draft, rng: np.random.Generator, x: float, y: float, out: float) -> None:
    """A wharf along the shore with ships alongside, and sheds, tanks or vehicles behind."""
    along = out + math.pi / 2
    half = float(rng.uniform(90, 170))
    pad = draft.add(PAD, x, y, half=(half, 34.0), angle=along, look=0.9, surface=ANY)
    u = -half + 34.0
    while u < half - 30.0:
        (hl,), (hw,) = _boat_sizes(rng, 1, 24.0, 58.0)
        sx, sy = _place(x, y, out, 34.0 + hw + 1.5, u)
        turn = along + math.pi * rng.integers(0, 2)
        draft.add(VESSEL, sx, sy, half=(hl, hw), angle=turn, look=rng.random(), surface=WATER, parent=pad)
        u += 2 * hl + 9.0 + 30.0 * rng.random()
    n = 5
    bx, by = _place(x, y, out, -16.0, rng.uniform(-half + 24, half - 24, n))
    draft.group += 1
    sheds = (rng.uniform(16, 30, n), rng.uniform(9, 11, n))
    draft.add(BUILDING, bx, by, half=sheds, angle=along, look=rng.random(n), surface=ANY, parent=pad)
    draft.group += 1
    n = 12
    vx, vy = _place(x, y, out, rng.uniform(2, 28, n), rng.uniform(-half + 8, half - 8, n))
    heavy = rng.random(n) < 0.5
    car, lorry = _car_sizes(rng, n), _lorry_sizes(rng, n)
    sizes = np.where(heavy, lorry[0], car[0]), np.where(heavy, lorry[1], car[1])
    turn = along + rng.normal(0, 0.4, n)
    draft.add(VEHICLE, vx, vy, half=sizes, angle=turn, look=rng.random(n), surface=ANY, parent=pad)
    back = _place(x, y, out, -150.0, rng.uniform(-60, 60))
    draft.group += 1
    rng.choice([tank_farm, lorry_park, car_park])(draft, rng, float(back[0]), float(back[1]), along)  # type: ignore[arg-type]


def open_water(draft: Draft, rng: np.random.Generator, x: float, y: float) -> None:
    """Vessels under way, each alone, or an anchorage swinging to one wind."""
    anchored = rng.random() < 0.2
    n = int(rng.integers(8, 18)) if anchored else int(rng.integers(1, 6))
    reach = 90.0 if anchored else 235.0
    half = _boat_sizes(rng, n, 8.0, 40.0 if anchored else 60.0)
    turn = rng.uniform(0, 2 * math.pi) + rng.normal(0, 0.12, n) if anchored else rng.uniform(0, 2 * math.pi, n)
    px, py = x + rng.uniform(-reach, reach, n), y + rng.uniform(-reach, reach, n)
    moving = 0.0 if anchored else (rng.random(n) < 0.7).astype(float)
    draft.add(VESSEL, px, py, half=half, angle=turn, look=rng.random(n), surface=WATER, moving=moving)


def countryside(draft: Draft, rng: np.random.Generator, x: float, y: float) -> None:
    """Farms: a barn or two, trees, a tank, a few vehicles."""
    fx, fy = x + rng.uniform(-150, 150), y + rng.uniform(-150, 150)
    angle = rng.uniform(0, math.pi)
    n = int(rng.integers(1, 4))
    bx, by = _place(fx, fy, angle, rng.uniform(-50, 50, n), rng.uniform(-45, 45, n))
    draft.group += 1
    half = (rng.uniform(14, 30, n), rng.uniform(9, 13, n))
    draft.add(BUILDING, bx, by, half=half, angle=angle, look=rng.random(n))
    draft.group += 1
    n = int(rng.integers(1, 5))
    vx, vy = _place(fx, fy, angle, rng.uniform(-80, 80, n), rng.uniform(-70, 70, n))
    draft.add(VEHICLE, vx, vy, half=_car_sizes(rng, n), angle=rng.uniform(0, 6.3, n), look=rng.random(n))
    draft.group += 1
    n = int(rng.integers(0, 4))
    r = rng.uniform(4.0, 9.0, n)
    tx, ty = _place(fx, fy, angle, rng.uniform(-60, 60, n), rng.uniform(-60, 60, n))
    if n:
        draft.add(TANK, tx, ty, half=(r, r), angle=0.0, look=rng.random(n))
    draft.group += 1
    _trees(draft, rng, x, y, 14)


def roads(draft: Draft, rng: np.random.Generator, size: int) -> None:
    """A winding network over jittered nodes, one to a cell, with traffic. All of it is group 0."""
    cells = size // _CELL
    if cells < 2:
        return
    pitch = size / cells
    node = (np.stack(np.mgrid[0:cells, 0:cells], axis=-1) + 0.5) * pitch + rng.uniform(-60, 60, (cells, cells, 2))
    steps = int(pitch // 64)
    t = np.linspace(0.0, 1.0, steps + 1)
    for dr, dc in ((0, 1), (1, 0)):
        for r, c in np.ndindex(cells - dr, cells - dc):
            bend = rng.uniform(-60, 60)
            if rng.random() < 0.25:
                continue
            a, b = node[r, c], node[r + dr, c + dc]
            path = a + (b - a) * t[:, None] + bend * np.sin(math.pi * t)[:, None] ** 2 * np.array([dc, dr])
            _road(draft, rng, path)


def _road(draft: Draft, rng: np.random.Generator, path: FloatArray) -> None:
    """One winding road through (N, 2) points given as y, x."""
    a, b = path[:-1], path[1:]
    middle, step = (a + b) / 2, b - a
    angle, reach = np.arctan2(step[:, 0], step[:, 1]), np.hypot(step[:, 0], step[:, 1]) / 2
    first = draft.add(ROAD, middle[:, 1], middle[:, 0], half=(reach + 3.0, 7.0), angle=angle, look=0.5)
    n = int(rng.integers(3, 16))
    at = rng.integers(0, len(reach), n)
    lane = rng.choice([-1.0, 1.0], n)
    u = rng.uniform(-1, 1, n) * reach[at]
    cos, sin = np.cos(angle[at]), np.sin(angle[at])
    x, y = middle[at, 1] + u * cos - 3.3 * lane * sin, middle[at, 0] + u * sin + 3.3 * lane * cos
    heavy = rng.random(n) < 0.2
    car, lorry = _car_sizes(rng, n), _lorry_sizes(rng, n)
    half = np.where(heavy, lorry[0], car[0]), np.minimum(np.where(heavy, lorry[1], car[1]), 2.9)
    turn = angle[at] + np.where(lane > 0, 0.0, math.pi)
    draft.add(VEHICLE, x, y, half=half, angle=turn, look=rng.random(n), surface=ANY, parent=first + at)


def _shore(grid: FloatArray, rng: np.random.Generator) -> tuple[int, int, float] | None:
    """A node next to the water's edge in a grid of heights, and the direction out to sea; None without a shore."""
    level = np.abs(grid[1:-1, 1:-1])
    edge = (grid[1:-1, 1:-1] > 0) & (np.minimum(grid[:-2, 1:-1], grid[2:, 1:-1]).clip(max=grid[1:-1, 2:]) < 0)
    rows, cols = np.nonzero(edge & (level < 0.05))
    if len(rows) < 3:
        return None
    k = int(rng.integers(len(rows)))
    r, c = int(rows[k]) + 1, int(cols[k]) + 1
    window = grid[max(0, r - 3) : r + 4, max(0, c - 3) : c + 4]
    gy, gx = (float(g.mean()) for g in np.gradient(window))
    return r, c, math.atan2(-gy, -gx)


def _settle(draft: Draft, rng: np.random.Generator, terrain: Terrain, centre: tuple[float, float]) -> None:
    """Propose what suits the ground of one site."""
    x, y = centre
    draft.group += 1
    nodes = np.arange(-192, 193, 24.0)
    gx, gy = np.meshgrid(x + nodes, y + nodes)
    height = survey(terrain, np.stack([gx.ravel(), gy.ravel()], axis=1))[0].reshape(gx.shape)
    shore = _shore(height, rng)
    if shore is not None and rng.random() < 0.85:
        sx, sy = float(gx[shore[0], shore[1]]), float(gy[shore[0], shore[1]])
        build = marina if rng.random() < 0.6 else quay
        build(draft, rng, sx, sy, shore[2])
        draft.group += 1
    land = float((height > 0.01).mean())
    if land < 0.4:
        if rng.random() < 0.75:
            open_water(draft, rng, x, y)
        return
    angle = float(rng.uniform(0, math.pi))
    if urbanity(terrain, x, y) > 0.0:
        choice = rng.random()
        build = town if choice < 0.5 else car_park if choice < 0.68 else lorry_park if choice < 0.76 else tank_farm
        build(draft, rng, x, y, angle)
        if build is not town:
            draft.group += 1
            _trees(draft, rng, x, y, 24)
    elif rng.random() < 0.6:
        countryside(draft, rng, x, y)
    elif rng.random() < 0.3:
        tank_farm(draft, rng, x, y, angle)


def propose(terrain: Terrain, size: int, rng: np.random.Generator) -> dict[str, FloatArray]:
    """Everything that could stand in the scene, in order of precedence: roads, then site by site.

    Returns:
        One float64 array a name of `COLUMNS`: kind; centre and half sizes in pixels of the scene frame; angle
        in radians; look and moving, which choose the appearance; surface; group, within which things may
        touch; and parent, the index of the thing that a thing stands on, or -1.
    """
    draft = Draft()
    roads(draft, rng, size)
    sites = size // _SITE
    pitch = size / sites
    for r, c in np.ndindex(sites, sites):
        jitter = rng.uniform(-30, 30, 2)
        _settle(draft, rng, terrain, ((c + 0.5) * pitch + jitter[0], (r + 0.5) * pitch + jitter[1]))
    return draft.table()
