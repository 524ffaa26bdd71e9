"""Pixels of a window and their validity, and windows cut up and put together.

Reading here is one call of GDAL or a few; what is tried again, and what is given up, is for `geosod.scenes.read`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.windows import Window as GdalWindow

from geosod.arrays import BoolArray, PixelArray
from geosod.scene import Scene, Window

#: Side of the smallest piece of a view that is tried when a larger one cannot be read.
LEAST_PIECE = 16


@dataclass(frozen=True, slots=True)
class Piece(Window):
    """A window of a view that is read as it is, not in blocks."""


def read_window(dataset: Any, scene: Scene, bands: tuple[int, ...], window: Window) -> tuple[PixelArray, BoolArray]:
    """Pixels (C, h, w) in the scene's dtype and validity (h, w); invalid pixels are set to 0.

    Raises:
        RasterioError: GDAL cannot read it.
    """
    if scene.view is None or isinstance(window, Piece):
        return _read_plainly(dataset, scene, bands, window)
    pixels = np.empty((len(bands), window.height, window.width), scene.dtype)
    valid = np.empty((window.height, window.width), np.bool_)
    for part in blocks(window, scene.block_shape):
        # The whole block, though only a part of it may be wanted: see `geosod.scenes.view`.
        block = block_at(part, scene)
        some, some_valid = _read_plainly(dataset, scene, bands, block)
        source, target = within(part, block), within(part, window)
        pixels[:, *target], valid[target] = some[:, *source], some_valid[source]
    return pixels, valid


def within(part: Window, whole: Window) -> tuple[slice, slice]:
    """Rows and columns of a window in an array that holds another."""
    top, left = part.row - whole.row, part.col - whole.col
    return slice(top, top + part.height), slice(left, left + part.width)


def _read_plainly(dataset: Any, scene: Scene, bands: tuple[int, ...], window: Window) -> tuple[PixelArray, BoolArray]:
    gdal_window = GdalWindow(window.col, window.row, window.width, window.height)
    return valid_pixels(dataset, scene, bands, {"window": gdal_window})


def valid_pixels(
    dataset: Any, scene: Scene, bands: tuple[int, ...], options: dict[str, Any]
) -> tuple[PixelArray, BoolArray]:
    """Pixels and validity, as `read_window`, with whatever else rasterio's `read` is to be told.

    Raises:
        RasterioError: GDAL cannot read it.
    """
    kinds = {scene.masks[band - 1] for band in bands}
    if scene.alpha is not None and scene.alpha not in bands:
        stack = dataset.read([*bands, scene.alpha], **options)
        pixels, valid = stack[:-1], stack[-1] != 0
    else:
        pixels = dataset.read(list(bands), **options)
        valid = np.ones(pixels.shape[1:], np.bool_)
    # A pixel is valid where any of its bands is, so one band that is valid everywhere decides.
    if "mask" in kinds and "none" not in kinds:
        valid &= dataset.read_masks(list(bands), **options).any(axis=0)
    elif kinds == {"nodata"} and (scene.alpha is None or scene.alpha in bands):
        valid = ~_is_nodata(pixels, [scene.nodata[band - 1] for band in bands])
    if pixels.dtype.kind == "f":
        valid &= np.isfinite(pixels).all(axis=0)
    if not valid.all():
        pixels = np.where(valid, pixels, np.zeros((), pixels.dtype))
    return pixels, valid


def _is_nodata(pixels: PixelArray, values: list[float | None]) -> BoolArray:
    """(h, w) bool: every band holds its nodata value, which is how GDAL combines band masks."""
    empty = np.ones(pixels.shape[1:], np.bool_)
    for band, value in zip(pixels, values, strict=True):
        if value is None:
            return np.zeros_like(empty)
        empty &= np.isnan(band) if np.isnan(value) else band == value
    return empty


def blocks(window: Window, shape: tuple[int, int]) -> Iterator[Window]:
    """The parts of a window that lie in blocks of (rows, columns) counted from the scene's origin."""
    height, width = shape
    for row in range(window.row // height * height, window.bottom, height):
        for col in range(window.col // width * width, window.right, width):
            part = window.intersection(Window(col, row, width, height))
            if part is not None:
                yield part


def block_at(part: Window, scene: Scene) -> Window:
    """The native block in which a window lies."""
    height, width = scene.block_shape
    block = Window(part.col // width * width, part.row // height * height, width, height).intersection(scene.window)
    assert block is not None
    return block


def coalesced(windows: list[Window]) -> list[Window]:
    """The same ground in fewer windows: neighbours along a row are joined, then equal runs of adjoining rows."""
    runs: list[Window] = []
    for w in windows:
        last = runs[-1] if runs else None
        if last and (last.row, last.height, last.right) == (w.row, w.height, w.col):
            runs[-1] = Window(last.col, last.row, last.width + w.width, last.height)
        else:
            runs.append(w)
    joined: list[Window] = []
    for w in runs:
        last = joined[-1] if joined else None
        if last and (last.col, last.width, last.bottom) == (w.col, w.width, w.row):
            joined[-1] = Window(last.col, last.row, last.width, last.height + w.height)
        else:
            joined.append(w)
    return joined


def quarters(piece: Piece) -> list[Window]:
    """Four pieces for one; none where it is as small as is worth a try."""
    if max(piece.width, piece.height) <= LEAST_PIECE:
        return []
    half = Window(0, 0, -(-piece.width // 2), -(-piece.height // 2))
    return [
        Piece(col, row, min(half.width, piece.right - col), min(half.height, piece.bottom - row))
        for row in range(piece.row, piece.bottom, half.height)
        for col in range(piece.col, piece.right, half.width)
    ]
