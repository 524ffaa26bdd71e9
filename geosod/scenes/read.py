"""Read the tiles of a unit from a rolling strip of rows, decoding every block once.

The strip holds the rows from the top of the current row of tiles down to the next block boundary below it, across the
unit's columns. For the next row of tiles, the rows above it are dropped and whole block rows below are read. What
cannot be read is retried, then narrowed down to single blocks, which are recorded as failures and read as invalid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from functools import partial

import numpy as np
from rasterio.errors import RasterioError

from geosod.arrays import BoolArray, PixelArray
from geosod.errors import ChangedError, LostError, ReadError
from geosod.results import FAILED, INSPECTED, NODATA, Coverage, Failure
from geosod.scene import Scene, TileBatch, Unit, Window
from geosod.scenes.fetch import LocalReader, window_reader
from geosod.scenes.open import opened
from geosod.scenes.pixels import Subwindow, block_at, blocks, column_runs, joined, quarters, read_window, strips, within

#: Strips are not aligned to native blocks with more rows than this, which would make the strip larger than the tile.
MAX_ALIGNED_ROWS = 1024


@dataclass(frozen=True, slots=True)
class ReadSpec:
    """How to read a unit.

    Attributes:
        bands: 1-based bands in the model's order.
        tile: (width, height) of a tile in pixels.
        chunk: maximum number of tiles in a batch.
        cell: side of a coverage cell in pixels.
        threads: GDAL's decoding threads.
        cache_mb: GDAL's block cache in MB.
        attempts: attempts to read a window of a local file.
        limits: for each band the pixel values that become 0 and 1 in the network; None takes the model card's.
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
    """The summary of reading a unit, which follows its last batch.

    Attributes:
        tiles: number of tiles in the batches.
        empty: number of tiles without a valid pixel, which are in no batch.
        coverage: status of the unit's pixels.
        failures: blocks that could not be read.
    """

    tiles: int
    empty: int
    coverage: Coverage
    failures: tuple[Failure, ...]


def read_unit(scene: Scene, unit: Unit, spec: ReadSpec) -> Iterator[TileBatch | ReadSummary]:
    """Yield the unit's tiles that hold valid pixels, in batches of up to `spec.chunk`, then the summary.

    SceneError where the file cannot be opened any more.
    """
    rows, columns = scene.block_shape
    plan = list(strips(unit, rows if rows <= MAX_ALIGNED_ROWS else 1))
    runs = {strip: column_runs(unit, strip, columns) for _, strip in plan if strip is not None}
    reader = window_reader(
        scene,
        [run for strip in runs.values() for run in strip],
        attempts=spec.attempts,
        open_=partial(opened, scene.ref, view=scene.view, threads=spec.threads, cache_mb=spec.cache_mb),
        read=lambda dataset, window: read_window(dataset, scene, spec.bands, window),
    )
    strip_reader, batches = _StripReader(scene, unit, spec, reader), _BatchBuilder(scene, spec)
    coverage = Coverage.of_window(unit.read_window, spec.cell)
    tiles = 0
    with reader:
        for windows, strip in plan:
            strip_reader.advance(windows[0].row, strip, runs[strip] if strip else [])
            for window in windows:
                pixels, valid = strip_reader.cut(window)
                _mark_inspected(coverage, window, valid)
                if valid is None or valid.any():
                    tiles += 1
                    if (full := batches.add(window, pixels, valid)) is not None:
                        yield full
    if (rest := batches.flush()) is not None:
        yield rest
    for failure in strip_reader.failures:
        _mark_failed(coverage, unit, failure)
    yield ReadSummary(tiles, len(unit.windows) - tiles, coverage, tuple(strip_reader.failures))


