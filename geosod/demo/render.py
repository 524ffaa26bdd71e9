"""Pixels of the demo scene: a pure function of the layout and of scene coordinates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray
from geosod.compiled import njit
from geosod.demo.colours import land, texel, water
from geosod.demo.layout import BUCKET, Layout
from geosod.demo.sprites import DASH, DISC, HULL, ROOF, WAKE
from geosod.demo.terrain import (
    GRAIN,
    SOIL,
    Terrain,
    cloudiness,
    elevation,
    inside_swath,
    moisture,
    textures,
    urbanity,
    value_noise,
)
from geosod.errors import ConfigError
from geosod.scene import Window

#: Pixels between the nodes at which slowly varying fields are computed; in between they are interpolated.
_NODE = 8
_GROUND_FIELDS, _SKY_FIELDS = 5, 2


@njit(nogil=True)
def _nodes(terrain: Terrain, x0: int, y0: int, nodes: npt.NDArray[np.float32]) -> None:
    """Slowly varying fields at the nodes of one bucket: height, urbanity, moisture, two warps, cloud and shade."""
    for i in range(nodes.shape[1]):
        y = float(y0 + i * _NODE)
        for j in range(nodes.shape[2]):
            x = float(x0 + j * _NODE)
            nodes[0, i, j] = elevation(terrain, x, y)
            nodes[5, i, j] = cloudiness(terrain, x, y)
            nodes[6, i, j] = cloudiness(terrain, x + 90.0, y + 120.0)
            nodes[1, i, j] = urbanity(terrain, x, y)
            nodes[2, i, j] = moisture(terrain, x, y)
            nodes[3, i, j] = 60.0 * value_noise(x / 1100.0, y / 1100.0, terrain.seed + 9101)
            nodes[4, i, j] = 60.0 * value_noise(x / 1100.0, y / 1100.0, terrain.seed + 9201)


@njit(nogil=True)
def _interpolate_row(
    nodes: npt.NDArray[np.float32], dy: int, x0: int, line: npt.NDArray[np.float32], rows: npt.NDArray[np.float32]
) -> None:
    """Fields along one row of pixels: `rows` (fields, width), `dy` and `x0` are relative to the bucket's corner."""
    i = dy // _NODE
    fy = np.float32((dy - i * _NODE) / _NODE)
    for k in range(rows.shape[0]):
        for j in range(line.shape[0]):
            line[j] = nodes[k, i, j] + (nodes[k, i + 1, j] - nodes[k, i, j]) * fy
        for x in range(x0, x0 + rows.shape[1]):
            j = x // _NODE
            rows[k, x - x0] = line[j] + (line[j + 1] - line[j]) * np.float32((x & (_NODE - 1)) / _NODE)


@njit(nogil=True, inline="always")
def _distance(p: npt.NDArray[np.float64], u: float, v: float) -> Any:
    """Signed distance in pixels to the outline of a primitive, negative inside."""
    kind, hl, hw = p[0], p[5], p[6]
    if kind == DISC:
        return math.sqrt(u * u + v * v) - hl
    sd = max(abs(u) - hl, abs(v) - hw)
    if kind == HULL:
        shoulder, tip = p[12] * hl, 0.15 * hw
        across, along = hl - shoulder, hw - tip
        bow = ((u - shoulder) * along + (abs(v) - hw) * across) / math.sqrt(across * across + along * along)
        sd = max(sd, bow)
    return sd


@njit(nogil=True)
def _paint(
    p: npt.NDArray[np.float64], tex: npt.NDArray[np.int8], x0: int, y0: int, canvas: npt.NDArray[np.float32]
) -> None:
    """Blend one primitive over the canvas, whose top-left pixel is (x0, y0)."""
    kind, cx, cy, ca, sa, hl, hw, soft = p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[13]
    ex, ey = hl * abs(ca) + hw * abs(sa) + soft, hl * abs(sa) + hw * abs(ca) + soft
    for i in range(max(0, int(cy - ey) - y0), min(canvas.shape[0], int(cy + ey) + 2 - y0)):
        dy = y0 + i + 0.5 - cy
        for j in range(max(0, int(cx - ex) - x0), min(canvas.shape[1], int(cx + ex) + 2 - x0)):
            dx = x0 + j + 0.5 - cx
            u, v = dx * ca + dy * sa, dy * ca - dx * sa
            cover = min(1.0, max(0.0, 0.5 - _distance(p, u, v) / soft)) * p[10]
            if cover <= 0.0:
                continue
            light = p[11] * texel(tex, GRAIN, x0 + j, y0 + i)
            if kind == DISC:
                light += p[12] * (dx + dy) / max(hl, 1.0)
            elif kind == ROOF:
                light += p[12] * (1.0 if v > 0.0 else -1.0)
            elif kind == WAKE:
                t = (u + hl) / (2.0 * hl)
                spread = abs(v) / (hw * (1.05 - t))
                if spread > 1.0:
                    continue
                cover *= t * t * (0.25 + 0.75 * spread * spread)
            elif kind == DASH:
                phase = (u + hl) / p[12]
                if phase - math.floor(phase) > 0.5:
                    continue
            for band in range(3):
                canvas[i, j, band] += (p[7 + band] + light - canvas[i, j, band]) * cover


@njit(nogil=True)
def _ground(
    terrain: Terrain,
    tex: npt.NDArray[np.int8],
    nodes: npt.NDArray[np.float32],
    corner: tuple[int, int, int, int],
    canvas: npt.NDArray[np.float32],
) -> None:
    bx, by, x0, y0 = corner
    f, line = np.empty((_GROUND_FIELDS, canvas.shape[1]), np.float32), np.empty(nodes.shape[2], np.float32)
    for i in range(canvas.shape[0]):
        _interpolate_row(nodes, y0 + i - by, x0 - bx, line, f)
        for j in range(canvas.shape[1]):
            x, y = x0 + j, y0 + i
            wet = f[0, j] < 0.0
            c = water(tex, x, y, f[0, j], f[2, j], f[3, j]) if wet else land(tex, terrain, x, y, f[:, j])
            canvas[i, j, 0], canvas[i, j, 1], canvas[i, j, 2] = c


