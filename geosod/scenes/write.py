"""Writes pixels as a cloud-optimised GeoTIFF."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window as RasterWindow

from geosod.errors import ConfigError, OutputError
from geosod.types import BoolArray

#: Pixels on a side of the blocks of a COG; strips have a multiple of it as height.
BLOCK = 512

_CACHE_MB = 256
_DRAFT_QUALITY = 95


def write_cog(
    path: str | Path,
    *,
    width: int,
    height: int,
    crs: str,
    transform: Affine,
    strips: Iterable[tuple[npt.NDArray[np.uint8], BoolArray]],
    quality: int = 85,
    threads: int = 2,
) -> None:
    """Write RGB strips as a COG: JPEG in 512 px blocks, overviews, and a mask for what is invalid.

    The strips go to a draft in the same folder, which GDAL's COG driver then copies. Both files bear other
    names until the COG is whole; whatever happens, no draft stays behind. Memory does not grow with the scene.

    Args:
        path: the file; one that is there is replaced.
        width, height: pixels.
        crs: anything GDAL understands, such as ``EPSG:32631``.
        transform: scene frame → CRS coordinates.
        strips: from top to bottom, pixels (3, rows, width) uint8 and valid (rows, width) bool. Every strip
            but the last has a multiple of 512 rows.
        quality: of the JPEG compression, 1 to 100.
        threads: threads of the compression.

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
            draft, whole = Path(folder) / "draft.tif", Path(folder) / "whole.tif"
            profile = _draft_profile(width=width, height=height, crs=crs, transform=transform, threads=threads)
            with rasterio.open(draft, "w", **profile) as sink:
                sink.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
                _fill(sink, strips, width=width, height=height)
            copy_raster(draft, whole, **_cog_options(quality, threads))
            whole.replace(target)
    except (RasterioError, OSError) as error:
        raise OutputError(
            f"cannot write {target}: {error}; see that its folder exists, can be written and has "
            f"{width * height / 1e9:.1f} GB free"
        ) from error


def _draft_profile(*, width: int, height: int, crs: str, transform: Affine, threads: int) -> dict[str, object]:
    return {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 3,
        "width": width,
        "height": height,
        "crs": crs,
        "transform": transform,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "interleave": "pixel",
        "photometric": "YCBCR",
        "compress": "JPEG",
        "jpeg_quality": _DRAFT_QUALITY,
        "bigtiff": "IF_SAFER",
        "num_threads": threads,
    }


def _cog_options(quality: int, threads: int) -> dict[str, object]:
    return {
        "driver": "COG",
        "compress": "JPEG",
        "quality": quality,
        "blocksize": BLOCK,
        "overviews": "IGNORE_EXISTING",
        "overview_resampling": "AVERAGE",
        "overview_quality": quality,
        "bigtiff": "IF_SAFER",
        "num_threads": "ALL_CPUS" if threads > 1 else "1",
    }


def _fill(
    sink: rasterio.io.DatasetWriter,
    strips: Iterable[tuple[npt.NDArray[np.uint8], BoolArray]],
    *,
    width: int,
    height: int,
) -> None:
    row = 0
    for pixels, valid in strips:
        rows = pixels.shape[1]
        fits = pixels.shape == (3, rows, width) and valid.shape == (rows, width) and row + rows <= height
        if not fits or (rows % BLOCK and row + rows != height):
            raise ConfigError(
                f"write_cog: a strip of shape {pixels.shape} with mask {valid.shape} at row {row} does not fit a "
                f"scene of {width} x {height} px; strips are (3, a multiple of {BLOCK}, {width}), the last may be lower"
            )
        window = RasterWindow(0, row, width, rows)
        sink.write(pixels, window=window)
        sink.write_mask(valid, window=window)
        row += rows
    if row != height:
        raise ConfigError(f"write_cog: the strips have {row} rows together, the scene has {height}")
