"""Ground and sky of the demo scene: noise, elevation, clouds and the swath, as functions of scene coordinates."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from geosod.compiled import njit

#: Pixels on a side of a texture; a power of two, so that coordinates wrap by masking.
TEXTURE_SIZE = 512

#: Order of the textures in `textures`.
GRAIN, CROWN, WAVE, SOIL = 0, 1, 2, 3

_ELEVATION_WAVELENGTH = 7000.0
_CLOUD_WAVELENGTH = 1900.0


class Terrain(NamedTuple):
    """Parameters of the ground of one scene.

    Attributes:
        seed: seed of every noise.
        centre: half the scene's size in pixels; the scene is a square.
        offset: elevation subtracted around the centre, so that a shore always passes there.
        half: half the side of the valid square, in pixels.
        cos, sin: of the angle by which the valid square is rotated, as the swath of a satellite is.
        field_cos, field_sin: of the angle of the field pattern.
    """

    seed: int
    centre: float
    offset: float
    half: float
    cos: float
    sin: float
    field_cos: float
    field_sin: float


@njit(nogil=True, inline="always")
def hash2(x: int, y: int, seed: int) -> int:
    """Mix two lattice coordinates and a seed into an integer of 32 bits."""
    h = (x * 374761393 + y * 668265263 + seed * 2147483647) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 2246822519) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 3266489917) & 0xFFFFFFFF
    return h ^ (h >> 16)


@njit(nogil=True)
def value_noise(x: float, y: float, seed: int) -> float:
    """Value noise with a lattice of pitch 1: random values at integer points, smoothly interpolated; -1 to 1."""
    x0, y0 = math.floor(x), math.floor(y)
    ix, iy = int(x0), int(y0)
    fx, fy = x - x0, y - y0
    fx, fy = fx * fx * (3.0 - 2.0 * fx), fy * fy * (3.0 - 2.0 * fy)
    scale = 2.0 / 4294967295.0
    a = hash2(ix, iy, seed) * scale - 1.0
    b = hash2(ix + 1, iy, seed) * scale - 1.0
    c = hash2(ix, iy + 1, seed) * scale - 1.0
    d = hash2(ix + 1, iy + 1, seed) * scale - 1.0
    top, low = a + (b - a) * fx, c + (d - c) * fx
    return top + (low - top) * fy


@njit(nogil=True)
def fractal_noise(x: float, y: float, seed: int, octaves: int, gain: float) -> float:
    """Sum of octaves of value noise, each with half the wavelength and `gain` times the amplitude of the previous one.

    Octaves are rotated against each other, which hides the lattice.
    """
    total, amplitude = 0.0, 1.0
    for octave in range(octaves):
        total += amplitude * value_noise(x, y, seed + 101 * octave)
        x, y = 1.6 * x + 1.2 * y + 17.3, -1.2 * x + 1.6 * y - 9.1
        amplitude *= gain
    return total


@njit(nogil=True)
def elevation(terrain: Terrain, x: float, y: float) -> float:
    """Unitless height of the ground at a point of the scene frame: land above 0, water below."""
    h = fractal_noise(x / _ELEVATION_WAVELENGTH, y / _ELEVATION_WAVELENGTH, terrain.seed, 7, 0.5) + 0.06
    dx, dy = x - terrain.centre, y - terrain.centre
    return h - terrain.offset * math.exp(-(dx * dx + dy * dy) / (2.0 * 1500.0**2))


@njit(nogil=True)
def urbanity(terrain: Terrain, x: float, y: float) -> float:
    """How densely built the land is; towns stand where it is above 0."""
    return fractal_noise(x / 3600.0, y / 3600.0, terrain.seed + 5003, 3, 0.45) + 0.15


@njit(nogil=True)
def moisture(terrain: Terrain, x: float, y: float) -> float:
    """How green the land and how rough the water is, about -1 to 1."""
    return 0.8 * fractal_noise((0.8 * x + 0.6 * y) / 560.0, (0.8 * y - 0.6 * x) / 560.0, terrain.seed + 9001, 3, 0.5)


@njit(nogil=True)
def cloudiness(terrain: Terrain, x: float, y: float) -> float:
    """Opacity of the clouds at a point of the scene frame, 0 to 0.97."""
    n = fractal_noise(x / _CLOUD_WAVELENGTH, y / _CLOUD_WAVELENGTH, terrain.seed + 7001, 6, 0.55)
    t = min(1.0, max(0.0, (n - 0.62) / 0.55))
    return 0.97 * t * t * (3.0 - 2.0 * t)


@njit(nogil=True, inline="always")
def inside_swath(terrain: Terrain, x: float, y: float, margin: float) -> bool:
    """Whether a point lies in the valid square, at least `margin` pixels from its sides."""
    dx, dy = x - terrain.centre, y - terrain.centre
    u = abs(dx * terrain.cos + dy * terrain.sin)
    v = abs(dy * terrain.cos - dx * terrain.sin)
    return max(u, v) <= terrain.half - margin


@njit(nogil=True)
def sample_terrain(
    terrain: Terrain, points: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Elevation, cloud opacity and validity (with a margin of 4 px) of (N, 2) points, each (N,)."""
    n = len(points)
    height, cloud, valid = np.empty(n), np.empty(n), np.empty(n, np.bool_)
    for i in range(n):
        x, y = points[i, 0], points[i, 1]
        height[i] = elevation(terrain, x, y)
        cloud[i] = cloudiness(terrain, x, y)
        valid[i] = inside_swath(terrain, x, y, 4.0)
    return height, cloud, valid


