"""Arrays as files in memory that GDAL reads."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from affine import Affine
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from geosod.arrays import PixelArray
from geosod.errors import ConfigError

_FOLDER = "geosod-arrays"
#: GDAL's files in memory are the process's, so one name is one file at a time.
_in_use: set[str] = set()
_lock = threading.Lock()


@contextmanager
def memory_file(
    name: str, pixels: PixelArray, *, transform: Affine | None, crs: Any, nodata: float | None
) -> Iterator[str]:
    """The path of a GeoTIFF that holds an array, as long as the block runs. Nothing goes to a disk.

    Args:
        name: file-name safe name.
        pixels: (C, H, W).
        transform: pixel → CRS coordinates, or None.
        crs: anything that rasterio reads, or None.
        nodata: the value of invalid pixels, or None.

    Raises:
        ConfigError: the name is in use by another run, or GDAL cannot hold the array or read the CRS.
    """
    with _lock:
        if name in _in_use:
            raise ConfigError(f"scene {name!r}: another run uses an array of that name now; give this one another id")
        _in_use.add(name)
    try:
        with MemoryFile(dirname=_FOLDER, filename=f"{name}.tif") as file:
            _write(file, name, pixels, {"transform": transform, "crs": crs, "nodata": nodata})
            yield file.name
    finally:
        with _lock:
            _in_use.discard(name)


def _write(file: MemoryFile, name: str, pixels: PixelArray, place: dict[str, Any]) -> None:
    count, height, width = pixels.shape
    pixels = pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "BIGTIFF": "IF_SAFER"}
    # Without these GDAL would take the fourth of four bands for alpha.
    layout |= {"photometric": "MINISBLACK", "ALPHA": "NO"}
    given = {key: value for key, value in place.items() if value is not None}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with file.open(
                driver="GTiff", width=width, height=height, count=count, dtype=pixels.dtype, **layout, **given
            ) as dataset:
                dataset.write(pixels)
                dataset.colorinterp = [ColorInterp.undefined] * count
    except (RasterioError, TypeError, ValueError) as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"scene {name!r}: an array of {pixels.dtype} cannot be read as a scene: {line}") from error
