"""Harbours, towns and farms with their parts, each proposed around a point."""

from __future__ import annotations

import math

import numpy as np

from geosod.demo.proposals import ANY, WATER, Proposals, boat_sizes, car_sizes, lorry_sizes, min_spacing, offset_points
from geosod.demo.sprites import BUILDING, PAD, PIER, ROAD, TANK, TREE, VEHICLE, VESSEL


def car_park(
    proposals: Proposals,
    rng: np.random.Generator,
    x: float,
    y: float,
    angle: float,
    *,
    max_stalls: tuple[int, int] = (18, 3),
) -> None:
    """Rows of parked cars on asphalt, a few stalls empty; `max_stalls`: stalls in a row, and pairs of rows."""
    cols, lanes = int(rng.integers(6, max_stalls[0] + 1)), int(rng.integers(1, max_stalls[1] + 1))
    step = min_spacing(9.0, angle)
    lane = 34.0
    half = (cols * step / 2 + 5.0, lanes * lane / 2 + 3.0)
    pad = proposals.add(PAD, x, y, half=half, angle=angle, variant=0.2)
    u, v = np.meshgrid((np.arange(cols) - (cols - 1) / 2) * step, (np.arange(2 * lanes) - lanes + 0.5) * lane / 2)
    v = v + np.where(np.arange(2 * lanes) % 2, 3.0, -3.0)[:, None]
    full = rng.random(u.shape) < rng.uniform(0.45, 0.9)
    n = int(full.sum())
    px, py = offset_points(x, y, angle, u[full], v[full] + rng.normal(0, 0.5, n))
    heading = angle + math.pi / 2 + math.pi * rng.integers(0, 2, n) + rng.normal(0, 0.03, n)
    proposals.add(
        VEHICLE, px, py, half=car_sizes(rng, n), angle=heading, variant=rng.random(n), surface=ANY, parent=pad
    )


def lorry_park(proposals: Proposals, rng: np.random.Generator, x: float, y: float, angle: float) -> None:
    """A concrete yard with lorries side by side."""
    cols = int(rng.integers(4, 10))
    step = min_spacing(13.0, angle)
    pad = proposals.add(PAD, x, y, half=(cols * step / 2 + 6, 27.0), angle=angle, variant=0.7)
    full = rng.random(cols) < 0.75
    n = int(full.sum())
    px, py = offset_points(x, y, angle, ((np.arange(cols) - (cols - 1) / 2) * step)[full], rng.normal(0, 1.5, n))
    heading = angle + math.pi / 2 + math.pi * rng.integers(0, 2, n)
    proposals.add(
        VEHICLE, px, py, half=lorry_sizes(rng, n), angle=heading, variant=rng.random(n), surface=ANY, parent=pad
    )


def tank_farm(proposals: Proposals, rng: np.random.Generator, x: float, y: float, angle: float) -> None:
    """Storage tanks of one size in a grid on a concrete pad."""
    radius = float(rng.choice([4.2, 6.0, 9.0, 14.0, 20.0, 28.0]))
    cols = int(rng.integers(2, 3 + int(min(6, 130 / (2.6 * radius)))))
    rows = int(rng.integers(1, 3 + int(min(3, 60 / (2.6 * radius)))))
    step = min_spacing(2.75 * radius, angle)
    half = (cols * step / 2 + 4.0, rows * step / 2 + 4.0)
    pad = proposals.add(PAD, x, y, half=half, angle=angle, variant=0.8)
    u, v = np.meshgrid((np.arange(cols) - (cols - 1) / 2) * step, (np.arange(rows) - (rows - 1) / 2) * step)
    keep = rng.random(u.shape) < 0.9
    n = int(keep.sum())
    px, py = offset_points(x, y, angle, u[keep], v[keep])
    r = radius * np.where(rng.random(n) < 0.2, rng.uniform(0.75, 1.0, n), 1.0)
    variant = (rng.random() + rng.normal(0, 0.04, n)) % 1.0
    proposals.add(TANK, px, py, half=(r, r), angle=0.0, variant=variant, surface=ANY, parent=pad)


