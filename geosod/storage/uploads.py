"""Images that a stranger has sent: checked before a pixel is decoded, and opened by drivers that name no other file.

Only GeoTIFF, JPEG and PNG are opened, and only whole ones. GDAL's other drivers may read further files or addresses
that a file names. One that starts like a TIFF and has the text of a VRT in its first bytes is refused: GDAL's VRT
driver would take it.
"""

from __future__ import annotations

import io
import mmap
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader, MemoryFile

from geosod.arrays import BoolArray, PixelArray
from geosod.errors import LimitError, SceneError, one_line
from geosod.storage.complete import check_complete, check_rows
from geosod.storage.formats import tiff_orientation

DRIVERS = ("GTiff", "JPEG", "PNG")
#: First bytes of what these open: TIFF and BigTIFF of both byte orders, JPEG, PNG.
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
#: Text by which GDAL recognises files that name others, wherever it stands in the first bytes.
_NAMING = (b"<vrtdataset", b"<gdaltileindexdataset", b"<mrf_meta", b"<wcs_gdal", b"<gdal_w", b"<pamdataset")
_HEAD = 8192
MAX_BANDS = 64
#: Bytes of a pixel, all bands together, for which room is made; a multi-band scene is sent in a job.
_PIXEL_BYTES = 16
#: A block is decoded whole, even where the image is smaller.
MAX_BLOCK_BYTES = 256 << 20
#: Nothing beside an upload is looked for. Progressive JPEGs are decoded once for every scan.
_GDAL: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_JPEG_MAX_ALLOWED_SCAN_NUMBER": 30,
    "GDAL_NUM_THREADS": 1,
}


@dataclass(frozen=True, slots=True, eq=False)
class UploadedImage:
    """A decoded image.

    Attributes:
        pixels: (C, H, W), colours of a palette expanded, without alpha, upright.
        valid: (H, W) bool, True where a pixel is neither transparent nor nodata; None where every pixel is valid.
    """

    pixels: PixelArray
    valid: BoolArray | None


def check_upload(path: Path, *, max_pixels: int) -> None:
    """Refuse a file that a stranger has sent, unless it is an image of at most `max_pixels`.

    Raises:
        LimitError: it is too large.
        SceneError: it is no image, not complete, or names other files.
    """
    with path.open("rb") as file:
        _check_head(file.read(_HEAD))
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            check_complete(content)
            with _opened(str(path)) as dataset:
                _check_size(dataset, max_pixels)
            check_rows(content)


def read_upload(content: bytes, *, max_pixels: int, reserve: Callable[[int], None] = lambda _: None) -> UploadedImage:
    """Decode the content of an image file.

    Args:
        content: of a GeoTIFF, JPEG or PNG.
        max_pixels: an image of more pixels is refused before it is decoded.
        reserve: called with the bytes of the decoded image before it is decoded; may raise.

    Raises:
        LimitError: it is too large.
        SceneError: it is no image, damaged, or names other files.
    """
    _check_head(content[:_HEAD])
    check_complete(content)
    with MemoryFile(content) as file, _opened(file.name) as dataset:
        reserve(_check_size(dataset, max_pixels))
        check_rows(content)
        try:
            pixels, valid = _pixels(dataset)
        except RasterioError as error:
            raise SceneError(f"the image cannot be decoded: {_line(error)}; it is damaged, send it again") from error
        turn = _orientation(dataset, content)
    return UploadedImage(_upright(pixels, turn), None if valid is None else _upright(valid[None], turn)[0])


def _check_head(head: bytes) -> None:
    if not head.startswith(_MAGIC):
        raise SceneError(f"is no GeoTIFF, JPEG or PNG: it starts with {head[:12]!r}; send the content of an image file")
    named = next((text for text in _NAMING if text in head.lower()), None)
    if named:
        raise SceneError(
            f"has {named.decode()!r} in its first bytes, by which files that name others are known; remove it"
        )


