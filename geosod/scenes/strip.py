"""A rolling strip of rows, from which tiles are cut.

The strip holds the rows from the top of the current row of tiles down to the next block boundary below it, across the
unit's columns. For the next row of tiles, the rows above it are dropped and whole block rows below are read. What
cannot be read is retried, then narrowed down to single blocks, which are recorded as failures and read as invalid.
"""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
from rasterio.errors import RasterioError

from geosod.arrays import BoolArray, PixelArray
from geosod.errors import ChangedError, LostError, ReadError
from geosod.results import Failure
from geosod.scene import Scene, Unit, Window
from geosod.scenes.fetch import LocalReader
from geosod.scenes.pixels import Subwindow, block_at, blocks, joined, quarters, within


class Strip:
    """Rows of a scene across the columns of a unit.

    Args:
        scene: the scene.
        bands: number of bands.
        reader: reads windows of them.
        capacity: rows to make room for.

    Attributes:
        failures: what could not be read for the current unit.
    """

    def __init__(self, scene: Scene, bands: int, reader: LocalReader, *, capacity: int) -> None:
        self._scene, self._bands, self._reader = scene, bands, reader
        self._capacity = capacity
        self._unit: Window | None = None
        # Row `_top` of the scene is row `_first` of the arrays, which are filled down to `_bottom`.
        self._pixels = np.empty((bands, 0, 0), scene.dtype)
        self._valid = np.empty((0, 0), np.bool_)
        self._first = self._top = self._bottom = 0
        #: From here on down all columns have been read.
        self._sound = 0
        self.failures: list[Failure] = []

    def start(self, unit: Unit) -> int:
        """Begin a unit; the bottom of what is kept for it, 0 where nothing is."""
        before, self._unit, self.failures = self._unit, unit.read_window, []
        first = self._unit.row
        if (
            before is not None
            and (before.col, before.width) == (self._unit.col, self._unit.width)
            and max(self._top, self._sound) <= first <= self._bottom
            and self._reader.steady
        ):
            return self._bottom
        self._first, self._top, self._bottom, self._sound = 0, first, first, first
        return 0

    def advance(self, top: int, strip: Window | None, runs: list[Window]) -> None:
        """Drop the rows above `top`, and append a strip of which `runs` are read."""
        if strip is None or strip.row > top:
            self._first, self._top = self._first + top - self._top, top
        else:
            # No row of the old strip is left where the new one starts at `top`.
            self._first, self._top, self._bottom = 0, top, top
        if strip is not None:
            self._append(strip, runs)

    def cut(self, window: Window) -> tuple[PixelArray, BoolArray | None]:
        """Array views of a tile: (C, h, w) pixels and (h, w) validity, None where every pixel is valid."""
        assert self._unit is not None
        rows, columns = within(window, Window(self._unit.col, self._top - self._first, 0, 0))
        valid = self._valid[rows, columns]
        return self._pixels[:, rows, columns], None if valid.all() else valid

    def _append(self, strip: Window, runs: list[Window]) -> None:
        kept = self._bottom - self._top
        self._make_room(kept, strip)
        rows = slice(self._first + kept, self._first + kept + strip.height)
        pixels, valid = self._pixels[:, rows], self._valid[rows]
        before = len(self.failures)
        if runs != [strip]:
            pixels[:], valid[:] = 0, False
        for run in runs:
            target = within(run, strip)
            some = pixels[:, *target]
            found, valid[target] = self._read(run, some)
            if found is not some:
                some[:] = found
        self._bottom = strip.bottom
        if runs != [strip] or len(self.failures) > before:
            self._sound = strip.bottom

    def _make_room(self, kept: int, strip: Window) -> None:
        """Room for a strip below the rows that are kept, which move to the top of the arrays where there is none."""
        needed, width = kept + strip.height, strip.width
        old, valid = self._pixels[:, self._first : self._first + kept], self._valid[self._first : self._first + kept]
        if self._valid.shape[1] != width or len(self._valid) < needed:
            height = max(needed, min(self._capacity, self._scene.height))
            self._pixels = np.empty((self._bands, height, width), self._scene.dtype)
            self._valid = np.empty((height, width), np.bool_)
        elif self._first + needed <= len(self._valid):
            return
        if kept:
            self._pixels[:, :kept], self._valid[:kept] = old, valid
        self._first = 0

    def _read(self, window: Window, out: PixelArray) -> tuple[PixelArray, BoolArray]:
        try:
            return self._reader.read(window, out)
        except ChangedError:
            raise
        except (RasterioError, LostError) as error:
            return self._salvage(window, error)

    def _salvage(self, window: Window, error: Exception) -> tuple[PixelArray, BoolArray]:
        """Read block by block, so that only unreadable blocks are lost; stops when the server does not respond."""
        pixels = np.zeros((self._bands, window.height, window.width), self._scene.dtype)
        valid = np.zeros((window.height, window.width), np.bool_)
        lost: list[Window] = []
        parts = list(blocks(window, self._scene.block_shape))
        if self._scene.view is not None:
            # A block of a view may cover many blocks of its files, so parts of it are tried.
            parts = [Subwindow(*astuple(block_at(part, self._scene))) for part in parts]
        while parts and self._reader.salvageable and not isinstance(error, LostError):
            part = parts.pop(0)
            inside = part.intersection(window)
            if inside is None:
                continue
            try:
                some, some_valid = self._reader.read_once(part)
            except (RasterioError, LostError) as caught:
                error = caught
                smaller = quarters(part) if isinstance(part, Subwindow) else []
                parts = smaller + parts
                lost += [] if smaller else [inside]
                continue
            target, source = within(inside, window), within(inside, part)
            pixels[:, *target], valid[target] = some[:, *source], some_valid[source]
        parts = [inside for part in parts if (inside := part.intersection(window)) is not None]
        self._record(joined(lost + parts), error)
        return pixels, valid

    def _record(self, lost: list[Window], error: Exception) -> None:
        assert self._unit is not None
        message, ref = " ".join(str(error.__cause__ or error).split()), self._scene.ref
        if isinstance(self._reader, LocalReader) and not isinstance(error, LostError) and "TIFFRead" in message:
            message = f"{message.rstrip('.')}; the file is damaged or incomplete, copy it again"
        for part in lost:
            # The rows below the unit, down to the next block, are the next unit's to report.
            if (inside := part.intersection(self._unit)) is not None:
                attempts = self._reader.attempts + 1
                self.failures.append(Failure(ref.id, ref.uri, inside, "read", ReadError.__name__, message, attempts))