def town(proposals: Proposals, rng: np.random.Generator, x: float, y: float, angle: float) -> None:
    """A street with side streets, houses, trees, parked and moving cars."""
    proposals.add(ROAD, x, y, half=(215.0, 7.0), angle=angle, variant=0.5)
    for u in (-130.0, 0.0, 130.0):
        sx, sy = offset_points(x, y, angle, u, 0.0)
        proposals.add(ROAD, sx, sy, half=(150.0, 6.0), angle=angle + math.pi / 2, variant=0.5)
    traffic(proposals, rng, (x, y, angle), 215.0, 7)
    for u in (-130.0, 0.0, 130.0):
        sx, sy = offset_points(x, y, angle, u, 0.0)
        traffic(proposals, rng, (float(sx), float(sy), angle + math.pi / 2), 140.0, 4)
    if rng.random() < 0.5:
        px, py = offset_points(x, y, angle, rng.choice([-65.0, 65.0]), rng.choice([-60.0, 60.0]))
        proposals.group += 1
        car_park(proposals, rng, float(px), float(py), angle, max_stalls=(9, 2))
    proposals.group += 1
    n = 34
    us = rng.choice([-180.0, -105.0, -65.0, -28.0, 28.0, 65.0, 105.0, 180.0], n) + rng.normal(0, 6, n)
    vs = rng.choice([-130.0, -92.0, -42.0, 42.0, 92.0, 130.0], n) + rng.normal(0, 6, n)
    heading = angle + rng.integers(0, 2, n) * math.pi / 2
    hx, hy = offset_points(x, y, angle, us, vs)
    proposals.add(
        BUILDING, hx, hy, half=(rng.uniform(11, 24, n), rng.uniform(9, 14, n)), angle=heading, variant=rng.random(n)
    )
    trees(proposals, rng, x, y, 40)


def trees(proposals: Proposals, rng: np.random.Generator, x: float, y: float, n: int) -> None:
    """Single trees around a point."""
    r = rng.uniform(3.0, 7.5, n)
    tx, ty = x + rng.uniform(-220, 220, n), y + rng.uniform(-220, 220, n)
    proposals.add(TREE, tx, ty, half=(r, r), angle=0.0, variant=rng.random(n))


def traffic(
    proposals: Proposals, rng: np.random.Generator, axis: tuple[float, float, float], reach: float, n: int
) -> None:
    """Vehicles on both lanes of a straight road of half length `reach`."""
    x, y, angle = axis
    lane = rng.choice([-1.0, 1.0], n)
    px, py = offset_points(x, y, angle, rng.uniform(-reach, reach, n), 3.2 * lane)
    long, wide = car_sizes(rng, n)
    heavy = rng.random(n) < 0.18
    lorry = lorry_sizes(rng, n)
    half = np.where(heavy, lorry[0], long), np.minimum(np.where(heavy, lorry[1], wide), 2.9)
    heading = angle + np.where(lane > 0, 0.0, math.pi) + rng.normal(0, 0.02, n)
    proposals.add(VEHICLE, px, py, half=half, angle=heading, variant=rng.random(n))


def marina(proposals: Proposals, rng: np.random.Generator, x: float, y: float, out: float) -> None:
    """A pier from the shore at (x, y) in direction `out`, with boats side by side."""
    reach = float(rng.uniform(110, 230))
    long = float(rng.uniform(14, 34))
    for side in (0.0, 1.0) if rng.random() < 0.6 else (0.0,):
        bx, by = offset_points(x, y, out, 0.0, side * (2.4 * long + 26.0))
        cx, cy = offset_points(float(bx), float(by), out, reach / 2 - 20.0, 0.0)
        pier = proposals.add(PIER, cx, cy, half=(reach / 2 + 20.0, 4.0), angle=out, variant=0.5, surface=ANY)
        step = min_spacing(0.36 * long + 3.5, out)
        u = np.arange(24.0, reach, step)
        u, v = np.meshgrid(u, np.array([-1.0, 1.0]))
        full = rng.random(u.shape) < 0.8
        n = int(full.sum())
        half = boat_sizes(rng, n, 0.6 * long, 1.12 * long)
        px, py = offset_points(float(bx), float(by), out, u[full], v[full] * (half[0] + 5.5))
        heading = out + np.where(v[full] > 0, math.pi / 2, -math.pi / 2) + math.pi * (rng.random(n) < 0.3)
        heading = heading + rng.normal(0, 0.03, n)
        proposals.add(VESSEL, px, py, half=half, angle=heading, variant=rng.random(n), surface=WATER, parent=pier)


