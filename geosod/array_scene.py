"""Scenes that are arrays in memory: pixels that a caller passes in place of a file.

GDAL reads them as files in memory, so that everything else treats them like any other scene. Nothing goes to a disk.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from geosod.arrays import BoolArray, PixelArray
from geosod.errors import MEMORY, ConfigError, one_line
from geosod.html_repr import card, grid
from geosod.scene import SceneRef, channels_first
from geosod.scenes.sources import safe_id
from geosod.viewing.stretch import as_picture
from geosod.viewing.webp import webp_bytes

#: About the longest side of a picture in a notebook.
_THUMBNAIL = 260

_lock = threading.Lock()
_in_use: set[str] = set()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ArrayScene:
    """An array as a scene, with its georeference, date and name.

    Attributes:
        array: (C, H, W), or (H, W, C) where only that fits the model's bands; (H, W) for one band.
        transform: pixel → CRS coordinates, as rasterio's ``dataset.transform`` (an `Affine`, or its first six numbers);
            None without georeference.
        crs: anything that pyproj reads, such as "EPSG:32631"; None without georeference.
        id: name of the scene, which can name a file.
        datetime: acquisition time, or ISO 8601 text; UTC if it has no offset.
        nodata: the value of invalid pixels. NaN, and what a masked array masks, is invalid in any case.
    """

    array: PixelArray
    transform: Affine | Sequence[float] | None = None
    crs: Any = None
    id: str = "array"
    datetime: dt.datetime | str | None = None
    nodata: float | None = None

    def __repr__(self) -> str:
        return f"ArrayScene({self.id!r}, {np.shape(self.array)}, {np.asarray(self.array).dtype})"

    def _repr_html_(self) -> str:
        values = np.ma.filled(np.ma.asarray(self.array), 0)
        about = [("shape", values.shape), ("pixels", values.dtype), ("CRS", self.crs), ("date", self.datetime)]
        shown = grid((), [(name, value) for name, value in about if value is not None])
        return card(self.id, _thumbnail(values), shown)


def _thumbnail(values: PixelArray) -> str:
    """An image element of (C, H, W), (H, W, C) or (H, W) pixels; "" for other shapes."""
    if values.ndim not in (2, 3) or 0 in values.shape:
        return ""
    bands = values[None] if values.ndim == 2 else values
    # Images have more columns than bands.
    bands = np.moveaxis(bands, 2, 0) if bands.shape[2] < min(bands.shape[:2]) else bands
    step = max(1, max(bands.shape[1:]) // _THUMBNAIL)
    picture = as_picture(bands[:, ::step, ::step])
    opaque = np.full((*picture.shape[:2], 1), 255, np.uint8)
    data = base64.b64encode(webp_bytes(np.concatenate([picture, opaque], axis=2))).decode("ascii")
    return f'<img alt="" src="data:image/webp;base64,{data}">'


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
        refs: list[SceneRef] = []
        for i, scene in enumerate(scenes):
            given = scene if isinstance(scene, ArrayScene) else ArrayScene(scene, id=_default_id(i))
            if any(ref.id == given.id for ref in refs):
                raise ConfigError(f"scene {given.id!r}: another array has that id; give each its own")
            refs.append(_ref(given, bands, datetime, files))
        yield tuple(refs)


def _default_id(index: int) -> str:
    return "array" if index == 0 else f"array-{index + 1}"


def _ref(scene: ArrayScene, bands: int | None, datetime: dt.datetime | None, files: ExitStack) -> SceneRef:
    given = scene.array if np.ma.isMaskedArray(scene.array) else _numpy(scene)
    given = given[None] if given.ndim == 2 else given
    if given.ndim != 3 or not given.size:
        raise ConfigError(f"scene {scene.id!r}: an array of shape {given.shape} is not an image; pass (C, H, W)")
    if given.dtype == np.bool_:
        raise ConfigError(
            f"scene {scene.id!r}: pixels are bool; convert them on purpose, such as image * np.uint8(255)"
        )
    if (scene.crs is None) != (scene.transform is None):
        raise ConfigError(f"scene {scene.id!r}: has a CRS or a transform, but not both; give both, or neither")
    ordered = given if bands is None else channels_first(given, bands)
    pixels, valid = np.ascontiguousarray(np.ma.getdata(ordered)), _valid(ordered)
    transform = _affine(scene)
    state = hashlib.sha256(repr((pixels.shape, pixels.dtype.str, transform, scene.crs, scene.nodata)).encode())
    state.update(pixels.data)
    state.update(b"" if valid is None else valid.tobytes())
    name, version = safe_id(scene.id), state.hexdigest()
    if name != scene.id:
        raise ConfigError(f"scene {scene.id!r}: this id cannot name a file; use letters, digits, '-', '_' and '.'")
    file = files.enter_context(_new_file(name))
    _write(file, name, pixels, valid, {"transform": transform, "crs": scene.crs, "nodata": scene.nodata})
    return SceneRef(file.name, name, datetime or _utc(scene.datetime), version)


def _numpy(scene: ArrayScene) -> PixelArray:
    try:
        return np.asarray(scene.array)
    except (TypeError, ValueError, RuntimeError) as error:
        line = one_line(error)
        raise ConfigError(f"scene {scene.id!r}: a {type(scene.array).__name__} is not an array: {line}") from error


def _valid(pixels: PixelArray) -> BoolArray | None:
    """(H, W) bool, False where a masked array masks a band; None where nothing is masked."""
    if not np.ma.isMaskedArray(pixels):
        return None
    mask = np.asarray(np.ma.getmaskarray(pixels).any(axis=0))
    return ~mask if mask.any() else None


def _affine(scene: ArrayScene) -> Affine | None:
    given = scene.transform
    if given is None or isinstance(given, Affine):
        return given
    numbers = np.asarray(given, dtype=object).ravel().tolist()
    if len(numbers) not in (6, 9) or not all(isinstance(n, int | float) for n in numbers):
        raise ConfigError(
            f"scene {scene.id!r}: transform {given!r} is not an Affine; pass affine.Affine(a, b, c, d, e, f)"
        )
    return Affine(*numbers[:6])


@contextmanager
def _new_file(name: str) -> Iterator[MemoryFile]:
    """An empty file in memory. These belong to the process, so runs that use one name at a time use several folders."""
    with _lock:
        number = next(i for i in count() if f"{i}/{name}" not in _in_use)
        _in_use.add(f"{number}/{name}")
    # Each in a folder of its own: with a file, rasterio removes all that lies below its folder.
    folder = f"{MEMORY.removeprefix('/vsimem/')}{number}"
    try:
        with MemoryFile(dirname=folder.strip("/"), filename=f"{name}.tif") as file:
            yield file
    finally:
        with _lock:
            _in_use.discard(f"{number}/{name}")


def _write(file: MemoryFile, name: str, pixels: PixelArray, valid: BoolArray | None, place: dict[str, Any]) -> None:
    bands, height, width = pixels.shape
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "BIGTIFF": "IF_SAFER"}
    # Without these GDAL would take the fourth of four bands for alpha.
    layout |= {"photometric": "MINISBLACK", "ALPHA": "NO"}
    given = {key: value for key, value in place.items() if value is not None}
    try:
        with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with file.open(
                driver="GTiff", width=width, height=height, count=bands, dtype=pixels.dtype, **layout, **given
            ) as dataset:
                dataset.write(pixels)
                if valid is not None:
                    dataset.write_mask(valid)
                dataset.colorinterp = [ColorInterp.undefined] * bands
    except (RasterioError, TypeError, ValueError) as error:
        line = one_line(error)
        raise ConfigError(f"scene {name!r}: an array of {pixels.dtype} cannot be read as a scene: {line}") from error


def _utc(moment: dt.datetime | str | None) -> dt.datetime | None:
    if moment is None:
        return None
    try:
        moment = dt.datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    except ValueError as error:
        raise ConfigError(f"datetime {moment!r} is not ISO 8601, such as 2026-05-01T10:30Z") from error
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
