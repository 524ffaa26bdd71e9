"""Pixels of the demo scene: a pure function of the layout and of scene coordinates."""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from geosod.demo.layout import BUCKET, Layout
from geosod.demo.sprites import DASH, DISC, HULL, ROOF, WAKE
from geosod.demo.terrain import (
    CROWN,
    GRAIN,
    SOIL,
    WAVE,
    Terrain,
    cloudiness,
    elevation,
    hash2,
    inside_swath,
    textures,
    urbanity,
    value_noise,
)
from geosod.errors import ConfigError
from geosod.types import BoolArray, Window

#: Pixels between the nodes at which slow fields are computed; in between they are interpolated.
_NODE = 8
_GROUND_FIELDS, _SKY_FIELDS = 5, 2

# Mean colour and crop-row contrast of the field types: pasture, wheat, soil, rape, meadow, stubble.
_CROPS = np.array(
    [
        [96, 122, 66, 2.0],
        [186, 168, 104, 6.0],
        [140, 112, 84, 7.0],
        [150, 156, 78, 4.0],
        [112, 134, 80, 2.5],
        [170, 150, 116, 5.0],
        [84, 112, 62, 5.0],
        [124, 142, 92, 4.0],
    ],
    np.float32,
)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _nodes(terrain: Terrain, x0: int, y0: int, nodes: npt.NDArray[np.float32]) -> None:
    """Slow fields at the nodes of one bucket: height, urbanity, moisture, two warps, cloud and shade."""
    for i in range(nodes.shape[1]):
        y = float(y0 + i * _NODE)
        for j in range(nodes.shape[2]):
            x = float(x0 + j * _NODE)
            nodes[0, i, j] = elevation(terrain, x, y)
            nodes[5, i, j] = cloudiness(terrain, x, y)
            nodes[6, i, j] = cloudiness(terrain, x + 90.0, y + 120.0)
            nodes[1, i, j] = urbanity(terrain, x, y)
            nodes[2, i, j] = value_noise(x / 420.0, y / 420.0, terrain.seed + 9001)
            nodes[3, i, j] = 60.0 * value_noise(x / 1100.0, y / 1100.0, terrain.seed + 9101)
            nodes[4, i, j] = 60.0 * value_noise(x / 1100.0, y / 1100.0, terrain.seed + 9201)


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _texel(tex: npt.NDArray[np.int8], layer: int, x: int, y: int) -> np.float32:
    return np.float32(tex[layer, y & 511, x & 511]) * np.float32(0.025)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _water(
    tex: npt.NDArray[np.int8], x: int, y: int, h: float, moist: float, warp: float
) -> tuple[float, float, float]:
    depth = min(1.0, -h * 5.0)
    shallow = 1.0 - depth
    shallow = shallow * shallow * shallow
    wave = _texel(tex, WAVE, x + int(warp), y) + 0.6 * _texel(tex, WAVE, x * 2 - int(warp), y * 2 + 77)
    wave *= 0.55 + 0.45 * moist
    light = 3.2 * wave + 1.2 * _texel(tex, SOIL, x, y)
    if wave > 2.1 and tex[GRAIN, (y + 31) & 511, (x + 7) & 511] > 30:
        light += 38.0 * (wave - 2.1)
    foam = max(0.0, 1.0 + h * 160.0 + 0.25 * _texel(tex, SOIL, x + 9, y)) if h > -0.008 else 0.0
    foam = 85.0 * foam * foam
    return (
        20.0 + 52.0 * shallow + light + foam,
        56.0 + 80.0 * shallow + 1.1 * light + foam,
        84.0 + 52.0 * shallow + 1.2 * light + foam * 0.9,
    )


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _country(
    tex: npt.NDArray[np.int8], terrain: Terrain, x: int, y: int, moist: float, wx: float, wy: float
) -> tuple[float, float, float]:
    """Fields between hedges, woods among them."""
    u = (x * terrain.field_cos + y * terrain.field_sin + wx) / 190.0
    row = math.floor(u)
    v = (y * terrain.field_cos - x * terrain.field_sin + wy) / 310.0
    v += (hash2(int(row), 3, terrain.seed) & 255) / 255.0
    col = math.floor(v)
    key = hash2(int(row), int(col), terrain.seed + 11)
    edge = min(min(u - row, row + 1.0 - u) * 190.0, min(v - col, col + 1.0 - v) * 310.0)
    grain, soil = _texel(tex, GRAIN, x, y), _texel(tex, SOIL, x + (key & 511), y)
    crown = _texel(tex, CROWN, x + ((key >> 9) & 511), y + ((key >> 3) & 511))
    if (key >> 8) % 11 < 3 or edge < 3.0 + soil + crown:
        shade = 12.0 * crown + 3.0 * grain + 6.0 * moist
        return 50.0 + shade, 72.0 + 1.1 * shade, 42.0 + 0.7 * shade
    kind = (key >> 16) & 7
    phase = (v * 310.0 if key & 1 else u * 190.0) * (0.16 + 0.02 * ((key >> 20) & 7))
    stripe = 2.0 * abs(phase - math.floor(phase) - 0.5) - 0.5
    light = _CROPS[kind, 3] * stripe * 1.6 + 2.2 * grain + 4.5 * soil + 9.0 * moist + 0.06 * ((key >> 24) - 128)
    return _CROPS[kind, 0] + light, _CROPS[kind, 1] + light, _CROPS[kind, 2] + 0.8 * light


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _land(
    tex: npt.NDArray[np.int8], terrain: Terrain, x: int, y: int, f: npt.NDArray[np.float32]
) -> tuple[float, float, float]:
    h, urban, moist = f[0], f[1], f[2]
    grain, soil = _texel(tex, GRAIN, x, y), _texel(tex, SOIL, x, y)
    beach = 0.009 + 0.0008 * soil + 0.006 * moist
    if h < beach:
        light = 3.0 * grain + 4.0 * soil - 30.0 * max(0.0, 1.0 - h * 600.0)
        return 206.0 + light, 188.0 + light, 150.0 + light
    if urban > -0.05 + 0.03 * soil:
        crown = _texel(tex, CROWN, x, y)
        if 2.6 * moist + 0.4 * soil > 0.8:
            light = 11.0 * crown + 3.0 * grain
            return 58.0 + light, 78.0 + light, 50.0 + light
        light = 3.0 * grain + 5.0 * soil + 8.0 * moist
        return 116.0 + light, 124.0 + light, 92.0 + light
    return _country(tex, terrain, x, y, moist, f[3], f[4])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _interpolate_row(
    nodes: npt.NDArray[np.float32], dy: int, x0: int, line: npt.NDArray[np.float32], rows: npt.NDArray[np.float32]
) -> None:
    """Fields along one row of pixels: `rows` (fields, width), `dy` and `x0` counted from the bucket's corner."""
    i = dy // _NODE
    fy = np.float32((dy - i * _NODE) / _NODE)
    for k in range(rows.shape[0]):
        for j in range(line.shape[0]):
            line[j] = nodes[k, i, j] + (nodes[k, i + 1, j] - nodes[k, i, j]) * fy
        for x in range(x0, x0 + rows.shape[1]):
            j = x // _NODE
            rows[k, x - x0] = line[j] + (line[j + 1] - line[j]) * np.float32((x & (_NODE - 1)) / _NODE)


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _distance(p: npt.NDArray[np.float64], u: float, v: float) -> float:
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


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
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
            light = p[11] * _texel(tex, GRAIN, x0 + j, y0 + i)
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


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
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
            if f[0, j] < 0.0:
                c = _water(tex, x, y, f[0, j], f[2, j], f[3, j])
            else:
                c = _land(tex, terrain, x, y, f[:, j])
            canvas[i, j, 0], canvas[i, j, 1], canvas[i, j, 2] = c


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _sky(
    terrain: Terrain,
    tex: npt.NDArray[np.int8],
    nodes: npt.NDArray[np.float32],
    corner: tuple[int, int, int, int],
    canvas: npt.NDArray[np.float32],
    pixels: npt.NDArray[np.uint8],
    valid: npt.NDArray[np.bool_],
) -> None:
    """Lay clouds and their shade over the canvas, cut the swath, and round."""
    bx, by, x0, y0 = corner
    height, width = canvas.shape[:2]
    f, line = np.empty((_SKY_FIELDS, width), np.float32), np.empty(nodes.shape[2], np.float32)
    sky = nodes[_GROUND_FIELDS:]
    clear = sky.max() <= 0.0
    # The swath is convex: a bucket whose corners lie in it lies in it altogether.
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
            noise = amount * _texel(tex, GRAIN, x * 3 + 5, y * 3 + 11)
            if clear:
                for band in range(3):
                    pixels[band, i, j] = np.uint8(min(high, max(low, canvas[i, j, band] + noise)))
                continue
            thin = np.float32(0.96) + np.float32(0.04) * _texel(tex, SOIL, x >> 1, y >> 1)
            cloud = f[0, j] * min(one, max(np.float32(0.0), thin))
            dim = one - np.float32(0.42) * f[1, j]
            for band in range(3):
                value = (canvas[i, j, band] + noise) * dim
                value += (white[band] - value) * cloud
                pixels[band, i, j] = np.uint8(min(high, max(low, value)))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
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
    """Bucket by bucket: ground, primitives in paint order, sky. Buckets and nodes lie fast in the scene frame."""
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

    Every pixel depends on the layout and on its own place in the scene alone, so a window shows the same
    wherever it is cut. Releases the GIL: call it from as many threads as there are cores.

    Args:
        layout: the scene.
        window: what to draw, scene frame; must lie inside the scene.

    Returns:
        Pixels (3, H, W) uint8 RGB, 0 outside the swath, and valid (H, W) bool, True inside it.

    Raises:
        ConfigError: the window is empty or reaches beyond the scene.
    """
    inside = window.col >= 0 and window.row >= 0 and window.right <= layout.size and window.bottom <= layout.size
    if not inside or window.width < 1 or window.height < 1:
        raise ConfigError(f"render: {window} must lie inside the scene of {layout.size} x {layout.size} px")
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
