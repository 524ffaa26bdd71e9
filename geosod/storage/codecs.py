"""Which GDAL version and which TIFF compressions this installation of rasterio has."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile


def gdal_version() -> str:
    """The version of GDAL that rasterio uses."""
    return str(rasterio.__gdal_version__)


def usable_codecs(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the given compressions with which a small GeoTIFF can be written and read back."""
    return tuple(name for name in names if _works(name))


def proj_works() -> bool:
    """Whether GDAL's PROJ finds CRSs; variables of the environment may lead it to the data of another PROJ."""
    try:
        return bool(CRS.from_epsg(3857).is_projected)
    except (RasterioError, ValueError):
        return False


def _works(codec: str) -> bool:
    pixels = np.arange(3 * 64 * 64, dtype=np.uint8).reshape(3, 64, 64)
    profile = {"driver": "GTiff", "width": 64, "height": 64, "count": 3, "dtype": "uint8", "compress": codec}
    try:
        with warnings.catch_warnings(), rasterio.Env(CPL_LOG_ERRORS="OFF"), MemoryFile() as memory:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with memory.open(**profile) as dataset:
                dataset.write(pixels)
            with memory.open() as dataset:
                return bool(dataset.read().shape == pixels.shape and dataset.compression is not None)
    except (RasterioError, ValueError):
        return False
