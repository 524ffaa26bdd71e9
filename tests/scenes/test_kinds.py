"""Formats besides GeoTIFF, files of several images, and files that are not what they seem."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from PIL import Image

from geosod.errors import SceneError
from geosod.georeference.points import pixel_to_lonlat
from geosod.scene import RationalPolynomials, Scene, SceneRef
from geosod.scenes.bands import choose_bands
from geosod.scenes.open import open_scene, opened, page_of
from geosod.scenes.pixels import read_window
from geosod.scenes.sources import find_scenes
from tests.ground import Camera
from tests.rasters import NORTH_UP, UTM31, noise, write_tif

PIXELS = noise(3, 64, 80)


def scene_of(path: Path, **how: Any) -> Scene:
    ref = SceneRef(str(path), path.stem)
    page = how.pop("page", 1)
    return open_scene(ref if page == 1 else page_of(ref, page), **how)


def read(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    with opened(scene.ref, view=scene.view) as dataset:
        return read_window(dataset, scene, tuple(range(1, scene.count + 1)), scene.window)


def write(path: Path, driver: str, pixels: np.ndarray = PIXELS, **how: Any) -> Path:
    count, height, width = pixels.shape
    place = {"crs": UTM31, "transform": NORTH_UP} | how
    with rasterio.open(
        path, "w", driver=driver, width=width, height=height, count=count, dtype=pixels.dtype, **place
    ) as dataset:
        dataset.write(pixels)
    return path


@pytest.mark.parametrize(
    ("driver", "name"), [("NITF", "s.ntf"), ("ENVI", "s.dat"), ("ENVI", "envi"), ("HFA", "s.img"), ("MRF", "s.mrf")]
)
def test_other_formats_are_read_like_geotiff(driver: str, name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, driver, **({"ICORDS": "N"} if driver == "NITF" else {}))
    scene = scene_of(path)
    assert scene.pixel == pytest.approx((0.5, 0.5), rel=0.02) and scene.dtype == "uint8"
    pixels, valid = read(scene)
    assert np.array_equal(pixels, PIXELS) and valid.all()
    wanted = ("red", "green", "blue") if driver == "MRF" else ("x", "y", "z")
    assert choose_bands(scene, wanted, None) == (1, 2, 3), "Band 1 and Layer_1 are no names"
    (found,), failures = find_scenes([str(tmp_path)])
    assert found.uri == str(path) and not failures, "a folder is searched for it"


def test_nitf_with_rpcs_is_located_by_them(tmp_path: Path) -> None:
    camera = Camera()
    path = write_tif(tmp_path / "s.tif", noise(1, camera.size[1], camera.size[0]), crs=None)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(ns="RPC", **camera.tags())
    rasterio.shutil.copy(path, tmp_path / "s.ntf", driver="NITF")
    tagged, scene = scene_of(path), scene_of(tmp_path / "s.ntf")
    assert isinstance(scene.locator, RationalPolynomials) and scene.transform is None
    corners = np.array([[0, 0], [camera.size[0], 0], [camera.size[0], camera.size[1]]], np.float64)
    assert np.abs(pixel_to_lonlat(scene, corners) - pixel_to_lonlat(tagged, corners)).max() < 1e-5


def index_of(folder: Path, tiles: list[tuple[str, Affine]], name: str = "index.gti.gpkg") -> Path:
    areas = [shapely.box(*(place @ (0, 64)), *(place @ (80, 0))) for _, place in tiles]
    geopandas.GeoDataFrame({"location": [name for name, _ in tiles]}, geometry=areas, crs=UTM31).to_file(folder / name)
    return folder / name


def test_a_tile_index_is_a_mosaic_with_gaps(tmp_path: Path) -> None:
    far = NORTH_UP @ Affine.translation(100, 0)
    write_tif(tmp_path / "a.tif", PIXELS)
    write_tif(tmp_path / "b.tif", PIXELS, transform=far)
    scene = scene_of(index_of(tmp_path, [("a.tif", NORTH_UP), ("b.tif", far)]))
    pixels, valid = read(scene)
    expected = np.ones((64, 180), bool)
    expected[:, 80:100] = False
    assert np.array_equal(valid, expected) and np.array_equal(pixels[:, :, 100:], PIXELS)


@pytest.mark.parametrize("name", ["/vsicurl/http://localhost:1/a.tif", "WMS:http://host/", "missing.tif", "far.vrt"])
def test_a_tile_index_names_local_rasters_only(name: str, tmp_path: Path) -> None:
    source = "<SimpleSource><SourceFilename>https://localhost:1/x.tif</SourceFilename></SimpleSource>"
    band = f'<VRTRasterBand dataType="Byte" band="1">{source}</VRTRasterBand>'
    (tmp_path / "far.vrt").write_text(f'<VRTDataset rasterXSize="80" rasterYSize="64">{band}</VRTDataset>')
    with pytest.raises(SceneError, match=r"not a local raster|localhost"):
        scene_of(index_of(tmp_path, [(name, NORTH_UP)]))


def test_an_mrf_does_not_fetch(tmp_path: Path) -> None:
    path = write(tmp_path / "s.mrf", "MRF")
    text = path.read_text()
    path.write_text(
        text.replace("</MRF_META>", "<CachedSource><Source>http://localhost:1/a.tif</Source></CachedSource></MRF_META>")
    )
    with pytest.raises(SceneError, match="fetches its pixels from elsewhere"):
        scene_of(path)
    path.write_text(text.replace("<Raster>", "<Raster><DataFile>/vsicurl/http://localhost:1/a</DataFile>"))
    with pytest.raises(SceneError, match="not a file here"):
        scene_of(path)


def test_a_pixel_is_measured_where_the_scene_has_a_position(tmp_path: Path) -> None:
    """A geostationary view of which the centre looks past the Earth."""
    path = write_tif(
        tmp_path / "s.tif", noise(1, 40, 120), crs="+proj=geos +h=35785831 +lon_0=0 +ellps=WGS84",
        transform=Affine(100_000, 0, 1_000_000, 0, -100_000, 2_000_000),
    )  # fmt: skip
    scene = scene_of(path)
    # Nearest to the centre is the limb, where pixels are long.
    assert scene.pixel is not None and min(scene.pixel) > 90_000


def test_a_vrt_does_not_lead_to_a_service(tmp_path: Path) -> None:
    """GDAL opens the sources of a VRT with every driver it has."""
    (tmp_path / "a.tif").write_text(
        '<GDAL_WMS><Service name="TMS"><ServerUrl>http://localhost:1/</ServerUrl></Service></GDAL_WMS>'
    )
    (tmp_path / "s.vrt").write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">a.tif</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>'
    )
    with pytest.raises(SceneError, match=r"a\.tif: is XML or JSON"):
        scene_of(tmp_path / "s.vrt")


def test_what_is_not_opened_is_told_with_what_is(tmp_path: Path) -> None:
    write(tmp_path / "s.bmp", "BMP")
    with pytest.raises(SceneError, match=r"s\.bmp: cannot be opened .* NITF, ENVI, .* convert others \(gdal_translate"):
        scene_of(tmp_path / "s.bmp")
    write(tmp_path / "s.dat", "ENVI")
    with pytest.raises(SceneError, match=r"s\.hdr: .*data file"):
        scene_of(tmp_path / "s.hdr")


def test_further_images_of_a_file(tmp_path: Path) -> None:
    first, second = (write_tif(tmp_path / f"{i}.tif", noise(3, 64, 64, seed=i)) for i in (1, 2))
    both = tmp_path / "both.tif"
    rasterio.shutil.copy(first, both, driver="GTiff")
    rasterio.shutil.copy(second, both, driver="GTiff", APPEND_SUBDATASET="YES")
    scene = scene_of(both)
    assert "holds 2 images, of which the first is read; --page N" in scene.notes[0]
    assert np.array_equal(read(scene)[0], noise(3, 64, 64, seed=1))
    scene = scene_of(both, page=2)
    assert not scene.notes and np.array_equal(read(scene)[0], noise(3, 64, 64, seed=2))
    with pytest.raises(SceneError, match=r"both\.tif: has no page 3, it holds 2 images"):
        scene_of(both, page=3)
    # GDAL counts directories, of which overviews and masks are some.
    between = tmp_path / "between.tif"
    rasterio.shutil.copy(first, between, driver="GTiff")
    with rasterio.open(between, "r+") as dataset:
        dataset.build_overviews([2, 4])
    rasterio.shutil.copy(second, between, driver="GTiff", APPEND_SUBDATASET="YES")
    assert np.array_equal(read(scene_of(between, page=2))[0], noise(3, 64, 64, seed=2))
    with pytest.raises(SceneError, match="no page 2, it holds one image; only TIFF and NITF"):
        scene_of(write(tmp_path / "s.img", "HFA"), page=2)
    with rasterio.open(first, "r+") as dataset:
        dataset.build_overviews([2])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(first, "r+") as dataset:
        dataset.write_mask(np.ones((64, 64), bool))
    assert not scene_of(first).notes, "overviews and masks are no images of their own"


@pytest.mark.parametrize("big", [False, True])
def test_a_turned_image_is_reported(big: bool, tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS.transpose(1, 2, 0))
    image.save(tmp_path / "s.tif", tiffinfo={274: 6}, big_tiff=big)
    exif = Image.Exif()
    exif[274] = 3
    image.save(tmp_path / "s.jpg", exif=exif)
    image.save(tmp_path / "plain.tif", big_tiff=big)
    assert "orientation 6" in scene_of(tmp_path / "s.tif").notes[0]
    assert "orientation 3" in scene_of(tmp_path / "s.jpg").notes[0]
    assert not scene_of(tmp_path / "plain.tif").notes


def test_a_mask_of_one_bit_is_reported(tmp_path: Path) -> None:
    Image.fromarray(PIXELS[0] > 100).save(tmp_path / "s.tif")
    assert any("one bit a pixel" in note for note in scene_of(tmp_path / "s.tif").notes)


def test_a_transform_without_crs_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tif", "GTiff", crs=None)
    scene = scene_of(path)
    assert scene.crs is None and "has a geotransform but no CRS" in scene.notes[0]


@pytest.mark.parametrize(
    ("crs", "place"),
    [
        ("EPSG:32631", Affine(4.5e-6, 0, 3, 0, -4.5e-6, 52)),
        ("EPSG:4326", Affine(5.0, 0, 10, 0, -5.0, 60)),
    ],
    ids=["degrees in metres", "metres in degrees"],
)
def test_pixels_that_cannot_be(crs: str, place: Affine, tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"its pixels would be .* units of its CRS"):
        scene_of(write_tif(tmp_path / "s.tif", PIXELS, crs=crs, transform=place))


def test_the_pixel_size_where_the_middle_has_no_place(tmp_path: Path) -> None:
    """The middle of this sinusoidal strip lies beyond the edge of the map."""
    sinusoidal = "+proj=sinu +R=6371007.181 +units=m"
    place = Affine(1000, 0, 15_000_000, 0, -1000, 100_000)
    wide = write_tif(tmp_path / "s.tif", noise(1, 64, 12_000), crs=sinusoidal, transform=place)
    assert scene_of(wide).pixel == pytest.approx((1000, 1000), rel=0.02)


def test_a_name_that_is_not_utf8_costs_only_itself(tmp_path: Path) -> None:
    write_tif(tmp_path / "a.tif", PIXELS)
    odd = os.fsencode(tmp_path) + b"/caf\xe9.tif"
    write_tif(tmp_path / "b.tif", PIXELS).rename(os.fsdecode(odd))
    listed = tmp_path / "list.txt"
    listed.write_bytes(os.fsencode(tmp_path / "a.tif") + b"\n" + odd + b"\n")
    for given in (str(tmp_path), os.fsdecode(odd), f"@{listed}"):
        found, (failure,) = find_scenes([given])
        assert len(found) == (given != os.fsdecode(odd))
        assert r"caf\xe9.tif: this name is not UTF-8" in failure.message
        failure.uri.encode("utf-8")


def test_lists_of_other_encodings_and_empty_lists(tmp_path: Path) -> None:
    path = str(write_tif(tmp_path / "a.tif", PIXELS))
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "list.txt").write_text(f"# scenes\r\n{path}\r\n", encoding)
        found, failures = find_scenes([f"@{tmp_path / 'list.txt'}"])
        assert [ref.uri for ref in found] == [path] and not failures, encoding
    assert len(find_scenes(["-"], lines=[f"\ufeff{path}\n"])[0]) == 1
    (tmp_path / "empty.txt").write_text("\n# nothing\n")
    for given in (f"@{tmp_path / 'empty.txt'}", "-"):
        found, (failure,) = find_scenes([given], lines=[])
        assert not found and "this list is empty" in failure.message


def test_a_list_on_standard_input(tmp_path: Path) -> None:
    path = str(write_tif(tmp_path / "a.tif", PIXELS))
    script = "from geosod.scenes.sources import find_scenes; print(find_scenes(['-'])[0][0].uri)"
    done = subprocess.run(
        [sys.executable, "-c", script], input=f"\ufeff{path}\n".encode("utf-16-le"), capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == path


def test_linked_folders_are_searched_once(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "in").mkdir()
    write_tif(tmp_path / "store" / "b.tif", PIXELS)
    write_tif(tmp_path / "in" / "a.tif", PIXELS)
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "in")
    found, failures = find_scenes([str(tmp_path / "in")])
    assert [ref.id for ref in found] == ["a", "b"] and not failures


def test_an_empty_path_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tif(tmp_path / "a.tif", PIXELS)
    monkeypatch.chdir(tmp_path)
    found, (failure,) = find_scenes([""])
    assert not found and "path is empty" in failure.message


def test_the_version_of_a_mosaic_is_that_of_its_files(tmp_path: Path) -> None:
    def version(path: Path) -> str | None:
        return find_scenes([str(path)])[0][0].version

    write_tif(tmp_path / "a.tif", PIXELS)
    source = '<SimpleSource><SourceFilename relativeToVRT="1">%s</SourceFilename></SimpleSource>'
    band = '<VRTDataset rasterXSize="80" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1">%s</VRTRasterBand>'
    (tmp_path / "inner.vrt").write_text(band % (source % "a.tif") + "</VRTDataset>")
    (tmp_path / "outer.vrt").write_text(band % (source % "inner.vrt") + "</VRTDataset>")
    index = index_of(tmp_path, [("a.tif", NORTH_UP)])
    envi = write(tmp_path / "e.dat", "ENVI")
    files = [tmp_path / "inner.vrt", tmp_path / "outer.vrt", index]
    before, header = [version(path) for path in files], version(envi)
    assert before == [version(path) for path in files]
    write_tif(tmp_path / "a.tif", noise(3, 64, 80, seed=5))
    assert all(old != version(path) for old, path in zip(before, files, strict=True))
    (tmp_path / "e.hdr").write_text((tmp_path / "e.hdr").read_text() + "\n")
    assert version(envi) != header
