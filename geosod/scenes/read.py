"""Read a unit: every block decoded once, tiles cut from a rolling strip of rows.

The strip holds the rows from the top of the current tile row down to the next block boundary below it,
across the unit's columns. Going down one tile row drops the rows above and reads whole block rows below,
so no block is asked for twice inside a unit. Reading is the only thing here that can fail; what fails is
tried again, then narrowed to single blocks, and their ground is given up, recorded, and read as invalid.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from rasterio.errors import RasterioError

from geosod.arrays import BoolArray, PixelArray
from geosod.errors import ChangedError, LostError, ReadError
from geosod.results import FAILED, INSPECTED, NODATA, Coverage, Failure
from geosod.scene import Scene, TileBatch, Unit, Window
from geosod.scenes.fetch import Source, runs, source, strip_windows
from geosod.scenes.open import opened
from geosod.scenes.pixels import Piece, block_at, blocks, coalesced, quarters, read_window, within

#: Native blocks taller than this are not aligned to: the strip would outgrow the tile.
MAX_ALIGNED_ROWS = 1024


@dataclass(frozen=True, slots=True)
class ReadSpec:
    """How to read a unit.

    Attributes:
        bands: 1-based bands in the model's order.
        tile: (width, height) of a tile in pixels.
        chunk: most tiles in one batch.
        cell: side of a coverage cell in pixels.
        threads: GDAL's decoding threads.
        cache_mb: GDAL's block cache in MB.
        attempts: how often a failing read is tried.
        limits: the values of each band that are 0 and 1 to the network, or None for the model card's.
    """

    bands: tuple[int, ...]
    tile: tuple[int, int]
    chunk: int
    cell: int = 32
    threads: int = 1
    cache_mb: int = 64
    attempts: int = 2
    limits: tuple[tuple[float, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class ReadSummary:
    """What reading a unit came to, after its last batch.

    Attributes:
        tiles: tiles handed on.
        empty: tiles without a valid pixel, which are not handed on.
        coverage: what became of the unit's ground.
        failures: blocks that could not be read.
    """

    tiles: int
    empty: int
    coverage: Coverage
    failures: tuple[Failure, ...]


def read_unit(scene: Scene, unit: Unit, spec: ReadSpec) -> Iterator[TileBatch | ReadSummary]:
    """Yield the unit's tiles that hold valid pixels, in batches of up to `spec.chunk`, then the account.

    Raises:
        SceneError: the file cannot be opened any more.
    """
    strip_reader = _StripReader(scene, unit, spec)
    coverage = Coverage.of_window(unit.read_window, spec.cell)
    stack = _Stack(scene, unit, spec)
    tiles = 0
    with _source(scene, unit, spec) as dataset:
        for top, row in groupby(unit.windows, key=lambda window: window.row):
            windows = list(row)
            strip_reader.advance(dataset, top, windows[0].bottom)
            for window in windows:
                pixels, valid = strip_reader.cut(window)
                _account(coverage, window, valid)
                if valid is None or valid.any():
                    tiles += 1
                    if (full := stack.push(window, pixels, valid)) is not None:
                        yield full
    if (rest := stack.flush()) is not None:
        yield rest
    for failure in strip_reader.failures:
        _mark_failed(coverage, unit, failure)
    yield ReadSummary(tiles, len(unit.windows) - tiles, coverage, tuple(strip_reader.failures))


@dataclass(slots=True)
class _StripReader:
    """A rolling strip: rows ``[top, bottom)`` of the unit's columns."""

    scene: Scene
    unit: Unit
    spec: ReadSpec
    top: int = 0
    bottom: int = 0
    pixels: PixelArray | None = None
    valid: BoolArray | None = None
    failures: list[Failure] = field(default_factory=list)

    def advance(self, dataset: Any, top: int, bottom: int) -> None:
        """Drop the rows above `top`, and read whole blocks until `bottom` is covered."""
        block = _aligned_rows(self.scene)
        start = max(top, self.bottom)
        stop = min(-(-bottom // block) * block, self.unit.read_window.bottom)
        kept = slice(top - self.top, None)
        pixels = None if self.pixels is None or start == top else self.pixels[:, kept]
        valid = None if self.valid is None or start == top else self.valid[kept]
        if stop > start:
            hull = self.unit.read_window
            new, new_valid = self._strip(dataset, Window(hull.col, start, hull.width, stop - start))
            pixels = new if pixels is None else np.concatenate([pixels, new], axis=1)
            valid = new_valid if valid is None else np.concatenate([valid, new_valid])
        self.pixels, self.valid = pixels, valid
        self.top, self.bottom = top, max(stop, start)

    def cut(self, window: Window) -> tuple[PixelArray, BoolArray | None]:
        """Views of a tile: (C, h, w) pixels and (h, w) validity, None where every pixel is valid."""
        assert self.pixels is not None and self.valid is not None
        rows = slice(window.row - self.top, window.bottom - self.top)
        left = self.unit.read_window.col
        columns = slice(window.col - left, window.right - left)
        valid = self.valid[rows, columns]
        return self.pixels[:, rows, columns], None if valid.all() else valid

    def _strip(self, source: Source, strip: Window) -> tuple[PixelArray, BoolArray]:
        """A strip across the unit, in which only what its tiles need is read."""
        parts = runs(self.unit, strip, self.scene.block_shape[1])
        if parts == [strip]:
            return self._read(source, strip)
        pixels = np.zeros((len(self.spec.bands), strip.height, strip.width), self.scene.dtype)
        valid = np.zeros((strip.height, strip.width), np.bool_)
        for part in parts:
            rows, columns = within(part, strip)
            pixels[:, rows, columns], valid[rows, columns] = self._read(source, part)
        return pixels, valid

    def _read(self, source: Source, window: Window) -> tuple[PixelArray, BoolArray]:
        try:
            return source.read(window)
        except ChangedError:
            raise
        except (RasterioError, LostError) as error:
            return self._salvage(source, window, error)

    def _salvage(self, source: Source, window: Window, error: Exception) -> tuple[PixelArray, BoolArray]:
        """Read block by block, so that only what is truly unreadable is lost; not from a server that is silent."""
        pixels = np.zeros((len(self.spec.bands), window.height, window.width), self.scene.dtype)
        valid = np.zeros((window.height, window.width), np.bool_)
        lost: list[Window] = []
        parts = list(blocks(window, self.scene.block_shape))
        if self.scene.view is not None:
            # Pieces of a view are the same whatever the window, and may be pieces of many blocks of its files.
            parts = [Piece(*astuple(block_at(part, self.scene))) for part in parts]
        while parts and source.salvageable and not isinstance(error, LostError):
            part = parts.pop(0)
            inside = part.intersection(window)
            if inside is None:
                continue
            try:
                some, some_valid = source.read_once(part)
            except (RasterioError, LostError) as caught:
                error = caught
                smaller = quarters(part) if isinstance(part, Piece) else []
                parts = smaller + parts
                lost += [] if smaller else [inside]
                continue
            here, there = within(inside, window), within(inside, part)
            pixels[:, *here], valid[here] = some[:, *there], some_valid[there]
        parts = [inside for part in parts if (inside := part.intersection(window)) is not None]
        message = " ".join(str(error.__cause__ or error).split())
        ref = self.scene.ref
        for part in coalesced(lost + parts):
            self.failures.append(Failure(ref.id, ref.uri, part, "read", ReadError.__name__, message, source.tried + 1))
        return pixels, valid


def _aligned_rows(scene: Scene) -> int:
    """Strips end at multiples of this many rows."""
    rows = scene.block_shape[0]
    return rows if rows <= MAX_ALIGNED_ROWS else 1


def _source(scene: Scene, unit: Unit, spec: ReadSpec) -> AbstractContextManager[Source]:
    """What the strips of a unit are read from."""
    return source(
        scene,
        tuple(strip_windows(unit, _aligned_rows(scene), scene.block_shape[1])),
        attempts=spec.attempts,
        open_=partial(opened, scene.ref, view=scene.view, threads=spec.threads, cache_mb=spec.cache_mb),
        read=lambda dataset, window: read_window(dataset, scene, spec.bands, window),
    )


@dataclass(slots=True)
class _Stack:
    """Tiles on their way into one batch."""

    scene: Scene
    unit: Unit
    spec: ReadSpec
    windows: list[Window] = field(default_factory=list)
    pixels: PixelArray | None = None
    valid: BoolArray | None = None

    def push(self, window: Window, pixels: PixelArray, valid: BoolArray | None) -> TileBatch | None:
        """Add a tile; the batch when it is full."""
        n, (width, height) = self.spec.chunk, self.spec.tile
        if self.pixels is None:
            self.pixels = np.zeros((n, len(self.spec.bands), height, width), self.scene.dtype)
        i, (h, w) = len(self.windows), pixels.shape[1:]
        self.pixels[i, :, :h, :w] = pixels
        if (valid is not None or (h, w) != (height, width)) and self.valid is None:
            self.valid = np.ones((n, height, width), np.bool_)
        if self.valid is not None:
            self.valid[i] = False
            self.valid[i, :h, :w] = True if valid is None else valid
        self.windows.append(window)
        return self.flush() if len(self.windows) == n else None

    def flush(self) -> TileBatch | None:
        """What has been pushed since the last batch, or None."""
        if not self.windows or self.pixels is None:
            return None
        n = len(self.windows)
        windows = np.array([(w.col, w.row, w.width, w.height) for w in self.windows], np.int64)
        valid = None if self.valid is None else self.valid[:n]
        size = np.tile(np.array([self.scene.width, self.scene.height], np.int64), (n, 1))
        limits = None if self.spec.limits is None else np.tile(np.array(self.spec.limits, np.float32), (n, 1, 1))
        batch = TileBatch(self.pixels[:n], windows, valid, size, limits)
        self.windows, self.pixels, self.valid = [], None, None
        return batch


def _account(coverage: Coverage, window: Window, valid: BoolArray | None) -> None:
    if valid is None:
        coverage.update(Coverage.of_window(window, coverage.cell, INSPECTED))
        return
    told = Coverage.of_window(window, coverage.cell, NODATA)
    rows = np.maximum(np.arange(told.codes.shape[0]) * coverage.cell - window.row % coverage.cell, 0)
    columns = np.maximum(np.arange(told.codes.shape[1]) * coverage.cell - window.col % coverage.cell, 0)
    seen = np.logical_or.reduceat(np.logical_or.reduceat(valid, rows, axis=0), columns, axis=1)
    told.codes[seen] = INSPECTED
    coverage.update(told)


def _mark_failed(coverage: Coverage, unit: Unit, failure: Failure) -> None:
    for window in unit.windows:
        lost = None if failure.window is None else window.intersection(failure.window)
        if lost is not None:
            coverage.update(Coverage.of_window(lost, coverage.cell, FAILED))
