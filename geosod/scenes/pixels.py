"""Read the pixels of a window, and split windows into blocks.

Reading here is one or a few calls of GDAL; retries and failures are handled in `geosod.scenes.read`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from rasterio.errors import RasterioError
from rasterio.windows import Window as GdalWindow

from geosod.arrays import BoolArray, PixelArray
from geosod.errors import ReadError, one_line
from geosod.scene import Scene, Unit, Window
from geosod.scenes.validity import valid_pixels

#: Parts of a view are not split further below this side, in pixels, when they cannot be read.
MIN_SUBWINDOW = 16


@dataclass(frozen=True, slots=True)
class Subwindow(Window):
    """A window of a view that is read as it is, not in whole blocks."""


def read_window(
    dataset: Any, scene: Scene, bands: tuple[int, ...], window: Window, out: PixelArray | None = None
) -> tuple[PixelArray, BoolArray]:
    """Pixels (C, h, w) in the scene's dtype and validity (h, w); invalid pixels are set to 0.

    RasterioError where GDAL cannot read it. The pixels are in `out`, where there is one of that shape.
    """
    if scene.view is None or isinstance(window, Subwindow):
        return valid_pixels(dataset, scene, bands, {"window": _gdal_window(window)}, out)
    pixels = np.empty((len(bands), window.height, window.width), scene.dtype) if out is None else out
    valid = np.empty((window.height, window.width), np.bool_)
    for part in blocks(window, scene.block_shape):
        # Always the whole block, so that pixels do not depend on the window; see `geosod.scenes.view`.
        block = block_at(part, scene)
        some, some_valid = valid_pixels(dataset, scene, bands, {"window": _gdal_window(block)})
        source, target = within(part, block), within(part, window)
        pixels[:, *target], valid[target] = some[:, *source], some_valid[source]
    return pixels, valid


def read_pixels(dataset: Any, scene: Scene, bands: tuple[int, ...], window: Window) -> tuple[PixelArray, BoolArray]:
    """As `read_window`; ReadError where GDAL cannot read it."""
    try:
        return read_window(dataset, scene, bands, window)
    except RasterioError as error:
        line = one_line(error.__cause__ or error)
        raise ReadError(f"{scene.ref.uri}: pixels {window} cannot be read: {line}") from error


def within(part: Window, whole: Window) -> tuple[slice, slice]:
    """Rows and columns of a window in an array that holds another window."""
    top, left = part.row - whole.row, part.col - whole.col
    return slice(top, top + part.height), slice(left, left + part.width)


def _gdal_window(window: Window) -> GdalWindow:
    return GdalWindow(window.col, window.row, window.width, window.height)


def blocks(window: Window, shape: tuple[int, int]) -> Iterator[Window]:
    """The parts of a window in each block of (rows, columns), counted from the scene's origin."""
    height, width = shape
    for row in range(window.row // height * height, window.bottom, height):
        for col in range(window.col // width * width, window.right, width):
            part = window.intersection(Window(col, row, width, height))
            if part is not None:
                yield part


def block_at(part: Window, scene: Scene) -> Window:
    """The native block that contains a window."""
    height, width = scene.block_shape
    block = Window(part.col // width * width, part.row // height * height, width, height).intersection(scene.window)
    assert block is not None
    return block


def strips(unit: Unit, rows: int, *, height: int, bottom: int = 0) -> Iterator[tuple[list[Window], Window | None]]:
    """Each row of tiles of a unit, with the strip across the unit that must be read for it.

    Strips end at multiples of `rows`, or at the `height` of the scene, and do not overlap; None where the strips
    before, or what is read already down to `bottom`, cover the row of tiles.
    """
    hull = unit.read_window
    for top, group in groupby(unit.windows, key=lambda window: window.row):
        tiles = list(group)
        start = max(top, bottom)
        bottom = max(start, min(-(-tiles[0].bottom // rows) * rows, height))
        yield tiles, Window(hull.col, start, hull.width, bottom - start) if bottom > start else None


def column_runs(unit: Unit, strip: Window, columns: int) -> list[Window]:
    """The parts of a strip that the tiles of a unit need, from left to right, aligned to blocks `columns` wide.

    An area of interest may leave few tiles; where all are there, the strip is one run.
    """
    needed = sorted((w.col, w.right) for w in unit.windows if w.row < strip.bottom and w.bottom > strip.row)
    runs: list[tuple[int, int]] = []
    for start, stop in needed:
        left, right = max(strip.col, start // columns * columns), min(strip.right, -(-stop // columns) * columns)
        if runs and left <= runs[-1][1]:
            before = runs.pop()
            left, right = before[0], max(before[1], right)
        runs.append((left, right))
    return [Window(left, strip.row, right - left, strip.height) for left, right in runs]


def joined(windows: list[Window]) -> list[Window]:
    """The same pixels in fewer windows: neighbours in a row are joined, then rows with equal columns."""
    for by_row in (True, False):
        found: list[Window] = []
        for w in windows:
            last = found[-1] if found else None
            if by_row and last and (last.row, last.height, last.right) == (w.row, w.height, w.col):
                found[-1] = Window(last.col, last.row, last.width + w.width, last.height)
            elif not by_row and last and (last.col, last.width, last.bottom) == (w.col, w.width, w.row):
                found[-1] = Window(last.col, last.row, last.width, last.height + w.height)
            else:
                found.append(w)
        windows = found
    return windows


def quarters(part: Subwindow) -> list[Window]:
    """The four quarters of a window; none where it is too small to split."""
    if max(part.width, part.height) <= MIN_SUBWINDOW:
        return []
    width, height = -(-part.width // 2), -(-part.height // 2)
    return [
        Subwindow(col, row, min(width, part.right - col), min(height, part.bottom - row))
        for row in range(part.row, part.bottom, height)
        for col in range(part.col, part.right, width)
    ]