def quay(proposals: Proposals, rng: np.random.Generator, x: float, y: float, out: float) -> None:
    """A wharf along the shore with ships alongside, and sheds, tanks or vehicles behind."""
    along = out + math.pi / 2
    half = float(rng.uniform(90, 170))
    pad = proposals.add(PAD, x, y, half=(half, 34.0), angle=along, variant=0.9, surface=ANY)
    u = -half + 34.0
    while u < half - 30.0:
        (hl,), (hw,) = boat_sizes(rng, 1, 24.0, 58.0)
        sx, sy = offset_points(x, y, out, 34.0 + hw + 1.5, u)
        heading = along + math.pi * rng.integers(0, 2)
        proposals.add(VESSEL, sx, sy, half=(hl, hw), angle=heading, variant=rng.random(), surface=WATER, parent=pad)
        u += 2 * hl + 9.0 + 30.0 * rng.random()
    n = 5
    bx, by = offset_points(x, y, out, -16.0, rng.uniform(-half + 24, half - 24, n))
    proposals.group += 1
    sheds = (rng.uniform(16, 30, n), rng.uniform(9, 11, n))
    proposals.add(BUILDING, bx, by, half=sheds, angle=along, variant=rng.random(n), surface=ANY, parent=pad)
    proposals.group += 1
    n = 12
    vx, vy = offset_points(x, y, out, rng.uniform(2, 28, n), rng.uniform(-half + 8, half - 8, n))
    heavy = rng.random(n) < 0.5
    car, lorry = car_sizes(rng, n), lorry_sizes(rng, n)
    sizes = np.where(heavy, lorry[0], car[0]), np.where(heavy, lorry[1], car[1])
    askew = along + rng.normal(0, 0.4, n)
    proposals.add(VEHICLE, vx, vy, half=sizes, angle=askew, variant=rng.random(n), surface=ANY, parent=pad)
    back = offset_points(x, y, out, -150.0, rng.uniform(-60, 60))
    proposals.group += 1
    (tank_farm, lorry_park, car_park)[int(rng.integers(3))](proposals, rng, float(back[0]), float(back[1]), along)


def open_water(proposals: Proposals, rng: np.random.Generator, x: float, y: float) -> None:
    """Separate vessels, most of them moving, or a group at anchor with similar headings."""
    anchored = rng.random() < 0.2
    n = int(rng.integers(8, 18)) if anchored else int(rng.integers(1, 6))
    reach = 90.0 if anchored else 235.0
    half = boat_sizes(rng, n, 8.0, 40.0 if anchored else 60.0)
    heading = rng.uniform(0, 2 * math.pi) + rng.normal(0, 0.12, n) if anchored else rng.uniform(0, 2 * math.pi, n)
    px, py = x + rng.uniform(-reach, reach, n), y + rng.uniform(-reach, reach, n)
    moving = 0.0 if anchored else (rng.random(n) < 0.7).astype(float)
    proposals.add(VESSEL, px, py, half=half, angle=heading, variant=rng.random(n), surface=WATER, moving=moving)


def countryside(proposals: Proposals, rng: np.random.Generator, x: float, y: float) -> None:
    """Farms: a barn or two, trees, a tank, a few vehicles."""
    fx, fy = x + rng.uniform(-150, 150), y + rng.uniform(-150, 150)
    angle = rng.uniform(0, math.pi)
    n = int(rng.integers(1, 4))
    bx, by = offset_points(fx, fy, angle, rng.uniform(-50, 50, n), rng.uniform(-45, 45, n))
    proposals.group += 1
    half = (rng.uniform(14, 30, n), rng.uniform(9, 13, n))
    proposals.add(BUILDING, bx, by, half=half, angle=angle, variant=rng.random(n))
    proposals.group += 1
    n = int(rng.integers(1, 5))
    vx, vy = offset_points(fx, fy, angle, rng.uniform(-80, 80, n), rng.uniform(-70, 70, n))
    proposals.add(VEHICLE, vx, vy, half=car_sizes(rng, n), angle=rng.uniform(0, 6.3, n), variant=rng.random(n))
    proposals.group += 1
    n = int(rng.integers(0, 4))
    r = rng.uniform(4.0, 9.0, n)
    tx, ty = offset_points(fx, fy, angle, rng.uniform(-60, 60, n), rng.uniform(-60, 60, n))
    if n:
        proposals.add(TANK, tx, ty, half=(r, r), angle=0.0, variant=rng.random(n))
    proposals.group += 1
    trees(proposals, rng, x, y, 14)
