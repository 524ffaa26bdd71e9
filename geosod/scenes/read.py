"""Read the tiles of units from a rolling strip of rows, decoding every block of a unit once.

A reader keeps its file open from one unit to the next. Where the next unit lies below the last, the strip rolls on, so
that blocks across the border of the two are decoded once as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from geosod.arrays import BoolArray, PixelArray
from geosod.results import FAILED, INSPECTED, NODATA, Coverage, Failure
from geosod.scene import Scene, TileBatch, Unit, Window
from geosod.scenes.fetch import window_reader
from geosod.scenes.open import opened
from geosod.scenes.pixels import column_runs, read_window, strips
from geosod.scenes.strip import Strip

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


class UnitReader:
    """Reads units of a scene, one after the other. It belongs to the thread that reads, which also closes it."""

    def __init__(self, scene: Scene, spec: ReadSpec) -> None:
        self._scene, self._spec = scene, spec
        rows = scene.block_shape[0]
        self._rows = rows if rows <= MAX_ALIGNED_ROWS else 1
        self._reader = window_reader(
            scene,
            attempts=spec.attempts,
            open_=partial(
                opened, scene.ref, view=scene.view, threads=spec.threads, cache_mb=spec.cache_mb, placed=False
            ),
            read=lambda dataset, window, out: read_window(dataset, scene, spec.bands, window, out),
        )
        self._strip = Strip(scene, len(spec.bands), self._reader, capacity=spec.tile[1] + self._rows - 1)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def read(self, unit: Unit) -> Iterator[TileBatch | ReadSummary]:
        """Yield the unit's tiles that hold valid pixels, in batches of up to `spec.chunk`, then the summary.

        Raises:
            SceneError: the file cannot be opened any more. After an error another unit needs another reader.
        """
        bottom = self._strip.start(unit)
        plan = list(strips(unit, self._rows, height=self._scene.height, bottom=bottom))
        columns = self._scene.block_shape[1]
        runs = {strip: column_runs(unit, strip, columns) for _, strip in plan if strip is not None}
        self._reader.begin([run for strip in runs.values() for run in strip])
        batches = _BatchBuilder(self._scene, self._spec)
        coverage = Coverage.of_window(unit.read_window, self._spec.cell)
        tiles = 0
        for windows, strip in plan:
            self._strip.advance(windows[0].row, strip, runs[strip] if strip else [])
            for window in windows:
                pixels, valid = self._strip.cut(window)
                _mark_inspected(coverage, window, valid)
                if valid is None or valid.any():
                    tiles += 1
                    if (full := batches.add(window, pixels, valid)) is not None:
                        yield full
        self._reader.end()
        if (rest := batches.flush()) is not None:
            yield rest
        for failure in self._strip.failures:
            _mark_failed(coverage, unit, failure)
        yield ReadSummary(tiles, len(unit.windows) - tiles, coverage, tuple(self._strip.failures))


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
        windows = np.array([(w.col, w.row, w.width, w.height) for w in self.windows], np.int64)
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
