"""User masks: vector and raster, in the scene's CRS and in another, against masks computed pixel by pixel."""

from __future__ import annotations

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.features import rasterize
from rasterio.warp import Resampling, calculate_default_transform, reproject

from geosod.errors import ConfigError, SceneError
from geosod.scene import Scene, SceneRef
from geosod.scenes.mask import Mask, mask_in_scene
from geosod.scenes.open import open_scene
from tests.rasters import NORTH_UP, UTM31, noise, write_tif

SIZE = (240, 320)


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    return open_scene(SceneRef(str(write_tif(tmp_path_factory.mktemp("m") / "s.tif", noise(1, *SIZE))), "tile_7"))


def burnt(polygons) -> np.ndarray:
    return rasterize([polygons], SIZE) if not polygons.is_empty else np.zeros(SIZE, np.uint8)


def codes() -> np.ndarray:
    """Class codes in blobs of a few pixels of a coarser raster, half a scene beyond it on each side."""
    rng = np.random.default_rng(5)
    return np.kron(rng.integers(0, 6, (1, 24, 32)), np.ones((1, 10, 10))).astype(np.uint8)


@pytest.fixture
def raster(tmp_path):
    return write_tif(
        tmp_path / "scl_tile_7.tif", codes(), transform=NORTH_UP @ Affine.translation(-160, -120) @ Affine.scale(2)
    )


def expected(values) -> np.ndarray:
    fine = np.kron(codes()[0], np.ones((2, 2)))[120:360, 160:480]
    return np.isin(fine, values)


def test_codes_of_a_raster(scene, raster) -> None:
    mask = mask_in_scene(Mask("cloud", str(raster), (3, 5)), scene)
    np.testing.assert_array_equal(burnt(mask), expected((3, 5)))
    assert mask.area == expected((3, 5)).sum()


def test_everything_but_zero_and_nodata(scene, raster) -> None:
    with rasterio.open(raster, "r+") as dataset:
        dataset.nodata = 4
    np.testing.assert_array_equal(burnt(mask_in_scene(Mask("x", str(raster)), scene)), expected((1, 2, 3, 5)))


def test_an_inverted_mask_and_the_scene_identifier_in_its_name(scene, raster) -> None:
    mask = Mask("sea", str(raster).replace("tile_7", "{id}"), (3, 5), invert=True)
    np.testing.assert_array_equal(burnt(mask_in_scene(mask, scene)), ~expected((3, 5)))


def test_a_palette_is_read_as_codes(scene, raster) -> None:
    with rasterio.open(raster) as dataset:
        profile = dataset.profile
    with rasterio.open(raster, "w", **(profile | {"photometric": "palette"})) as dataset:
        dataset.write(codes())
        dataset.write_colormap(1, {i: (40 * i, 9, 9, 255) for i in range(6)})
    np.testing.assert_array_equal(burnt(mask_in_scene(Mask("c", str(raster), (3, 5)), scene)), expected((3, 5)))


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3035", "EPSG:32632"])
def test_a_raster_in_another_crs(scene, raster, tmp_path, crs) -> None:
    with rasterio.open(raster) as dataset:
        transform, width, height = calculate_default_transform(
            UTM31, crs, dataset.width, dataset.height, *dataset.bounds
        )
        transform, width, height = transform @ Affine.scale(0.25), 4 * width, 4 * height
        warped = np.zeros((1, height, width), np.uint8)
        reproject(
            rasterio.band(dataset, 1), warped, dst_transform=transform, dst_crs=crs, resampling=Resampling.nearest
        )
    path = write_tif(tmp_path / "warped.tif", warped, crs=crs, transform=transform)
    found = burnt(mask_in_scene(Mask("cloud", str(path), (3, 5)), scene))
    assert (found != expected((3, 5))).mean() < 0.03, "the edges of blobs, within a pixel"


def test_polygons_in_another_crs(scene, tmp_path) -> None:
    ring = shapely.Point(500_000 + 80, 5_800_000 - 60).buffer(35)
    geopandas.GeoDataFrame(geometry=[ring], crs=UTM31).to_crs(4326).to_file(tmp_path / "cloud.gpkg")
    mask = mask_in_scene(Mask("cloud", str(tmp_path / "cloud.gpkg")), scene)
    assert mask.area == pytest.approx(ring.area * 4, rel=1e-3)
    assert mask.centroid.coords[0] == pytest.approx((160, 120), abs=0.05)


