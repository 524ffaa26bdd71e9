"""Which GDAL version and which TIFF compressions this installation of rasterio has."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile


def gdal_version() -> str:
    """The version of GDAL that rasterio uses."""
    return str(rasterio.__gdal_version__)


def usable_codecs(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the given compressions with which a small GeoTIFF can be written and read back."""
    return tuple(name for name in names if _works(name))


def _works(codec: str) -> bool:
    pixels = np.arange(3 * 64 * 64, dtype=np.uint8).reshape(3, 64, 64)
    profile = {"driver": "GTiff", "width": 64, "height": 64, "count": 3, "dtype": "uint8", "compress": codec}
    profile |= {"crs": "EPSG:3857", "transform": rasterio.Affine.scale(2.0)}
    try:
        with rasterio.Env(CPL_LOG_ERRORS="OFF"), MemoryFile() as memory:
            with memory.open(**profile) as dataset:
                dataset.write(pixels)
            with memory.open() as dataset:
                return bool(dataset.read().shape == pixels.shape and dataset.compression is not None)
    except (RasterioError, ValueError):
        return False
