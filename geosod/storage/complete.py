"""Whether the content of an image file is all there: GDAL decodes some that were cut off, and fills in what is missing.

PNG: every chunk with its checksum, up to IEND, and the data of all rows (PNG specification, third edition). JPEG: the
markers up to the end of the image (ITU T.81, annex B). TIFF: every strip and tile lies within the file (TIFF 6.0).
"""

from __future__ import annotations

import mmap
import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from geosod.errors import SceneError

Content = bytes | mmap.mmap

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
#: First column, first row, and distance of columns and of rows of the seven passes of an interlaced PNG.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_INFLATED = 1 << 20
#: Bytes of the rows of a PNG, which takes seconds to inflate; it cannot be read in parts.
_MAX_ROWS = 4 << 30
#: A marker in the coded data of a JPEG; stuffed zeros and restarts are none.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_EOI, _SOS, _SOF0 = 0xD9, 0xDA, 0xC0
_NOT_FRAMES = (0xC4, 0xC8, 0xCC)
#: Beyond these, files are made to be slow to read.
_MAX_CHUNKS, _MAX_SEGMENTS, _MAX_DIRECTORIES = 200_000, 10_000, 256
#: Type of a TIFF field → numpy's, without byte order; those that offsets and counts have.
_TIFF_TYPES = {3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
#: Fields of a TIFF with the offsets of strips and of tiles → those with their numbers of bytes.
_TIFF_BLOCKS = {273: 279, 324: 325}


def check_complete(content: Content) -> None:
    """Refuse the content of a PNG, JPEG or TIFF file that was cut off, or whose checksums are wrong.

    The time it takes is linear in the size of the content, and not of the image.

    Raises:
        SceneError: it is not complete.
    """
    if content[:8] == _PNG:
        for _ in _chunks(content):
            pass
    elif content[:2] == b"\xff\xd8":
        _check_jpeg(content)
    else:
        _check_tiff(content)


def check_rows(content: Content) -> None:
    """Refuse a PNG whose compressed data ends before the image does. Other content passes.

    It inflates the image, whose size must have been checked.

    Raises:
        SceneError: rows are missing.
    """
    if content[:8] != _PNG:
        return
    header, missing = b"", 0
    inflater = zlib.decompressobj()
    for kind, start, end in _chunks(content, checksums=False):
        if kind == b"IHDR":
            header = bytes(content[start:end])
            missing = _raw_size(header)
            if missing > _MAX_ROWS:
                raise SceneError(
                    f"is a PNG of {missing:,} bytes of pixels, over the limit of {_MAX_ROWS >> 30} GiB; convert it to "
                    "a tiled GeoTIFF (gdal_translate -of COG IN OUT.tif)"
                )
        elif kind == b"IDAT" and missing > 0:
            missing -= _inflated(inflater, content[start:end], missing)
    if not header or missing > 0:
        raise _damaged("a PNG without the data of all its rows")


def _inflated(inflater: zlib._Decompress, data: bytes, wanted: int) -> int:
    """Bytes that data comes to, no more than about those that are wanted."""
    size = 0
    try:
        while data and size < wanted and not inflater.eof:
            size += len(inflater.decompress(data, _INFLATED))
            data = inflater.unconsumed_tail
    except zlib.error as error:
        raise _damaged(f"a PNG whose data cannot be inflated ({error})") from error
    return size


def _chunks(content: Content, *, checksums: bool = True) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of the data of each chunk of a PNG, up to IEND."""
    at, count = len(_PNG), 0
    while count < _MAX_CHUNKS:
        head = bytes(content[at : at + 8])
        start = at + 8
        if len(head) < 8:
            raise _damaged("a PNG that ends before its last chunk, IEND")
        end = start + int.from_bytes(head[:4], "big")
        kind, stated = head[4:], bytes(content[end : end + 4])
        if len(stated) < 4:
            raise _damaged(f"a PNG that ends within its chunk {ascii(kind)[2:-1]}")
        if checksums and zlib.crc32(content[start:end], zlib.crc32(kind)) != int.from_bytes(stated, "big"):
            raise _damaged(f"a PNG with a wrong checksum in its chunk {ascii(kind)[2:-1]}")
        yield kind, start, end
        if kind == b"IEND":
            return
        at, count = end + 4, count + 1
    raise _damaged(f"a PNG of more than {_MAX_CHUNKS:,} chunks")


def _raw_size(header: bytes) -> int:
    """Bytes of the rows of a PNG before they are compressed, each with that of its filter."""
    if len(header) != 13:
        raise _damaged("a PNG with a header of another size")
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", header)
    bits = depth * _PNG_CHANNELS.get(colour, 1)
    if not interlace:
        return int(height * (1 + (width * bits + 7) // 8))
    sizes = ((-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in _ADAM7)
    return sum(rows * (1 + (cols * bits + 7) // 8) for cols, rows in sizes if cols > 0 and rows > 0)


def _check_jpeg(content: Content) -> None:
    at, frames, scans = 2, 0, 0
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(content, at)
        if found is None:
            raise _damaged("a JPEG that ends before the end of its image")
        marker, at = found[0][1], found.end()
        if marker == _EOI:
            if not (frames and scans):
                raise _damaged("a JPEG without an image")
            return
        if marker == 0x01:
            continue
        length = int.from_bytes(content[at : at + 2], "big")
        if length < 2 or at + length > len(content):
            raise _damaged("a JPEG that ends within a segment")
        frames += _SOF0 <= marker <= 0xCF and marker not in _NOT_FRAMES
        scans += marker == _SOS
        at += length
    raise _damaged(f"a JPEG of more than {_MAX_SEGMENTS:,} segments")


def _check_tiff(content: Content) -> None:
    try:
        for fields in _directories(content):
            for offsets, sizes in _TIFF_BLOCKS.items():
                _check_blocks(fields.get(offsets), fields.get(sizes), len(content))
    except struct.error as error:
        raise _damaged("a TIFF that ends within a directory") from error


def _check_blocks(
    offsets: np.ndarray[tuple[int], np.dtype[np.uint64]] | None,
    sizes: np.ndarray[tuple[int], np.dtype[np.uint64]] | None,
    length: int,
) -> None:
    if offsets is None or sizes is None:
        return  # libtiff derives the sizes from the offsets, and reports what it cannot read
    count = min(len(offsets), len(sizes))
    # A block of no bytes is one without data, whose pixels are nodata.
    given = sizes[:count] > 0
    start, size = offsets[:count][given], sizes[:count][given]
    beyond = (start > length) | (size > length) | (start + size > length)
    if beyond.any():
        raise _damaged(f"a TIFF of {length:,} bytes in which {int(beyond.sum())} of {count} blocks end beyond those")


def _directories(content: Content) -> Iterator[dict[int, np.ndarray[tuple[int], np.dtype[np.uint64]]]]:
    """The offsets and sizes of blocks in each directory of a TIFF or BigTIFF."""
    order = "<" if content[:2] == b"II" else ">"
    big = content[2:4] in (b"+\0", b"\0+")
    word, count_type, size = ("Q", "Q", 20) if big else ("I", "H", 12)
    (at,) = _unpacked(order + word, content, 8 if big else 4)
    seen = set[int]()
    while at and at not in seen and len(seen) < _MAX_DIRECTORIES:
        seen.add(at)
        (count,) = _unpacked(order + count_type, content, at)
        first = at + struct.calcsize(order + count_type)
        fields = {}
        for entry in range(first, first + size * min(count, 4096), size):
            tag, kind, length = _unpacked(order + "HH" + word, content, entry)
            if tag in _TIFF_BLOCKS or tag in _TIFF_BLOCKS.values():
                fields[tag] = _values(content, order, kind, length, entry + 4 + struct.calcsize(order + word), word)
        yield fields
        (at,) = _unpacked(order + word, content, first + size * count)


def _values(
    content: Content, order: str, kind: int, length: int, at: int, word: str
) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    if kind not in _TIFF_TYPES:
        raise _damaged(f"a TIFF whose blocks have offsets of type {kind}")
    dtype = np.dtype(order + _TIFF_TYPES[kind])
    size = length * dtype.itemsize
    if size > struct.calcsize(order + word):
        (at,) = _unpacked(order + word, content, at)
    if at + size > len(content):
        raise _damaged("a TIFF that ends within the list of its blocks")
    return np.frombuffer(content[at : at + size], dtype).astype(np.uint64)


def _unpacked(form: str, content: Content, at: int) -> tuple[int, ...]:
    return struct.unpack(form, content[at : at + struct.calcsize(form)])


def _damaged(what: str) -> SceneError:
    return SceneError(f"is {what}; it is damaged, send it again")