@njit(nogil=True)
def _sky(
    terrain: Terrain,
    tex: npt.NDArray[np.int8],
    nodes: npt.NDArray[np.float32],
    corner: tuple[int, int, int, int],
    canvas: npt.NDArray[np.float32],
    pixels: npt.NDArray[np.uint8],
    valid: npt.NDArray[np.bool_],
) -> None:
    """Draw clouds and their shadows over the canvas, clear what is outside the swath, and round to uint8."""
    bx, by, x0, y0 = corner
    height, width = canvas.shape[:2]
    f, line = np.empty((_SKY_FIELDS, width), np.float32), np.empty(nodes.shape[2], np.float32)
    sky = nodes[_GROUND_FIELDS:]
    clear = sky.max() <= 0.0
    # The swath is convex: a bucket whose corners are inside is inside completely.
    whole = True
    for cx in (bx, bx + BUCKET):
        for cy in (by, by + BUCKET):
            whole &= inside_swath(terrain, float(cx), float(cy), 0.0)
    one, low, high, amount = np.float32(1.0), np.float32(1.0), np.float32(255.0), np.float32(1.3)
    white = (np.float32(238.0), np.float32(241.0), np.float32(244.0))
    for i in range(height):
        y = y0 + i
        if not clear:
            _interpolate_row(sky, y - by, x0 - bx, line, f)
        for j in range(width):
            x = x0 + j
            valid[i, j] = whole or inside_swath(terrain, x + 0.5, y + 0.5, 0.0)
            if not valid[i, j]:
                for band in range(3):
                    pixels[band, i, j] = 0
                continue
            noise = amount * texel(tex, GRAIN, x * 3 + 5, y * 3 + 11)
            if clear:
                for band in range(3):
                    pixels[band, i, j] = np.uint8(min(high, max(low, canvas[i, j, band] + noise)))
                continue
            thin = np.float32(0.96) + np.float32(0.04) * texel(tex, SOIL, x >> 1, y >> 1)
            cloud = f[0, j] * min(one, max(np.float32(0.0), thin))
            dim = one - np.float32(0.42) * f[1, j]
            for band in range(3):
                value = (canvas[i, j, band] + noise) * dim
                value += (white[band] - value) * cloud
                pixels[band, i, j] = np.uint8(min(high, max(low, value)))


@njit(nogil=True)
def _draw(
    terrain: Terrain,
    tex: npt.NDArray[np.int8],
    shapes: npt.NDArray[np.float64],
    starts: npt.NDArray[np.int64],
    members: npt.NDArray[np.int32],
    grid: int,
    origin: tuple[int, int],
    pixels: npt.NDArray[np.uint8],
    valid: npt.NDArray[np.bool_],
) -> None:
    """Bucket by bucket: ground, primitives in paint order, sky. Buckets and nodes are fixed in the scene frame."""
    col, row = origin
    height, width = valid.shape
    nodes = np.empty((_GROUND_FIELDS + _SKY_FIELDS, BUCKET // _NODE + 1, BUCKET // _NODE + 1), np.float32)
    canvas = np.empty((BUCKET, BUCKET, 3), np.float32)
    for r in range(row // BUCKET, (row + height - 1) // BUCKET + 1):
        for c in range(col // BUCKET, (col + width - 1) // BUCKET + 1):
            bx, by = c * BUCKET, r * BUCKET
            x0, y0 = max(bx, col), max(by, row)
            x1, y1 = min(bx + BUCKET, col + width), min(by + BUCKET, row + height)
            part = canvas[: y1 - y0, : x1 - x0]
            corner = (bx, by, x0, y0)
            _nodes(terrain, bx, by, nodes)
            _ground(terrain, tex, nodes, corner, part)
            bucket = r * grid + c
            for m in range(starts[bucket], starts[bucket + 1]):
                _paint(shapes[members[m]], tex, x0, y0, part)
            out = slice(y0 - row, y1 - row), slice(x0 - col, x1 - col)
            _sky(terrain, tex, nodes, corner, part, pixels[:, out[0], out[1]], valid[out[0], out[1]])


def render(layout: Layout, window: Window) -> tuple[npt.NDArray[np.uint8], BoolArray]:
    """Draw a part of the scene.

    Every pixel depends only on the layout and on its position in the scene, so overlapping windows show the same
    pixels. Releases the GIL: call it from as many threads as there are cores.

    Args:
        layout: the scene.
        window: what to draw, scene frame; must lie inside the scene.

    Returns:
        Pixels (3, H, W) uint8 RGB, 0 outside the swath, and valid (H, W) bool, True inside it.

    Raises:
        ConfigError: the window is empty or extends beyond the scene.
    """
    inside = window.col >= 0 and window.row >= 0 and window.right <= layout.size and window.bottom <= layout.size
    if not inside or window.width < 1 or window.height < 1:
        raise ConfigError(f"render: {window} is empty or extends beyond the scene of {layout.size} x {layout.size} px")
    pixels = np.empty((3, window.height, window.width), np.uint8)
    valid = np.empty((window.height, window.width), np.bool_)
    origin = (window.col, window.row)
    _draw(
        layout.terrain,
        textures(),
        layout.shapes,
        layout.bucket_starts,
        layout.bucket_members,
        layout.grid,
        origin,
        pixels,
        valid,
    )
    return pixels, valid
