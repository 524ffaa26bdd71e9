"""Percentiles of a scene's valid pixels, from a bounded sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rasterio.enums import Resampling
from rasterio.errors import RasterioError

from geosod.arrays import PixelArray, percentile_limits
from geosod.errors import ReadError
from geosod.scene import Scene
from geosod.scenes.open import opened
from geosod.scenes.pixels import blocks, read_window
from geosod.scenes.sampling import patches
from geosod.scenes.validity import valid_pixels

#: Approximate side of the sample in pixels: of the nearest overview, or of all patches.
_SIDE = 2048
#: Patches of a scene without overviews: number along each axis, and side in pixels.
_PATCHES, _PATCH = 12, 256


def percentiles(
    scene: Scene, bands: Sequence[int], low: Sequence[float], high: Sequence[float]
) -> tuple[tuple[float, float], ...]:
    """The values below which `low` and `high` per cent of a band's valid pixels lie.

    The sample is the next overview above 2048 pixels a side, or the one below; without overviews, all of a scene that
    is no larger, else a lattice of 12 x 12 patches. The same scene always gives the same values.

    Args:
        scene: an opened scene.
        bands: 1-based bands.
        low, high: percentages for each band, low below high.

    Returns:
        A pair for each band, in pixel values as stored. The second value is always greater than the first; without
        a valid pixel they are 0 and 1. Pixels that cannot be read are left out.

    Raises:
        ReadError: nothing can be read.
    """
    samples: list[PixelArray] = []
    with opened(scene.ref, view=scene.view) as dataset:
        error = _sample(dataset, scene, tuple(bands), samples)
    if not samples:
        line = " ".join(str(error and (error.__cause__ or error)).split())
        raise ReadError(f"{scene.ref.uri}: its percentiles cannot be computed, as no pixel can be read: {line}")
    pixels = np.concatenate(samples, axis=1)
    return tuple(percentile_limits(band, pair) for band, pair in zip(pixels, zip(low, high, strict=True), strict=True))


def _sample(dataset: Any, scene: Scene, bands: tuple[int, ...], samples: list[PixelArray]) -> RasterioError | None:
    """Append (C, n) valid pixels to `samples`; returns the last error, if some could not be read."""
    error = None
    lattice = patches(scene.width, scene.height, count=_PATCHES, side=_PATCH)
    small = max(scene.width, scene.height) <= _SIDE
    factor = _factor(scene)
    if factor and not small:
        try:
            samples.append(_decimated(dataset, scene, bands, factor))
            return None
        except RasterioError as caught:
            error = caught
    for window in blocks(scene.window, (_PATCH, _PATCH)) if small else lattice:
        try:
            pixels, valid = read_window(dataset, scene, bands, window)
            samples.append(pixels[:, valid])
        except RasterioError as caught:
            error = caught
    if samples and not any(sample.shape[1] for sample in samples) and not small:
        # All patches are nodata: sample every n-th pixel, which decodes the whole scene once.
        try:
            samples.append(_decimated(dataset, scene, bands, max(scene.width, scene.height) // _SIDE + 1))
        except RasterioError as caught:
            error = caught
    return error


def _factor(scene: Scene) -> int | None:
    """The coarsest overview finer than the sample, else the finest one; None where only a far larger one is there."""
    sizes = {f: max(scene.width, scene.height) / f for f in scene.overviews}
    finer = [f for f, size in sizes.items() if _SIDE <= size <= 2 * _SIDE]
    return max(finer) if finer else min((f for f, size in sizes.items() if size < _SIDE), default=None)


def _decimated(dataset: Any, scene: Scene, bands: tuple[int, ...], factor: int) -> PixelArray:
    """(C, n) valid pixels of an overview, or every `factor`-th pixel where there is none."""
    shape = -(-scene.height // factor), -(-scene.width // factor)
    pixels, valid = valid_pixels(dataset, scene, bands, {"out_shape": shape, "resampling": Resampling.nearest})
    return pixels[:, valid]
