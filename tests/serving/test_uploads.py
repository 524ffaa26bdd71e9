"""Images from strangers: PIL is the oracle of what they look like, and nothing too large is decoded."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image, ImageOps
from rasterio.io import MemoryFile

from geosod.errors import LimitError, SceneError
from geosod.storage.uploads import check_upload, read_upload
from tests.serving.running import drawn, file_of


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    content = file_of(np.kron(drawn(64, 64)[:4, :6], np.ones((8, 8, 1), np.uint8)), kind, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    found = read_upload(content, max_pixels=10_000).pixels
    assert found.shape == (3, *upright.shape[:2])
    assert np.abs(np.moveaxis(found, 0, 2).astype(int) - upright).mean() < 8


def tiff(width: int, height: int, *, bands: int = 1, block: int = 64, dtype: str = "uint8", **profile: object) -> bytes:
    """A TIFF without pixels, however large it says it is."""
    with MemoryFile() as file:
        with file.open(
            driver="GTiff", width=width, height=height, count=bands, dtype=dtype, tiled=True, blockxsize=block,
            blockysize=block, sparse_ok=True, compress="deflate", **profile,
        ):  # fmt: skip
            pass
        return bytes(file.read())


def png_header(width: int, height: int) -> bytes:
    """A PNG that states a size and has hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


BOMBS = {
    "many pixels": tiff(200_000, 200_000, block=4096),
    "twice the pixels": tiff(2000, 1000),
    "many bands": tiff(64, 64, bands=2000),
    "wide pixels": tiff(1000, 1000, bands=60, dtype="float64"),
    "large blocks": tiff(64, 64, block=32_768),
    "PNG of 2 Gpx": png_header(50_000, 40_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_are_decoded(name: str, tmp_path: Path) -> None:
    reserved: list[int] = []
    with pytest.raises(LimitError):
        read_upload(BOMBS[name], max_pixels=1_000_000, reserve=reserved.append)
    assert not reserved
    (tmp_path / "a.tif").write_bytes(BOMBS[name])
    with pytest.raises(LimitError):
        check_upload(tmp_path / "a.tif", max_pixels=1_000_000)


def test_room_is_reserved_before_pixels_are_decoded() -> None:
    class FullError(Exception):
        pass

    def full(size: int) -> None:
        assert size == 96 * 120 * 3
        raise FullError

    with pytest.raises(FullError):
        read_upload(file_of(drawn()), max_pixels=1_000_000, reserve=full)


NAMING = {
    "VRT": b'<VRTDataset rasterXSize="1" rasterYSize="1"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
    b"<SourceFilename>/etc/hostname</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>",
    "TIFF with a VRT": b"II*\0\x08\0\0\0\0\0<VRTDataset></VRTDataset>",
    "MRF": b"<MRF_META><CachedSource><Source>/etc/hostname</Source></CachedSource></MRF_META>",
    "WMS": b'<GDAL_WMS><Service name="TMS"><ServerUrl>http://127.0.0.1/</ServerUrl></Service></GDAL_WMS>',
    "tile index": b"<GDALTileIndexDataset><IndexDataset>/etc/x.gpkg</IndexDataset></GDALTileIndexDataset>",
    "STACTA": b'{"type": "Feature", "stac_version": "1.0.0"}',
    "JPEG with an MRF": b"\xff\xd8\xff\xe0<MRF_META>",
    "text": b"/vsicurl/http://127.0.0.1/a.tif",
    "empty": b"",
}


@pytest.mark.parametrize("name", NAMING)
def test_files_that_name_others_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SceneError):
        read_upload(NAMING[name], max_pixels=1000)
    (tmp_path / "upload.tif").write_bytes(NAMING[name])
    with pytest.raises(SceneError):
        check_upload(tmp_path / "upload.tif", max_pixels=1000)


def test_a_vrt_would_be_opened_by_gdal(tmp_path: Path) -> None:
    """The refusal above is needed: GDAL itself follows the name of another file."""
    Image.fromarray(drawn()[:1, :1]).save(tmp_path / "secret.png")
    text = NAMING["VRT"].replace(b"/etc/hostname", str(tmp_path / "secret.png").encode())
    with MemoryFile(text) as file, rasterio.open(file.name) as dataset:
        assert dataset.driver == "VRT"


def test_nodata_and_masks_are_invalid_pixels() -> None:
    pixels = np.moveaxis(drawn(), 2, 0).copy()
    pixels[:, :20, :30] = 255
    with MemoryFile() as file:
        with file.open(driver="GTiff", width=120, height=96, count=3, dtype="uint8", nodata=255) as out:
            out.write(pixels)
        content = bytes(file.read())
        with file.open() as dataset:
            expected = dataset.dataset_mask() > 0
    found = read_upload(content, max_pixels=100_000)
    assert not expected.all() and found.valid is not None
    assert np.array_equal(found.valid, expected)
    assert read_upload(file_of(drawn()), max_pixels=100_000).valid is None


@pytest.mark.parametrize("kind", ["complex64", "complex128"])
def test_complex_pixels_are_refused(kind: str) -> None:
    with pytest.raises(SceneError, match="complex"):
        read_upload(tiff(64, 64, dtype=kind), max_pixels=100_000)
