"""Percentiles of a scene's valid pixels, from a bounded look at it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window as GdalWindow

from geosod.arrays import FloatArray, PixelArray
from geosod.errors import ReadError
from geosod.scene import Scene, Window
from geosod.scenes.open import opened
from geosod.scenes.pixels import blocks, read_window, valid_pixels

#: A scene is looked at on a grid of about this many pixels a side: the nearest overview, or patches.
_SIDE = 2048
#: Patches of a scene without overviews: so many along each axis, of so many pixels a side.
_PATCHES, _PATCH = 12, 256


def percentiles(
    scene: Scene, bands: Sequence[int], low: Sequence[float], high: Sequence[float]
) -> tuple[tuple[float, float], ...]:
    """The values below which `low` and `high` per cent of a band's valid pixels lie.

    They are taken from the overview next above 2048 pixels a side, or the one below; without, from the whole of a
    scene that is no larger, else from a lattice of 12 x 12 patches. The same scene gives the same values.

    Args:
        scene: an opened scene.
        bands: 1-based bands.
        low, high: percentages for each band, low below high.

    Returns:
        A pair for each band, in pixel values as stored. Where the two are one value, or where no pixel is valid, the
        second is made greater. What cannot be read is left out.

    Raises:
        ReadError: nothing can be read.
    """
    looks: list[PixelArray] = []
    with opened(scene.ref, view=scene.view) as dataset:
        error = _look(dataset, scene, tuple(bands), looks)
    if not looks:
        line = " ".join(str(error and (error.__cause__ or error)).split())
        raise ReadError(f"{scene.ref.uri}: its percentiles cannot be computed, as nothing of it can be read: {line}")
    seen = np.concatenate(looks, axis=1)
    return tuple(_limits(band, pair) for band, pair in zip(seen, zip(low, high, strict=True), strict=True))


def _limits(values: PixelArray, percentages: tuple[float, float]) -> tuple[float, float]:
    if not len(values):
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values.astype(np.float64), percentages))
    least = 1.0 if values.dtype.kind in "ui" else max(abs(low) * 1e-6, 1e-12)
    return low, max(high, low + least)


def _look(dataset: Any, scene: Scene, bands: tuple[int, ...], looks: list[PixelArray]) -> RasterioError | None:
    """Add (C, n) valid pixels to `looks` again and again; the last error, if some could not be read."""
    error = None
    small = max(scene.width, scene.height) <= _SIDE
    factor = _factor(scene)
    if factor and not small:
        try:
            looks.append(_decimated(dataset, scene, bands, factor))
            return None
        except RasterioError as caught:
            error = caught
    for window in blocks(scene.window, (_PATCH, _PATCH)) if small else _patches(scene):
        try:
            pixels, valid = read_window(dataset, scene, bands, window)
            looks.append(pixels[:, valid])
        except RasterioError as caught:
            error = caught
    if looks and not any(look.shape[1] for look in looks) and not small:
        # All patches fell on nodata: a look at every so many pixels, which decodes the whole scene once.
        try:
            looks.append(_decimated(dataset, scene, bands, max(scene.width, scene.height) // _SIDE + 1))
        except RasterioError as caught:
            error = caught
    return error


def _factor(scene: Scene) -> int | None:
    """Of the overviews that are still finer than the look the coarsest, unless it is so large that patches serve."""
    sizes = {f: max(scene.width, scene.height) / f for f in scene.overviews}
    finer = [f for f, size in sizes.items() if _SIDE <= size <= 2 * _SIDE]
    return max(finer) if finer else min((f for f, size in sizes.items() if size < _SIDE), default=None)


def _decimated(dataset: Any, scene: Scene, bands: tuple[int, ...], factor: int) -> PixelArray:
    """(C, n) valid pixels of an overview, or of every so many pixels where there is none."""
    shape = -(-scene.height // factor), -(-scene.width // factor)
    whole = GdalWindow(0, 0, scene.width, scene.height)
    options = {"window": whole, "out_shape": shape, "resampling": Resampling.nearest}
    pixels, valid = valid_pixels(dataset, scene, bands, options)
    return pixels[:, valid]


def _patches(scene: Scene) -> Iterator[Window]:
    def starts(size: int) -> FloatArray:
        """One patch in the middle of each of the equal parts of an axis."""
        middles = (np.arange(_PATCHES) + 0.5) * size / _PATCHES
        return np.unique((middles - _PATCH / 2).clip(0, max(0, size - _PATCH)).round())

    for row in starts(scene.height):
        for col in starts(scene.width):
            yield Window(int(col), int(row), min(_PATCH, scene.width), min(_PATCH, scene.height))
