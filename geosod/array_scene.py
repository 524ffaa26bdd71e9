"""Scenes that are arrays in memory: pixels that a caller passes in place of a file.

GDAL reads them as files in memory, so that everything else treats them like any other scene. Nothing goes to a disk.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio.shutil
from affine import Affine
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from geosod.arrays import PixelArray
from geosod.errors import ConfigError
from geosod.scene import MEMORY, SceneRef, channels_first
from geosod.scenes.sources import safe_id

_lock = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ArrayScene:
    """An array as a scene, with the place, date and name that an array lacks.

    Attributes:
        array: (C, H, W), or (H, W, C) where only that fits the model's bands; (H, W) for one band.
        transform: pixel → CRS coordinates, as rasterio's ``dataset.transform``; None without georeference.
        crs: anything that pyproj reads, such as "EPSG:32631"; None without georeference.
        id: name of the scene.
        datetime: acquisition time; UTC unless it says otherwise.
        nodata: the value of invalid pixels. NaN is invalid in any case.
    """

    array: PixelArray
    transform: Affine | None = None
    crs: Any = None
    id: str = "array"
    datetime: dt.datetime | None = None
    nodata: float | None = None

    def __repr__(self) -> str:
        return f"ArrayScene({self.id!r}, {np.shape(self.array)}, {np.asarray(self.array).dtype})"


@contextmanager
def array_scenes(
    scenes: Sequence[ArrayScene | PixelArray], *, bands: int | None, datetime: dt.datetime | None
) -> Iterator[tuple[SceneRef, ...]]:
    """References to arrays, which the rest of geosod reads like files; valid inside the block.

    Args:
        scenes: the arrays.
        bands: number of the model's bands, which decides between (C, H, W) and (H, W, C); None where bands are chosen
            by the user, and arrays must be (C, H, W).
        datetime: acquisition time of all.

    Raises:
        ConfigError: an array has no pixels, a pixel type that no raster has, or a CRS without a transform.
        ModelError: its shape does not fit the model's bands.
    """
    with ExitStack() as files:
        refs = []
        for i, scene in enumerate(scenes):
            given = scene if isinstance(scene, ArrayScene) else ArrayScene(np.asarray(scene), id=_default_id(i))
            refs.append(_ref(given, bands, datetime, files))
        yield tuple(refs)


def _default_id(index: int) -> str:
    return "array" if index == 0 else f"array-{index + 1}"


def _ref(scene: ArrayScene, bands: int | None, datetime: dt.datetime | None, files: ExitStack) -> SceneRef:
    pixels = np.asarray(scene.array)
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or not pixels.size:
        raise ConfigError(f"scene {scene.id!r}: an array of shape {pixels.shape} is no image; pass (C, H, W)")
    if (scene.crs is None) != (scene.transform is None):
        raise ConfigError(f"scene {scene.id!r}: has a CRS or a transform, but not both; give both, or neither")
    pixels = np.ascontiguousarray(pixels if bands is None else channels_first(pixels, bands))
    state = hashlib.sha256(repr((pixels.shape, pixels.dtype.str, scene.transform, scene.crs, scene.nodata)).encode())
    state.update(pixels.data)
    name, version = safe_id(scene.id), state.hexdigest()
    file = files.enter_context(_new_file(name))
    _write(file, name, pixels, {"transform": scene.transform, "crs": scene.crs, "nodata": scene.nodata})
    return SceneRef(file.name, name, datetime or _utc(scene.datetime), version)


def _new_file(name: str) -> MemoryFile:
    """An empty file in memory, which belong to the process: a name is one file at a time."""
    with _lock:
        if rasterio.shutil.exists(f"{MEMORY}{name}.tif"):
            raise ConfigError(f"scene {name!r}: another array of that name is in use; give this one another id")
        return MemoryFile(dirname=MEMORY.strip("/").removeprefix("vsimem/"), filename=f"{name}.tif")


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


def _utc(moment: dt.datetime | None) -> dt.datetime | None:
    if moment is None:
        return None
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
