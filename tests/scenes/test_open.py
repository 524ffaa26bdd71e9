"""Sources, headers, bands and areas of interest."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Geod
from rasterio.control import GroundControlPoint

from geosod.errors import ConfigError, ModelError, SceneError
from geosod.scene import Scene, SceneRef
from geosod.scenes import open as open_module
from geosod.scenes.aoi import load_aoi, polygons_in_scene, windows_in
from geosod.scenes.bands import choose_bands
from geosod.scenes.open import open_scene
from geosod.scenes.sources import find_scenes, with_unique_ids
from geosod.tiling.grid import make_grid
from tests.rasters import noise, write_tif


def scene_of(path: Path) -> Scene:
    return open_scene(SceneRef(str(path), path.stem))


def test_names_that_differ_only_in_case_get_different_ids(tmp_path: Path) -> None:
    for folder, name in (("x", "A.tif"), ("y", "a.tif")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(b"")
    found, _ = find_scenes([str(tmp_path)])
    assert len({ref.id.lower() for ref in with_unique_ids(found, {})}) == 2
    known = {found[0].uri: found[0].id}
    first, second = with_unique_ids(found, known)
    assert first.id == found[0].id and second.id.startswith(f"{found[1].id}-")
    assert with_unique_ids(found[1:], known)[0].id == second.id, "the same, whether the other is in the run or not"


def test_the_header_is_what_rasterio_says(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "s.tif", noise(3, 100, 200), nodata=0)
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = ("B04", "B03", "B02")
        dataset.update_tags(ns="IMAGERY", ACQUISITIONDATETIME="2024-05-01T12:30:00+02:00")
    scene = scene_of(path)
    assert (scene.width, scene.height, scene.count, scene.dtype) == (200, 100, 3, "uint8")
    assert scene.nodata == (0, 0, 0) and scene.masks == (False,) * 3 and scene.block_shape == (64, 64)
    assert scene.band_names == ("B04", "B03", "B02")
    assert scene.ref.datetime == dt.datetime(2024, 5, 1, 10, 30, tzinfo=dt.UTC)
    lon, lat = 3.0, 52.348
    expected = Geod(ellps="WGS84").line_length([lon, lon + 0.5 / 68208], [lat, lat])
    assert scene.gsd == pytest.approx(expected, rel=2e-3) and scene.gsd == pytest.approx(0.5, rel=1e-3)


def test_unusable_files_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gcps = [GroundControlPoint(r, c, 3 + c / 1e4, 50 - r / 1e4) for r in (0, 64) for c in (0, 64)]
    path = tmp_path / "gcps.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=64, height=64, count=1, dtype="uint8", gcps=gcps, crs="EPSG:4326"
    ):
        pass
    scene = scene_of(path)
    assert scene.transform is None and scene.locator is not None and scene.gsd == pytest.approx(9, rel=0.05)
    with pytest.raises(SceneError, match="complex64; only integers and floats"):
        scene_of(write_tif(tmp_path / "c.tif", np.ones((1, 64, 64), "complex64")))
    monkeypatch.setattr(open_module, "MAX_BLOCK_BYTES", 1 << 10)
    with pytest.raises(SceneError, match="one block decodes to"):
        scene_of(write_tif(tmp_path / "b.tif", noise(1, 64, 64)))
    huge = tmp_path / "huge.vrt"
    side, band = 999_999_999, '<VRTRasterBand dataType="Byte" band="1"/>'
    huge.write_text(f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}">{band}</VRTDataset>')
    with pytest.raises(SceneError, match="claims 999999999 x 999999999"):
        scene_of(huge)
    other = tmp_path / "other.tif"
    other.write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(SceneError, match=r"other\.tif: cannot be opened"):
        scene_of(other)


def test_bands_are_found_by_name_number_or_count(tmp_path: Path) -> None:
    rgb = scene_of(write_tif(tmp_path / "rgb.tif", noise(3, 64, 64)))
    bgr = ("blue", "green", "red")
    assert choose_bands(rgb, bgr, None) == (3, 2, 1)
    assert choose_bands(rgb, ("x", "y", "z"), (1, "3", "RED")) == (1, 3, 1)
    with pytest.raises(ModelError, match="the model takes x, y, z"):
        choose_bands(rgb, ("x", "y", "z"), None)
    with pytest.raises(SceneError, match="no band '4'; its bands are 1=red, 2=green, 3=blue"):
        choose_bands(rgb, bgr, (4, 1, 2))
    unnamed = scene_of(write_tif(tmp_path / "u.tif", noise(3, 64, 64), photometric="MINISBLACK"))
    assert choose_bands(unnamed, bgr, None) == (1, 2, 3)
    rgba = scene_of(write_tif(tmp_path / "rgba.tif", noise(4, 64, 64), photometric="RGB", alpha="YES"))
    assert choose_bands(rgba, bgr, None) == (3, 2, 1)
    assert choose_bands(rgba, ("r", "g", "b", "nir"), (1, 2, 3, "alpha")) == (1, 2, 3, 4)


@pytest.mark.parametrize("crs", [32631, 4326, 3857, 3035])
@pytest.mark.parametrize("angle", [0.0, 30.0])
def test_an_aoi_in_any_crs_covers_its_pixels(crs: int, angle: float, tmp_path: Path) -> None:
    transform = Affine.translation(500_000, 5_800_000) @ Affine.rotation(angle) @ Affine.scale(2.0, -2.0)
    scene = scene_of(write_tif(tmp_path / "s.tif", noise(1, 600, 800), transform=transform))
    pixels = shapely.Polygon([(105, 110), (310, 125), (287, 410), (97, 352)])
    ground = shapely.transform(pixels, lambda xy: np.array([transform @ tuple(p) for p in xy]))
    far = shapely.Point(600_000, 5_000_000).buffer(1000)
    frame = geopandas.GeoSeries([shapely.segmentize(ground, 20.0), far], crs=32631).to_crs(crs)
    frame.to_file(tmp_path / "aoi.gpkg")
    area = polygons_in_scene(load_aoi(tmp_path / "aoi.gpkg"), scene)
    assert shapely.symmetric_difference(area, pixels).area / pixels.area < 2e-3
    grid = make_grid(800, 600, tile=100, overlap=20)
    chosen = windows_in(area, grid.windows_array())
    boxes = shapely.box(*(grid.windows_array() @ np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]])).T)
    expected = shapely.area(shapely.intersection(pixels, boxes))
    assert all(inside == (share > 0) for inside, share in zip(chosen, expected, strict=True) if share == 0 or share > 9)


def test_unusable_aois_are_refused(tmp_path: Path) -> None:
    scene = scene_of(write_tif(tmp_path / "s.tif", noise(1, 64, 64)))
    geopandas.GeoSeries([shapely.Point(3, 50)], crs=4326).to_file(tmp_path / "point.geojson")
    with pytest.raises(ConfigError, match="holds no polygon"):
        load_aoi(tmp_path / "point.geojson")
    geopandas.GeoSeries([shapely.box(0, 0, 1, 1)]).to_file(tmp_path / "bare.gpkg")
    with pytest.raises(ConfigError, match="has no CRS"):
        load_aoi(tmp_path / "bare.gpkg")
    geopandas.GeoSeries([shapely.box(-60, -60, -59, -59)], crs=4326).to_file(tmp_path / "far.geojson")
    assert polygons_in_scene(load_aoi(tmp_path / "far.geojson"), scene).is_empty
    unplaced = scene_of(write_tif(tmp_path / "u.tif", noise(1, 64, 64), crs=None))
    with pytest.raises(SceneError, match="no georeference"):
        polygons_in_scene(load_aoi(tmp_path / "far.geojson"), unplaced)


def test_a_continent_as_aoi_covers_the_scene(tmp_path: Path) -> None:
    scene = scene_of(write_tif(tmp_path / "s.tif", noise(1, 64, 64)))
    geopandas.GeoSeries([shapely.box(-25, 30, 45, 75)], crs=4326).to_file(tmp_path / "europe.geojson")
    area = polygons_in_scene(load_aoi(tmp_path / "europe.geojson"), scene)
    assert area.area == pytest.approx(64 * 64)
