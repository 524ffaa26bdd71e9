"""Writes pixels as a cloud-optimised GeoTIFF (COG)."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.errors import RasterioError
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window as RasterWindow

from geosod.arrays import BoolArray
from geosod.compiled import njit
from geosod.errors import ConfigError, OutputError

#: Side of a COG's blocks in pixels; the height of a strip is a multiple of it.
BLOCK = 512

_CACHE_MB = 256

_Strip = tuple[npt.NDArray[np.uint8], BoolArray]


def write_cog(
    path: str | Path,
    *,
    width: int,
    height: int,
    crs: str,
    transform: Affine,
    strips: Iterable[_Strip],
    quality: int = 85,
    threads: int = 2,
) -> None:
    """Write RGB strips as a COG: JPEG in 512 px blocks, with overviews and a mask of invalid pixels.

    The strips and their overviews go to temporary files in the same folder, which GDAL's COG driver then copies. The
    COG gets its name only once it is complete, and temporary files are always removed. Those of photographs take
    about 2 bytes a pixel. Memory does not grow with the height of the scene.

    Args:
        path: the file; an existing one is replaced.
        width, height: pixels.
        crs: any CRS that GDAL understands, such as ``EPSG:32631``.
        transform: scene frame → CRS coordinates.
        strips: from top to bottom, pixels (3, rows, width) uint8 and valid (rows, width) bool. Every strip
            but the last has a multiple of 512 rows.
        quality: JPEG quality, 1 to 100.
        threads: number of threads that compress.

    Raises:
        ConfigError: the strips do not fill the scene.
        OutputError: the file cannot be written.
    """
    target = Path(path)
    try:
        with (
            tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder,
            rasterio.Env(GDAL_CACHEMAX=_CACHE_MB, GDAL_NUM_THREADS=str(threads), GDAL_TIFF_INTERNAL_MASK="YES"),
        ):
            # GDAL takes NAME.ovr as the overview of NAME, and NAME.ovr.ovr as the overview of that. Halving strips here
            # takes a third of the time of GDAL's own resampling.
            draft, whole = Path(folder) / "draft.tif", Path(folder) / "whole.tif"
            profile = _draft_profile(crs=crs, transform=transform, threads=threads)
            with contextlib.ExitStack() as stack:
                levels = [
                    _Level(stack.enter_context(_create(f"{draft}{'.ovr' * k}", shape, profile)), shape)
                    for k, shape in enumerate(_pyramid(width, height))
                ]
                _write_levels(levels, strips)
            copy_raster(draft, whole, **_cog_options(quality, threads))
            whole.replace(target)
    except (RasterioError, OSError) as error:
        raise OutputError(
            f"cannot write {target}: {error}; check that its folder exists, is writable and has "
            f"{width * height * 4 / 1e9:.1f} GB free"
        ) from error


def _pyramid(width: int, height: int) -> list[tuple[int, int]]:
    """Width and height of the scene and its overviews, each half the size of the one before, down to one block."""
    shapes = [(width, height)]
    while max(shapes[-1]) > BLOCK:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def _draft_profile(*, crs: str, transform: Affine, threads: int) -> dict[str, object]:
    return {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 3,
        "crs": crs,
        "transform": transform,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "interleave": "pixel",
        "photometric": "RGB",
        "compress": "ZSTD",
        "zstd_level": 1,
        "bigtiff": "IF_SAFER",
        "num_threads": threads,
    }


def _create(path: str, shape: tuple[int, int], profile: dict[str, object]) -> rasterio.io.DatasetWriter:
    return rasterio.open(path, "w", width=shape[0], height=shape[1], **profile)


def _cog_options(quality: int, threads: int) -> dict[str, object]:
    return {
        "driver": "COG",
        "compress": "JPEG",
        "quality": quality,
        "blocksize": BLOCK,
        "overviews": "AUTO",
        "overview_quality": quality,
        "bigtiff": "IF_SAFER",
        "num_threads": "ALL_CPUS" if threads > 1 else "1",
    }


class _Level:
    """One level of the pyramid: collects strips and writes complete rows of blocks."""

    def __init__(self, sink: rasterio.io.DatasetWriter, shape: tuple[int, int]) -> None:
        self.sink = sink
        self.width, self.height = shape
        self.row = 0
        self._waiting: list[_Strip] = []

    def add(self, pixels: npt.NDArray[np.uint8], valid: BoolArray) -> Iterator[_Strip]:
        """Add a strip; yields the rows that were written, if any."""
        self._waiting.append((pixels, valid))
        rows = sum(v.shape[0] for _, v in self._waiting)
        if rows % BLOCK and self.row + rows < self.height:
            return
        pixels = np.concatenate([p for p, _ in self._waiting], axis=1) if len(self._waiting) > 1 else pixels
        valid = np.concatenate([v for _, v in self._waiting]) if len(self._waiting) > 1 else valid
        self._waiting = []
        window = RasterWindow(0, self.row, self.width, rows)
        self.sink.write(pixels, window=window)
        self.sink.write_mask(valid, window=window)
        self.row += rows
        yield pixels, valid


def _write_levels(levels: list[_Level], strips: Iterable[_Strip]) -> None:
    scene = levels[0]
    row = 0
    for pixels, valid in strips:
        rows = pixels.shape[1]
        fits = pixels.shape == (3, rows, scene.width) and valid.shape == (rows, scene.width)
        if not fits or row + rows > scene.height or (rows % BLOCK and row + rows != scene.height):
            raise ConfigError(
                f"write_cog: a strip of shape {pixels.shape} with mask {valid.shape} at row {row} does not fit a scene "
                f"of {scene.width} x {scene.height} px; a strip is (3, a multiple of {BLOCK}, {scene.width}), only the "
                "last may have fewer rows"
            )
        row += rows
        _add(levels, pixels, valid)
    if row != scene.height:
        raise ConfigError(f"write_cog: the strips have {row} rows in total, but the scene has {scene.height}")


def _add(levels: list[_Level], pixels: npt.NDArray[np.uint8], valid: BoolArray) -> None:
    for written in levels[0].add(pixels, valid):
        if len(levels) > 1:
            _add(levels[1:], *_halve(*written))


@njit(nogil=True)
def _halve(pixels: npt.NDArray[np.uint8], valid: BoolArray) -> tuple[npt.NDArray[np.uint8], BoolArray]:
    """Means of the valid pixels of every 2 x 2 block; a mean is valid if any of its pixels is."""
    height, width = valid.shape
    rows, cols = (height + 1) // 2, (width + 1) // 2
    small, valid_out = np.zeros((3, rows, cols), np.uint8), np.zeros((rows, cols), np.bool_)
    for r in range(rows):
        for c in range(cols):
            total0, total1, total2, count = 0, 0, 0, 0
            for y in range(2 * r, min(2 * r + 2, height)):
                for x in range(2 * c, min(2 * c + 2, width)):
                    if valid[y, x]:
                        total0 += pixels[0, y, x]
                        total1 += pixels[1, y, x]
                        total2 += pixels[2, y, x]
                        count += 1
            if count:
                valid_out[r, c] = True
                small[0, r, c] = (total0 + count // 2) // count
                small[1, r, c] = (total1 + count // 2) // count
                small[2, r, c] = (total2 + count // 2) // count
    return small, valid_out
