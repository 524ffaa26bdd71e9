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
from rasterio.windows import Window as GdalWindow

from geosod.errors import ChangedError, LostError, ReadError
from geosod.scenes.fetch import Source, runs, source, strip_windows
from geosod.scenes.open import opened
from geosod.types import (
    FAILED,
    INSPECTED,
    NODATA,
    BoolArray,
    Coverage,
    Failure,
    PixelArray,
    Scene,
    TileBatch,
    Unit,
    Window,
)

#: Native blocks taller than this are not aligned to: the strip would outgrow the tile.
MAX_ALIGNED_ROWS = 1024
#: Side of the smallest piece of a view that is tried when a larger one cannot be read.
LEAST_PIECE = 16


@dataclass(frozen=True, slots=True)
class ReadSpec:
    """How to read a unit.

    Attributes:
        bands: 1-based bands in the model's order.
        tile: side of a tile in pixels.
        chunk: most tiles in one batch.
        cell: side of a coverage cell in pixels.
        threads: GDAL's decoding threads.
        cache_mb: GDAL's block cache in MB.
        attempts: how often a failing read is tried.
        limits: the values of each band that are 0 and 1 to the network, or None for the model card's.
    """

    bands: tuple[int, ...]
    tile: int
    chunk: int
    cell: int = 32
    threads: int = 1
    cache_mb: int = 64
    attempts: int = 2
    limits: tuple[tuple[float, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class ReadAccount:
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


def read_unit(scene: Scene, unit: Unit, spec: ReadSpec) -> Iterator[TileBatch | ReadAccount]:
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
    yield ReadAccount(tiles, len(unit.windows) - tiles, coverage, tuple(strip_reader.failures))


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
        block = self.scene.block_shape[0] if self.scene.block_shape[0] <= MAX_ALIGNED_ROWS else 1
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
            rows, columns = _within(part, strip)
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
            parts = [Piece(*astuple(_block_at(part, self.scene))) for part in parts]
        while parts and source.salvageable and not isinstance(error, LostError):
            part = parts.pop(0)
            inside = part.intersection(window)
            if inside is None:
                continue
            try:
                some, some_valid = source.read_once(part)
            except (RasterioError, LostError) as caught:
                error = caught
                quarters = _quarters(part) if isinstance(part, Piece) else []
                parts = quarters + parts
                lost += [] if quarters else [inside]
                continue
            here, there = _within(inside, window), _within(inside, part)
            pixels[:, *here], valid[here] = some[:, *there], some_valid[there]
        parts = [inside for part in parts if (inside := part.intersection(window)) is not None]
        message = " ".join(str(error.__cause__ or error).split())
        ref = self.scene.ref
        for part in _coalesced(lost + parts):
            self.failures.append(Failure(ref.id, ref.uri, part, "read", ReadError.__name__, message, source.tried + 1))
        return pixels, valid


@dataclass(frozen=True, slots=True)
class Piece(Window):
    """A window of a view that is read as it is, not in blocks."""


def _quarters(piece: Piece) -> list[Window]:
    """Four pieces for one; none where it is as small as is worth a try."""
    if max(piece.width, piece.height) <= LEAST_PIECE:
        return []
    half = Window(0, 0, -(-piece.width // 2), -(-piece.height // 2))
    return [
        Piece(col, row, min(half.width, piece.right - col), min(half.height, piece.bottom - row))
        for row in range(piece.row, piece.bottom, half.height)
        for col in range(piece.col, piece.right, half.width)
    ]


def _source(scene: Scene, unit: Unit, spec: ReadSpec) -> AbstractContextManager[Source]:
    """What the strips of a unit are read from."""
    rows = scene.block_shape[0] if scene.block_shape[0] <= MAX_ALIGNED_ROWS else 1
    return source(
        scene,
        tuple(strip_windows(unit, rows, scene.block_shape[1])),
        attempts=spec.attempts,
        open_=partial(opened, scene.ref, view=scene.view, threads=spec.threads, cache_mb=spec.cache_mb),
        read=lambda dataset, window: read_window(dataset, scene, spec.bands, window),
    )


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
        block = _block_at(part, scene)
        some, some_valid = _read_plainly(dataset, scene, bands, block)
        source, target = _within(part, block), _within(part, window)
        pixels[:, *target], valid[target] = some[:, *source], some_valid[source]
    return pixels, valid


def _within(part: Window, whole: Window) -> tuple[slice, slice]:
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


def _block_at(part: Window, scene: Scene) -> Window:
    """The native block in which a window lies."""
    height, width = scene.block_shape
    block = Window(part.col // width * width, part.row // height * height, width, height).intersection(scene.window)
    assert block is not None
    return block


def _coalesced(windows: list[Window]) -> list[Window]:
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
        n, side = self.spec.chunk, self.spec.tile
        if self.pixels is None:
            self.pixels = np.zeros((n, len(self.spec.bands), side, side), self.scene.dtype)
        i, (h, w) = len(self.windows), pixels.shape[1:]
        self.pixels[i, :, :h, :w] = pixels
        if (valid is not None or (h, w) != (side, side)) and self.valid is None:
            self.valid = np.ones((n, side, side), np.bool_)
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
