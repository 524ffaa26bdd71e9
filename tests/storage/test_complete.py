"""Images that were cut off at any byte are refused; whole ones, of every kind that PIL and GDAL write, are not."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.io import MemoryFile

from geosod.errors import SceneError
from geosod.storage.complete import check_complete, check_rows
from geosod.storage.uploads import check_upload, read_upload

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 31, 3)).astype(np.uint8)


def saved(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(file, kind, **options)
    return file.getvalue()


def tiff(dtype: str = "uint8", **profile: Any) -> bytes:
    with MemoryFile() as file:
        with file.open(driver="GTiff", width=31, height=24, count=3, dtype=dtype, **profile) as out:
            out.write(np.moveaxis(PIXELS, 2, 0).astype(dtype))
        return bytes(file.read())


def interlaced(depth: int, colour: int, width: int, height: int) -> bytes:
    """A PNG with Adam7's seven passes, all zeros; written by hand, as PIL writes none."""
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    rows = b""
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        cols = len(range(x, width, dx))
        rows += (bytes(1 + (cols * bits + 7) // 8) if cols else b"") * len(range(y, height, dy))
    return png(struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 1), zlib.compress(rows))


def png(header: bytes, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


WHOLE = {
    "PNG": saved("PNG"),
    "PNG with a palette": saved("PNG", Image.fromarray(PIXELS).quantize(16)),
    "PNG with alpha": saved("PNG", Image.fromarray(PIXELS).convert("RGBA")),
    "PNG of 16 bits": saved("PNG", Image.fromarray(PIXELS[:, :, 0].astype(np.uint16))),
    "PNG of 1 bit": saved("PNG", Image.fromarray(PIXELS[:, :, 0]).convert("1")),
    "interlaced PNG": interlaced(8, 2, 31, 24),
    "JPEG": saved("JPEG"),
    "progressive JPEG": saved("JPEG", progressive=True),
    "grey JPEG": saved("JPEG", Image.fromarray(PIXELS[:, :, 0])),
    "TIFF": saved("TIFF"),
    "TIFF in LZW": saved("TIFF", compression="tiff_lzw"),
    "TIFF in strips": tiff(blockysize=8),
    "TIFF in tiles": tiff(tiled=True, blockxsize=16, blockysize=16, compress="deflate"),
    "TIFF by band": tiff(interleave="band", compress="lzw", predictor=2),
    "TIFF in JPEG": tiff(compress="jpeg", photometric="ycbcr"),
    "BigTIFF": tiff(bigtiff="YES", compress="zstd"),
    "big-endian TIFF": tiff(endianness="BIG", blockysize=4),
}


@pytest.mark.parametrize("name", WHOLE)
def test_an_image_is_read_whole_or_not_at_all(name: str, tmp_path: Path) -> None:
    content = WHOLE[name]
    assert read_upload(content, max_pixels=10_000).pixels.shape[1:] == (24, 31)
    for end in range(len(content)):
        with pytest.raises(SceneError):
            read_upload(content[:end], max_pixels=10_000)
    path = tmp_path / "upload"
    path.write_bytes(content)
    check_upload(path, max_pixels=10_000)
    for end in range(0, len(content), 97):
        path.write_bytes(content[:end])
        with pytest.raises(SceneError):
            check_upload(path, max_pixels=10_000)


@pytest.mark.parametrize("name", [name for name in WHOLE if "PNG" in name])
def test_any_changed_byte_of_a_png_is_found(name: str) -> None:
    content = WHOLE[name]
    for at in range(8, len(content) - 12):
        with pytest.raises(SceneError):
            check_complete(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])


def test_a_png_whose_data_ends_early() -> None:
    header = struct.pack(">IIBBBBB", 31, 24, 8, 2, 0, 0, 0)
    rows = bytes(24 * (1 + 31 * 3))
    whole, less = png(header, zlib.compress(rows)), png(header, zlib.compress(rows[:-1]))
    check_rows(whole)
    check_complete(less)
    for content in (less, png(header, zlib.compress(rows)[:-20]), png(header, b"nonsense"), png(header, b"")):
        with pytest.raises(SceneError, match="damaged"):
            check_rows(content)
        with pytest.raises(SceneError):
            read_upload(content, max_pixels=10_000)


@pytest.mark.timeout(10)
def test_a_png_that_would_take_hours_to_inflate() -> None:
    zeros = zlib.compressobj()
    data = b"".join(zeros.compress(bytes(1 << 20)) for _ in range(50)) + zeros.flush()
    content = png(struct.pack(">IIBBBBB", 2**20, 2**20, 8, 2, 0, 0, 0), data)
    check_complete(content)
    with pytest.raises(SceneError, match="GeoTIFF"):
        check_rows(content)


@given(
    st.sampled_from([(1, 0), (2, 3), (4, 0), (8, 0), (8, 2), (8, 6), (16, 2), (16, 4)]),
    st.integers(1, 20),
    st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
def test_interlaced_pngs_of_any_size(kind: tuple[int, int], width: int, height: int) -> None:
    check_rows(interlaced(*kind, width, height))


def test_what_follows_an_image_does_not_matter() -> None:
    for name in ("PNG", "JPEG", "TIFF in tiles"):
        check_complete(WHOLE[name] + b"appended by a camera")


def test_a_jpeg_of_a_thumbnail_alone() -> None:
    """The end of an image that is embedded in a segment is not that of the image."""
    inner = saved("JPEG", Image.fromarray(PIXELS[:8, :8]))
    outer = WHOLE["JPEG"]
    segment = b"\xff\xe1" + struct.pack(">H", len(inner) + 2) + inner
    check_complete(outer[:2] + segment + outer[2:])
    with pytest.raises(SceneError, match="damaged"):
        check_complete(outer[:2] + segment + outer[2:-2])
    for content in (b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xe0\0\2\xff\xd9"):
        with pytest.raises(SceneError, match="without an image"):
            check_complete(content)


def test_blocks_that_were_never_written_are_none_that_are_missing() -> None:
    with MemoryFile() as file:
        profile = {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate", "sparse_ok": True}
        with file.open(driver="GTiff", width=64, height=64, count=1, dtype="uint8", **profile) as out:
            out.write(np.ones((1, 16, 16), np.uint8), window=((0, 16), (0, 16)))
        content = bytes(file.read())
    check_complete(content)
    assert read_upload(content, max_pixels=10_000).pixels.sum() == 256


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8" + b"\xff" * 4_000_000,
        b"\xff\xd8" + b"\xff\xe0\0\2" * 1_000_000,
        b"\x89PNG\r\n\x1a\n" + (bytes(4) + b"abcd" + struct.pack(">I", zlib.crc32(b"abcd"))) * 400_000,
        b"II*\0\x08\0\0\0" + b"\0\0" + struct.pack("<I", 8),
        b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + b"\xff" * 100,
    ],
    ids=["fill bytes", "segments", "chunks", "a directory that follows itself", "many fields"],
)
@pytest.mark.timeout(10)
def test_files_made_to_be_slow_are_not(content: bytes) -> None:
    with pytest.raises(SceneError):
        read_upload(content, max_pixels=10_000)


@given(st.binary(max_size=300), st.sampled_from(sorted(WHOLE)), st.integers(0, 2000))
@settings(max_examples=150, deadline=None)
def test_nonsense_is_refused_and_nothing_else_is_raised(nonsense: bytes, name: str, at: int) -> None:
    content = WHOLE[name]
    changed = content[:at] + nonsense + content[at + len(nonsense) :]
    try:
        check_complete(changed)
        check_rows(changed)
    except SceneError as error:
        assert "send it again" in str(error)