def make_terrain(size: int, seed: int) -> Terrain:
    """The ground of a square scene of `size` pixels."""
    centre = size / 2
    tilt, fields = math.radians(4.0), math.radians(20.0 + 50.0 * (seed % 7) / 7)
    flat = Terrain(seed, centre, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    return Terrain(
        seed=seed,
        centre=centre,
        offset=elevation(flat, centre, centre),
        half=centre / (math.cos(tilt) + math.sin(tilt)),
        cos=math.cos(tilt),
        sin=math.sin(tilt),
        field_cos=math.cos(fields),
        field_sin=math.sin(fields),
    )


def _spectral(rng: np.random.Generator, weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Periodic noise with the amplitude spectrum `weight` and unit variance."""
    white = np.fft.fft2(rng.standard_normal(weight.shape))
    image = np.fft.ifft2(white * weight).real
    result: npt.NDArray[np.float64] = (image - image.mean()) / image.std()
    return result


def _canopy(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A periodic texture of tree crowns from above: lit cones around jittered points."""
    pitch = 8
    cells = TEXTURE_SIZE // pitch
    rows, cols = np.mgrid[0:TEXTURE_SIZE, 0:TEXTURE_SIZE]
    jitter = rng.uniform(0.1, 0.9, (cells, cells, 2))
    radius = rng.uniform(4.0, 8.0, (cells, cells))
    best = np.full((TEXTURE_SIZE, TEXTURE_SIZE), -1.0)
    for dr in (-1, 0, 1):
        for dc in (-1, 0, 1):
            r, c = rows // pitch + dr, cols // pitch + dc
            j = jitter[r % cells, c % cells]
            dy, dx = rows - (r + j[..., 0]) * pitch, cols - (c + j[..., 1]) * pitch
            size = radius[r % cells, c % cells]
            best = np.maximum(best, 1.0 - np.hypot(dx, dy) / size - 0.25 * (dx + dy) / size)
    result: npt.NDArray[np.float64] = (best - best.mean()) / best.std()
    return result


@functools.cache
def textures() -> npt.NDArray[np.int8]:
    """(4, 512, 512) int8 periodic textures of zero mean and standard deviation 40: grain, crowns, waves, soil."""
    rng = np.random.default_rng(20180217)
    fy, fx = np.meshgrid(np.fft.fftfreq(TEXTURE_SIZE), np.fft.fftfreq(TEXTURE_SIZE), indexing="ij")
    f = np.hypot(fx, fy)
    along = np.abs(fx * math.cos(0.5) + fy * math.sin(0.5)) / np.maximum(f, 1e-9)
    swell = np.exp(-(((f - 0.075) / 0.05) ** 2)) * along**3
    soil = np.exp(-(((np.log(np.maximum(f, 1e-9)) - math.log(0.04)) / 0.7) ** 2))
    layers = [_spectral(rng, np.exp(-((f / 0.33) ** 2))), _canopy(rng), _spectral(rng, swell), _spectral(rng, soil)]
    stack = np.clip(np.stack(layers) * 40.0, -127, 127).astype(np.int8)
    stack.flags.writeable = False
    return stack