def test_polygons_elsewhere_mask_nothing(scene, tmp_path) -> None:
    geopandas.GeoDataFrame(geometry=[shapely.box(10, 10, 11, 11)], crs=4326).to_file(tmp_path / "far.gpkg")
    assert mask_in_scene(Mask("cloud", str(tmp_path / "far.gpkg")), scene).is_empty
    whole = mask_in_scene(Mask("cloud", str(tmp_path / "far.gpkg"), invert=True), scene)
    assert whole.area == SIZE[0] * SIZE[1]


def test_scenes_without_georeference_accept_rasters_without_one(tmp_path) -> None:
    scene = open_scene(SceneRef(str(write_tif(tmp_path / "s.tif", noise(1, *SIZE), crs=None)), "s"))
    small = np.zeros((1, 24, 32), np.uint8)
    small[0, 3:7, 10:20] = 1
    mask = mask_in_scene(Mask("dust", str(write_tif(tmp_path / "d.tif", small, crs=None))), scene)
    assert mask.bounds == (100, 30, 200, 70)
    placed = write_tif(tmp_path / "placed.tif", small)
    with pytest.raises(SceneError, match="must both have a georeference"):
        mask_in_scene(Mask("dust", str(placed)), scene)


def test_a_raster_that_misses_the_scene_masks_nothing(scene, tmp_path) -> None:
    path = write_tif(tmp_path / "far.tif", noise(1, 20, 20), transform=NORTH_UP @ Affine.translation(5000, 0))
    assert mask_in_scene(Mask("cloud", str(path)), scene).is_empty
    assert mask_in_scene(Mask("cloud", str(path), invert=True), scene).area == SIZE[0] * SIZE[1]


def test_a_file_without_polygons_masks_nothing(scene, tmp_path) -> None:
    """For example, of a scene without clouds."""
    geopandas.GeoDataFrame(geometry=[], crs=UTM31).to_file(tmp_path / "none.geojson", driver="GeoJSON")
    assert mask_in_scene(Mask("cloud", str(tmp_path / "none.geojson")), scene).is_empty
    assert mask_in_scene(Mask("cloud", str(tmp_path / "none.geojson"), invert=True), scene).area == SIZE[0] * SIZE[1]


def test_a_file_that_changed_is_read_again(scene, tmp_path) -> None:
    for side in (20, 50):
        box = shapely.box(500_000, 5_800_000 - side, 500_000 + side, 5_800_000)
        geopandas.GeoDataFrame(geometry=[box], crs=UTM31).to_file(tmp_path / "k.geojson", driver="GeoJSON")
        assert mask_in_scene(Mask("k", str(tmp_path / "k.geojson")), scene).area == pytest.approx(4 * side**2, rel=1e-6)


def test_specks_are_bounded_and_codes_of_polygons_refused(scene, tmp_path, monkeypatch) -> None:
    path = write_tif(tmp_path / "specks.tif", (np.indices((1, *SIZE)).sum(axis=0) % 2).astype(np.uint8))
    monkeypatch.setattr("geosod.scenes.mask.MAX_OUTLINES", 1000)
    with pytest.raises(SceneError, match="over 1,000 polygons"):
        mask_in_scene(Mask("cloud", str(path)), scene)
    geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs=UTM31).to_file(tmp_path / "v.gpkg")
    with pytest.raises(ConfigError, match="has no codes"):
        mask_in_scene(Mask("cloud", str(tmp_path / "v.gpkg"), (2,)), scene)


def test_the_valid_pixels_of_a_mask_raster(scene, tmp_path) -> None:
    """Its own mask counts, and its nodata value is compared as GDAL does; codes are as the file has them."""
    codes = np.full((1, 20, 20), 3, np.uint8)
    valid = np.zeros((20, 20), bool)
    valid[:, :10] = True
    place = {"block": 16, "transform": NORTH_UP @ Affine.scale(SIZE[1] / 20, SIZE[0] / 20)}
    masked = write_tif(tmp_path / "masked.tif", codes, mask=valid, **place)
    half = SIZE[0] * SIZE[1] / 2
    for values in (None, (3.0,)):
        assert mask_in_scene(Mask("cloud", str(masked), values), scene).area == pytest.approx(half)
    floats = np.full((1, 20, 20), 0.1, np.float32)
    floats[:, :, 10:] = np.finfo(np.float32).min
    short = write_tif(tmp_path / "short.tif", floats, nodata=-3.40282e38, **place)
    for values in (None, (0.1,)):
        assert mask_in_scene(Mask("cloud", str(short), values), scene).area == pytest.approx(half)
