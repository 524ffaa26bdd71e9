"""Proposes what could stand where: a network of roads, and on every site things that suit its ground.

A proposal may lie in water, under cloud or on top of another; `geosod.demo.layout` decides which are kept.
"""

from __future__ import annotations

import math

import numpy as np

from geosod.arrays import FloatArray
from geosod.demo.proposals import ANY, Proposals, car_sizes, lorry_sizes
from geosod.demo.sprites import ROAD, VEHICLE
from geosod.demo.structures import (
    car_park,
    countryside,
    lorry_park,
    marina,
    open_water,
    quay,
    tank_farm,
    town,
    trees,
)
from geosod.demo.terrain import Terrain, sample_terrain, urbanity

_SITE = 512
_CELL = 1024


def roads(proposals: Proposals, rng: np.random.Generator, size: int) -> None:
    """A winding network over jittered nodes, one per cell, with traffic. All of it is group 0."""
    cells = size // _CELL
    if cells < 2:
        return
    pitch = size / cells
    node = (np.moveaxis(np.mgrid[0:cells, 0:cells], 0, -1) + 0.5) * pitch + rng.uniform(-60, 60, (cells, cells, 2))
    steps = int(pitch // 64)
    t = np.linspace(0.0, 1.0, steps + 1)
    for dr, dc in ((0, 1), (1, 0)):
        for r, c in np.ndindex(cells - dr, cells - dc):
            bend = rng.uniform(-60, 60)
            if rng.random() < 0.25:
                continue
            a, b = node[r, c], node[r + dr, c + dc]
            path = a + (b - a) * t[:, None] + bend * np.sin(math.pi * t)[:, None] ** 2 * np.array([dc, dr])
            _road(proposals, rng, path)


def _road(proposals: Proposals, rng: np.random.Generator, path: FloatArray) -> None:
    """One winding road through (N, 2) points ``y, x``."""
    a, b = path[:-1], path[1:]
    middle, step = (a + b) / 2, b - a
    angle, reach = np.arctan2(step[:, 0], step[:, 1]), np.hypot(step[:, 0], step[:, 1]) / 2
    first = proposals.add(ROAD, middle[:, 1], middle[:, 0], half=(reach + 3.0, 7.0), angle=angle, variant=0.5)
    n = int(rng.integers(3, 16))
    at = rng.integers(0, len(reach), n)
    lane = rng.choice([-1.0, 1.0], n)
    u = rng.uniform(-1, 1, n) * reach[at]
    cos, sin = np.cos(angle[at]), np.sin(angle[at])
    x, y = middle[at, 1] + u * cos - 3.3 * lane * sin, middle[at, 0] + u * sin + 3.3 * lane * cos
    heavy = rng.random(n) < 0.2
    car, lorry = car_sizes(rng, n), lorry_sizes(rng, n)
    half = np.where(heavy, lorry[0], car[0]), np.minimum(np.where(heavy, lorry[1], car[1]), 2.9)
    heading = angle[at] + np.where(lane > 0, 0.0, math.pi)
    proposals.add(VEHICLE, x, y, half=half, angle=heading, variant=rng.random(n), surface=ANY, parent=first + at)


def _shore(grid: FloatArray, rng: np.random.Generator) -> tuple[int, int, float] | None:
    """A grid node next to the shore (row, column) and the direction out to sea; None without a shore."""
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


def _propose_site(
    proposals: Proposals, rng: np.random.Generator, terrain: Terrain, centre: tuple[float, float]
) -> None:
    """Propose things that suit the ground of one site."""
    x, y = centre
    proposals.group += 1
    nodes = np.arange(-192, 193, 24.0)
    gx, gy = np.meshgrid(x + nodes, y + nodes)
    height = sample_terrain(terrain, np.stack([gx.ravel(), gy.ravel()], axis=1))[0].reshape(gx.shape)
    shore = _shore(height, rng)
    if shore is not None and rng.random() < 0.85:
        sx, sy = float(gx[shore[0], shore[1]]), float(gy[shore[0], shore[1]])
        (marina if rng.random() < 0.6 else quay)(proposals, rng, sx, sy, shore[2])
        proposals.group += 1
    land = float((height > 0.01).mean())
    if land < 0.4:
        if rng.random() < 0.75:
            open_water(proposals, rng, x, y)
        return
    angle = float(rng.uniform(0, math.pi))
    if urbanity(terrain, x, y) > 0.0:
        choice = rng.random()
        build = town if choice < 0.5 else car_park if choice < 0.68 else lorry_park if choice < 0.76 else tank_farm
        build(proposals, rng, x, y, angle)
        if build is not town:
            proposals.group += 1
            trees(proposals, rng, x, y, 24)
    elif rng.random() < 0.6:
        countryside(proposals, rng, x, y)
    elif rng.random() < 0.3:
        tank_farm(proposals, rng, x, y, angle)


def propose(terrain: Terrain, size: int, rng: np.random.Generator) -> dict[str, FloatArray]:
    """Everything that could stand in the scene, in order of precedence: roads, then site by site.

    Returns:
        One float64 array per name of `COLUMNS`: kind; centre and half sizes in pixels of the scene frame; angle
        in radians; variant and moving, which control the appearance; surface; group, within which things may
        touch; and parent, the index of the thing that a thing stands on, or -1.
    """
    proposals = Proposals()
    roads(proposals, rng, size)
    sites = size // _SITE
    pitch = size / sites
    for r, c in np.ndindex(sites, sites):
        jitter = rng.uniform(-30, 30, 2)
        _propose_site(proposals, rng, terrain, ((c + 0.5) * pitch + jitter[0], (r + 0.5) * pitch + jitter[1]))
    return proposals.table()