@contextmanager
def _opened(name: str) -> Iterator[Any]:
    with rasterio.Env(**_GDAL), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            dataset = DatasetReader(name, sharing=False, driver=list(DRIVERS))
        except RasterioError as error:
            raise SceneError(f"cannot be opened as an image: {_line(error)}; it is damaged, send it again") from error
        with dataset:
            yield dataset


def _line(error: RasterioError) -> str:
    """The message of GDAL without the name of its file in memory or on disk."""
    text = one_line(error)
    words = [word for word in text.split() if "/" not in word]
    return " ".join(words)[:160] or type(error).__name__


def _check_size(dataset: Any, max_pixels: int) -> int:
    """Bytes of the decoded image."""
    width, height, bands = dataset.width, dataset.height, dataset.count
    if width * height > max_pixels:
        raise LimitError(
            f"an image of {width} x {height} pixels is over the limit of {max_pixels:,} pixels; send a smaller one, or "
            "submit it as a job"
        )
    if bands > MAX_BANDS:
        raise LimitError(f"an image of {bands} bands is over the limit of {MAX_BANDS}; send the bands that are needed")
    size = max(np.dtype(kind).itemsize for kind in dataset.dtypes if _real(kind))
    if bands * width * height * size > max(_PIXEL_BYTES * max_pixels, 1 << 20):
        raise LimitError(
            f"{bands} bands of {width} x {height} pixels are too many bytes; send the bands that are needed"
        )
    total = int(bands * width * height * size)
    rows, cols = max(dataset.block_shapes, key=lambda shape: int(shape[0]) * int(shape[1]))
    if rows * cols * bands * size > MAX_BLOCK_BYTES:
        raise LimitError(
            f"blocks of {cols} x {rows} pixels are over the limit of {MAX_BLOCK_BYTES >> 20} MiB; write blocks of 512"
        )
    return total


def _real(kind: str) -> bool:
    try:
        real = np.dtype(kind).kind in "iuf"
    except TypeError:
        real = False
    if not real:
        raise SceneError(f"pixels are of type {kind}, which no model takes; convert them to integers or floats")
    return real


def _pixels(dataset: Any) -> tuple[PixelArray, BoolArray | None]:
    interpretations = list(dataset.colorinterp)
    if interpretations[0] == ColorInterp.palette:
        colours = np.zeros((256, 4), np.uint8)
        for index, colour in dataset.colormap(1).items():
            if 0 <= index < len(colours):
                colours[index] = colour
        found = colours[dataset.read(1).astype(np.uint8)].transpose(2, 0, 1)
        return np.ascontiguousarray(found[:3]), _mask(found[3] > 0)
    alpha = len(interpretations) if interpretations[-1] == ColorInterp.alpha and len(interpretations) > 1 else None
    pixels = dataset.read(list(range(1, alpha or dataset.count + 1)))
    all_valid = all(flags == [MaskFlags.all_valid] for flags in dataset.mask_flag_enums)
    return pixels, None if all_valid else _mask(dataset.dataset_mask() > 0)


def _mask(valid: BoolArray) -> BoolArray | None:
    return None if valid.all() else valid


def _orientation(dataset: Any, content: bytes) -> int:
    """1 to 8, as in EXIF."""
    if dataset.driver == "GTiff":
        try:
            return tiff_orientation(io.BytesIO(content))
        except (struct.error, ValueError):
            return 1
    text = dataset.tags().get("EXIF_Orientation", "")
    return int(text) if text in {str(n) for n in range(1, 9)} else 1


def _upright(image: Any, orientation: int) -> Any:
    """(C, H, W) as it is meant to be seen; EXIF 2.32, table of orientations."""
    if orientation >= 5:
        image = image.swapaxes(1, 2)
    turned = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    return np.ascontiguousarray(image[:, :: turned[0], :: turned[1]])
