"""Colours of water and land, pixel by pixel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from geosod.compiled import njit
from geosod.demo.terrain import CROWN, GRAIN, SOIL, WAVE, Terrain, hash2

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


@njit(nogil=True, inline="always")
def texel(tex: npt.NDArray[np.int8], layer: int, x: int, y: int) -> Any:
    """Value of a texture at a pixel; the texture has unit standard deviation."""
    return np.float32(tex[layer, y & 511, x & 511]) * np.float32(0.025)


@njit(nogil=True)
def water(tex: npt.NDArray[np.int8], x: int, y: int, h: float, moist: float, warp: float) -> tuple[Any, Any, Any]:
    """Red, green and blue of water at elevation `h`: darker with depth, with swell, glint, and foam at the shore."""
    depth = min(1.0, -h * 5.0)
    shallow = 1.0 - depth
    shallow = shallow * shallow * shallow
    wave = texel(tex, WAVE, x + int(warp), y) + 0.6 * texel(tex, WAVE, x * 2 - int(warp), y * 2 + 77)
    wave *= 0.55 + 0.45 * moist
    light = 3.2 * wave + 1.2 * texel(tex, SOIL, x, y)
    if wave > 2.1 and tex[GRAIN, (y + 31) & 511, (x + 7) & 511] > 30:
        light += 38.0 * (wave - 2.1)
    foam = max(0.0, 1.0 + h * 160.0 + 0.25 * texel(tex, SOIL, x + 9, y)) if h > -0.008 else 0.0
    foam = 85.0 * foam * foam
    return (
        20.0 + 52.0 * shallow + light + foam,
        56.0 + 80.0 * shallow + 1.1 * light + foam,
        84.0 + 52.0 * shallow + 1.2 * light + foam * 0.9,
    )


@njit(nogil=True)
def _country(
    tex: npt.NDArray[np.int8], terrain: Terrain, x: int, y: int, moist: float, wx: float, wy: float
) -> tuple[Any, Any, Any]:
    """Fields between hedges, with woods among them."""
    u = (x * terrain.field_cos + y * terrain.field_sin + wx) / 190.0
    row = math.floor(u)
    v = (y * terrain.field_cos - x * terrain.field_sin + wy) / 310.0
    v += (hash2(int(row), 3, terrain.seed) & 255) / 255.0
    col = math.floor(v)
    key = hash2(int(row), int(col), terrain.seed + 11)
    edge = min(min(u - row, row + 1.0 - u) * 190.0, min(v - col, col + 1.0 - v) * 310.0)
    grain, soil = texel(tex, GRAIN, x, y), texel(tex, SOIL, x + (key & 511), y)
    crown = texel(tex, CROWN, x + ((key >> 9) & 511), y + ((key >> 3) & 511))
    if (key >> 8) % 11 < 3 or edge < 3.0 + soil + crown:
        shade = 12.0 * crown + 3.0 * grain + 6.0 * moist
        return 50.0 + shade, 72.0 + 1.1 * shade, 42.0 + 0.7 * shade
    kind = (key >> 16) & 7
    phase = (v * 310.0 if key & 1 else u * 190.0) * (0.16 + 0.02 * ((key >> 20) & 7))
    stripe = 2.0 * abs(phase - math.floor(phase) - 0.5) - 0.5
    light = _CROPS[kind, 3] * stripe * 1.6 + 2.2 * grain + 4.5 * soil + 9.0 * moist + 0.06 * ((key >> 24) - 128)
    return _CROPS[kind, 0] + light, _CROPS[kind, 1] + light, _CROPS[kind, 2] + 0.8 * light


@njit(nogil=True)
def land(
    tex: npt.NDArray[np.int8], terrain: Terrain, x: int, y: int, f: npt.NDArray[np.float32]
) -> tuple[Any, Any, Any]:
    """Red, green and blue of land, from its slowly varying fields `f`: beach, town ground with groves, or country."""
    h, urban, moist = f[0], f[1], f[2]
    grain, soil = texel(tex, GRAIN, x, y), texel(tex, SOIL, x, y)
    beach = 0.009 + 0.0008 * soil + 0.006 * moist
    if h < beach:
        light = 3.0 * grain + 4.0 * soil - 30.0 * max(0.0, 1.0 - h * 600.0)
        return 206.0 + light, 188.0 + light, 150.0 + light
    if urban > -0.05 + 0.03 * soil:
        crown = texel(tex, CROWN, x, y)
        if 2.6 * moist + 0.4 * soil > 0.8:
            light = 11.0 * crown + 3.0 * grain
            return 58.0 + light, 78.0 + light, 50.0 + light
        light = 3.0 * grain + 5.0 * soil + 8.0 * moist
        return 116.0 + light, 124.0 + light, 92.0 + light
    return _country(tex, terrain, x, y, moist, f[3], f[4])