@dataclass(slots=True)
class _StripReader:
    """The rolling strip: rows from `top` on, across the unit's columns."""

    scene: Scene
    unit: Unit
    spec: ReadSpec
    reader: LocalReader
    top: int = 0
    pixels: PixelArray | None = None
    valid: BoolArray = field(default_factory=lambda: np.empty((0, 0), np.bool_))
    failures: list[Failure] = field(default_factory=list)

    def advance(self, top: int, strip: Window | None, runs: list[Window]) -> None:
        """Drop the rows above `top`, and append a strip of which `runs` are read."""
        parts, kept = [], slice(top - self.top, None)
        # No row of the old strip is left where the new one starts at `top`.
        if self.pixels is not None and not (strip and strip.row == top):
            parts.append((self.pixels[:, kept], self.valid[kept]))
        if strip is not None:
            parts.append(self._read_strip(strip, runs))
        if len(parts) == 1:
            self.pixels, self.valid = parts[0]
        else:
            self.pixels = np.concatenate([pixels for pixels, _ in parts], axis=1)
            self.valid = np.concatenate([valid for _, valid in parts])
        self.top = top

    def cut(self, window: Window) -> tuple[PixelArray, BoolArray | None]:
        """Array views of a tile: (C, h, w) pixels and (h, w) validity, None where every pixel is valid."""
        assert self.pixels is not None
        rows, columns = within(window, Window(self.unit.read_window.col, self.top, 0, 0))
        valid = self.valid[rows, columns]
        return self.pixels[:, rows, columns], None if valid.all() else valid

    def _read_strip(self, strip: Window, runs: list[Window]) -> tuple[PixelArray, BoolArray]:
        """A strip across the unit; pixels outside the runs are invalid."""
        if runs == [strip]:
            return self._read(strip)
        pixels, valid = self._blank(strip)
        for run in runs:
            rows, columns = within(run, strip)
            pixels[:, rows, columns], valid[rows, columns] = self._read(run)
        return pixels, valid

    def _blank(self, window: Window) -> tuple[PixelArray, BoolArray]:
        shape = (window.height, window.width)
        return np.zeros((len(self.spec.bands), *shape), self.scene.dtype), np.zeros(shape, np.bool_)

    def _read(self, window: Window) -> tuple[PixelArray, BoolArray]:
        try:
            return self.reader.read(window)
        except ChangedError:
            raise
        except (RasterioError, LostError) as error:
            return self._salvage(window, error)

    def _salvage(self, window: Window, error: Exception) -> tuple[PixelArray, BoolArray]:
        """Read block by block, so that only unreadable blocks are lost; stops when the server does not respond."""
        pixels, valid = self._blank(window)
        lost: list[Window] = []
        parts = list(blocks(window, self.scene.block_shape))
        if self.scene.view is not None:
            # A block of a view may cover many blocks of its files, so parts of it are tried.
            parts = [Subwindow(*astuple(block_at(part, self.scene))) for part in parts]
        while parts and self.reader.salvageable and not isinstance(error, LostError):
            part = parts.pop(0)
            inside = part.intersection(window)
            if inside is None:
                continue
            try:
                some, some_valid = self.reader.read_once(part)
            except (RasterioError, LostError) as caught:
                error = caught
                smaller = quarters(part) if isinstance(part, Subwindow) else []
                parts = smaller + parts
                lost += [] if smaller else [inside]
                continue
            target, source = within(inside, window), within(inside, part)
            pixels[:, *target], valid[target] = some[:, *source], some_valid[source]
        parts = [inside for part in parts if (inside := part.intersection(window)) is not None]
        message, ref = " ".join(str(error.__cause__ or error).split()), self.scene.ref
        if isinstance(self.reader, LocalReader) and not isinstance(error, LostError) and "TIFFRead" in message:
            message = f"{message.rstrip('.')}; the file is damaged or incomplete, copy it again"
        for part in joined(lost + parts):
            attempts = self.reader.attempts + 1
            self.failures.append(Failure(ref.id, ref.uri, part, "read", ReadError.__name__, message, attempts))
        return pixels, valid


@dataclass(slots=True)
class _BatchBuilder:
    """Collects tiles into batches."""

    scene: Scene
    spec: ReadSpec
    windows: list[Window] = field(default_factory=list)
    pixels: PixelArray | None = None
    valid: BoolArray | None = None

    def add(self, window: Window, pixels: PixelArray, valid: BoolArray | None) -> TileBatch | None:
        """Add a tile; the batch when it is full."""
        n, (width, height) = self.spec.chunk, self.spec.tile
        if self.pixels is None:
            self.pixels = np.empty((n, len(self.spec.bands), height, width), self.scene.dtype)
        i, (h, w) = len(self.windows), pixels.shape[1:]
        if (h, w) != (height, width):
            self.pixels[i] = 0
        self.pixels[i, :, :h, :w] = pixels
        if (valid is not None or (h, w) != (height, width)) and self.valid is None:
            self.valid = np.ones((n, height, width), np.bool_)
        if self.valid is not None:
            self.valid[i] = False
            self.valid[i, :h, :w] = True if valid is None else valid
        self.windows.append(window)
        return self.flush() if len(self.windows) == n else None

    def flush(self) -> TileBatch | None:
        """The tiles since the last batch, or None."""
        if not self.windows or self.pixels is None:
            return None
        n = len(self.windows)
        windows = np.array([astuple(w) for w in self.windows], np.int64)
        valid = None if self.valid is None else self.valid[:n]
        size = np.tile(np.array([self.scene.width, self.scene.height], np.int64), (n, 1))
        limits = None if self.spec.limits is None else np.tile(np.array(self.spec.limits, np.float32), (n, 1, 1))
        batch = TileBatch(self.pixels[:n], windows, valid, size, limits)
        self.windows, self.pixels, self.valid = [], None, None
        return batch


def _mark_inspected(coverage: Coverage, window: Window, valid: BoolArray | None) -> None:
    update = Coverage.of_window(window, coverage.cell, INSPECTED if valid is None else NODATA)
    if valid is not None:
        rows = np.maximum(np.arange(update.codes.shape[0]) * coverage.cell - window.row % coverage.cell, 0)
        columns = np.maximum(np.arange(update.codes.shape[1]) * coverage.cell - window.col % coverage.cell, 0)
        seen = np.logical_or.reduceat(np.logical_or.reduceat(valid, rows, axis=0), columns, axis=1)
        update.codes[seen] = INSPECTED
    coverage.update(update)


def _mark_failed(coverage: Coverage, unit: Unit, failure: Failure) -> None:
    for window in unit.windows:
        lost = None if failure.window is None else window.intersection(failure.window)
        if lost is not None:
            coverage.update(Coverage.of_window(lost, coverage.cell, FAILED))
