"""Formats of rasters: which are opened, how files of several images are addressed, and how they are turned."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

from geosod.storage.uris import is_remote, suffix

#: Drivers of GDAL that open remote files; others would look for further files.
REMOTE_DRIVERS = ("GTiff", "JPEG", "PNG", "JP2OpenJPEG")
#: Drivers that open local files; some of GDAL's other drivers access the network.
DRIVERS = (*REMOTE_DRIVERS, "VRT", "NITF", "ENVI", "HFA", "MRF", "GTI")
#: What a message says of them.
OPENED = (
    "GeoTIFF, JPEG, PNG, JPEG 2000 and VRT are opened, and of local files NITF, ENVI, ERDAS Imagine (.img), MRF and "
    "GTI; convert others (gdal_translate -of COG IN OUT.tif)"
)
#: Suffixes of ENVI files in a folder, which have a header beside them.
_ENVI = (".dat", ".bsq", ".bil", ".bip", ".raw", ".envi", "")
_TILE_INDEXES = (".gti.gpkg", ".gti.fgb", ".gti.parquet")
_ORIENTATION = 274
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_tile_index(name: str) -> bool:
    """Whether a file name is that of a vector tile index, which GDAL's GTI driver shows as a raster."""
    return name.lower().endswith(_TILE_INDEXES)


def is_local_tiff(uri: str) -> bool:
    """Whether a local file starts as a TIFF or BigTIFF does."""
    try:
        with open(uri, "rb") as file:  # noqa: PTH123
            return file.read(4) in _TIFF
    except OSError:
        return False


def is_envi_data(path: Path) -> bool:
    """Whether a file is the data of an ENVI file, with its header beside it."""
    if path.suffix.lower() not in _ENVI:
        return False
    for header in (path.with_suffix(".hdr"), path.with_name(path.name + ".hdr")):
        try:
            with header.open("rb") as file:
                if file.read(4) == b"ENVI":
                    return True
        except OSError:
            continue
    return False


def images(dataset: Any) -> list[str]:
    """What GDAL puts in front of a file's name for each of its images, the first of which needs nothing.

    The numbers in it are not those of the images: overviews and masks are counted, too.

    Args:
        dataset: an open rasterio dataset of the file.
    """
    if dataset.driver not in ("GTiff", "NITF"):
        return [""]
    found = [":".join(name.split(":", 2)[:2]) + ":" for name in dataset.subdatasets]
    return ["", *found[1:]]


def orientation(uri: str, dataset: Any) -> int:
    """The TIFF or EXIF orientation of an image, 1 to 8; 1 where there is none, or a remote TIFF's is not looked up."""
    text = dataset.tags().get("EXIF_Orientation")
    if text is None and dataset.driver == "GTiff" and not is_remote(uri):
        try:
            with Path(uri).open("rb") as file:
                return tiff_orientation(file)
        except (OSError, struct.error, ValueError):
            return 1
    return int(text) if text in {str(n) for n in range(1, 9)} else 1


def tiff_orientation(file: BinaryIO) -> int:
    """The orientation tag in the first directory of a TIFF or BigTIFF (TIFF 6.0, section 8)."""
    head = file.read(16)
    order = "<" if head.startswith(b"II") else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    start = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0]
    file.seek(start)
    count = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))[0]
    size, value_at = (20, 12) if big else (12, 8)
    entries = file.read(size * min(count, 1000))
    for at in range(0, len(entries), size):
        if struct.unpack_from(order + "H", entries, at)[0] == _ORIENTATION:
            value = int(struct.unpack_from(order + "H", entries, at + value_at)[0])
            return value if 1 <= value <= 8 else 1
    return 1


def advice(uri: str) -> str:
    """What to do about a file that no driver recognises."""
    if suffix(uri) == ".hdr":
        return "it is the header of an ENVI file; give the data file beside it"
    if suffix(uri) in ("", ".txt", ".lst", ".csv"):
        return f"a list of scenes is given as @{Path(uri).name}. {OPENED}"
    if suffix(uri) in (".nc", ".h5", ".hdf5", ".he5", ".hdf"):
        return f'{OPENED}; a variable as NETCDF:"IN":NAME or HDF5:"IN"://NAME'
    return OPENED
