"""Scenes that are unlike what the model or the user expects: what is done, and what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine

from geosod.running.events import Note
from tests.rasters import NORTH_UP, UTM31, noise, random_bundle, write_tif
from tests.running.helpers import detect, tables


def run(scenes: Any, model: Path, out: Path, **settings: Any) -> tuple[Any, list[str]]:
    """The result of a run, and the notes it gave."""
    events: list[Any] = []
    result = detect(scenes, model, out, on_event=events.append, **settings)
    return result, [event.text for event in events if isinstance(event, Note)]


def ground(out: Path, scene: str) -> dict[str, float]:
    """Share of each status in a scene's coverage."""
    table = pq.read_table(next((out / "coverage").rglob(f"{scene}.parquet"))).to_pandas()
    sums = table.groupby("status").area_km2.sum()
    return (sums / sums.sum()).round(3).to_dict()


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Three scenes, a kilometre apart."""
    for i in range(3):
        (tmp_path / "scenes").mkdir(exist_ok=True)
        place = NORTH_UP @ Affine.translation(2000 * i, 0)
        write_tif(tmp_path / "scenes" / f"s{i}.tif", noise(3, 128, 128, seed=i), transform=place)
    return tmp_path / "scenes"


def aoi_at(tmp_path: Path, x: float) -> Path:
    path = tmp_path / f"aoi{x:g}.gpkg"
    geopandas.GeoSeries([shapely.box(x, 5_799_900, x + 32, 5_800_000)], crs=UTM31).to_file(path)
    return path


@pytest.mark.parametrize("hit", [0, 1, 2])
def test_scenes_outside_the_aoi_are_done(hit: int, three: Path, rgb_bundle: Path, tmp_path: Path) -> None:
    aoi = aoi_at(tmp_path, 500_000 + 1000 * hit)
    result, notes = run(three, rgb_bundle, tmp_path / "out", aoi=aoi)
    assert result.exit_code == 0 and not result.failures
    assert {scene.scene_id for scene in result.scenes if scene.detections} == {f"s{hit}"}
    for i in range(3):
        expected = {"inspected": 0.5, "outside_aoi": 0.5} if i == hit else {"outside_aoi": 1.0}
        assert ground(tmp_path / "out", f"s{i}") == expected
    assert sum("lies outside the AOI" in note for note in notes) == 2
    again, _ = run(three, rgb_bundle, tmp_path / "out", aoi=aoi)
    assert again.exit_code == 0 and {scene.status for scene in again.scenes} == {"skipped"}


def test_an_aoi_outside_all_scenes_is_a_mistake(three: Path, rgb_bundle: Path, tmp_path: Path) -> None:
    result, _ = run(three, rgb_bundle, tmp_path / "out", aoi=aoi_at(tmp_path, 0))
    assert result.exit_code == 2 and len(result.failures) == 3
    assert "lies outside the AOI, as every scene of this run" in result.failures[0].message
    assert not (tmp_path / "out" / "items").exists(), "nothing is committed, so the right AOI can be used next"


def test_a_scene_outside_beside_a_broken_one(three: Path, rgb_bundle: Path, tmp_path: Path) -> None:
    (three / "s1.tif").write_bytes(b"no raster")
    result, _ = run(three, rgb_bundle, tmp_path / "out", aoi=aoi_at(tmp_path, 500_000))
    assert result.exit_code == 3
    assert {scene.scene_id: scene.status for scene in result.scenes} == {"s0": "done", "s1": "failed", "s2": "done"}


def test_a_mask_that_misses_changes_nothing(three: Path, rgb_bundle: Path, tmp_path: Path) -> None:
    raster = write_tif(tmp_path / "cloud.tif", np.ones((1, 64, 64), "uint8"))
    polygon = aoi_at(tmp_path, 500_000)
    plain = detect(three, rgb_bundle, tmp_path / "plain")
    for name, mask in (("raster", f"cloud={raster}:1"), ("vector", f"cloud={polygon}")):
        result, notes = run(three, rgb_bundle, tmp_path / name, mask=[mask])
        assert result.exit_code == 0 and sum("masks nothing here" in note for note in notes) == 2
        for before, after in zip(plain.scenes[1:], result.scenes[1:], strict=True):
            assert before.detections == after.detections


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    model = random_bundle(tmp_path / "m", bands=("red", "green", "blue"), gsd=0.5, gsd_range=(0.4, 0.6))
    pixels = noise(3, 200, 160)
    square = write_tif(tmp_path / "square.tif", pixels)
    # Each pixel twice along y, and every other column left out: 1 m wide and 0.25 m high, the same ground.
    wide = pixels.repeat(2, axis=1)[:, :, ::2]
    place = Affine(1.0, 0, 500_000, 0, -0.25, 5_800_000)
    flat = write_tif(tmp_path / "flat.tif", wide, transform=place)
    result, _ = run(flat, model, tmp_path / "no")
    assert result.exit_code == 2 and "pixels are 1 x 0.25 m on the ground" in result.failures[0].message
    done, _ = run(flat, model, tmp_path / "yes", tile_gsd="model")
    rows = pq.read_table(next((tmp_path / "yes" / "detections").rglob("*.parquet"))).to_pandas()
    assert done.exit_code == 0 and len(rows) > 10
    as_square, _ = run(square, model, tmp_path / "square")
    assert done.scenes[0].megapixels == pytest.approx(as_square.scenes[0].megapixels, rel=1e-3)
    ratio = rows["width_m"] / rows["height_m"]
    on_pixels = (rows["px_xmax"] - rows["px_xmin"]) / (rows["px_ymax"] - rows["px_ymin"])
    assert np.allclose(ratio, 4 * on_pixels, rtol=0.02), "columns px_… are pixels of the file"


@pytest.mark.parametrize(("gsd", "code"), [(0.6000000000000106, 0), (0.604, 0), (0.397, 0), (0.65, 2), (0.39, 2)])
def test_the_gsd_has_a_tolerance(gsd: float, code: int, tmp_path: Path) -> None:
    model = random_bundle(tmp_path / "m", bands=("red", "green", "blue"), gsd=0.5, gsd_range=(0.4, 0.6))
    place = Affine(gsd, 0, 500_000, 0, -gsd, 5_800_000)
    scene = write_tif(tmp_path / "s.tif", noise(3, 64, 64), transform=place)
    assert run(scene, model, tmp_path / "out")[0].exit_code == code


def test_infrared_called_alpha_is_the_fourth_band_of_a_model(tmp_path: Path) -> None:
    model = random_bundle(tmp_path / "m", bands=("red", "green", "blue", "nir"))
    pixels = noise(4, 128, 128)
    pixels[3, :, :64] = np.random.default_rng(0).integers(0, 3, (128, 64))
    naip = write_tif(tmp_path / "naip.tif", pixels)
    result, notes = run(naip, model, tmp_path / "out")
    assert result.exit_code == 0
    assert notes == ["naip: band 4, which the file calls alpha, is taken for nir; --bands chooses another"]
    named, notes = run(naip, model, tmp_path / "named", bands=[1, 2, 3, 4])
    assert result.detections == named.detections and not notes
    colours = random_bundle(tmp_path / "rgb", bands=("red", "green", "blue"))
    run(naip, colours, tmp_path / "used", alpha="use")
    assert ground(tmp_path / "out", "naip") == ground(tmp_path / "used", "naip") == {"inspected": 1.0}


def test_physical_values_without_scale_tags_are_reported(tmp_path: Path) -> None:
    model = random_bundle(tmp_path / "m", bands=("b",), dtype="uint16", top=0.4, scaling="physical")
    scene = write_tif(tmp_path / "s.tif", noise(1, 64, 64, dtype="uint16"))
    _, notes = run(scene, model, tmp_path / "out")
    assert any("carry no scale and offset" in note for note in notes)
    with rasterio.open(scene, "r+") as dataset:
        dataset.scales = (0.0001,)
    _, notes = run(scene, model, tmp_path / "tagged")
    assert not notes


def test_a_folder_with_the_name_of_a_file_is_reported(three: Path, rgb_bundle: Path, tmp_path: Path) -> None:
    _, notes = run(three, rgb_bundle, tmp_path / "out.geojson")
    assert "out.geojson is made as a folder of GeoParquet files" in notes[0]


def test_another_page_of_a_file(three: Path, rgb_bundle: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.tif"
    rasterio.shutil.copy(three / "s0.tif", both, driver="GTiff")
    rasterio.shutil.copy(three / "s1.tif", both, driver="GTiff", APPEND_SUBDATASET="YES")
    expected = detect(three, rgb_bundle, tmp_path / "plain")
    for page in (1, 2):
        result, notes = run(both, rgb_bundle, tmp_path / f"p{page}", page=page, levels="1,0.5")
        alone = detect(three / f"s{page - 1}.tif", rgb_bundle, tmp_path / f"a{page}", levels="1,0.5")
        assert result.detections == alone.detections > 0
        assert any("holds 2 images" in note for note in notes) == (page == 1)
    assert expected.exit_code == 0 and tables(tmp_path / "p2")


def test_gaps_of_a_mosaic_are_no_inspected_ground(three: Path, rgb_bundle: Path, tmp_path: Path) -> None:
    source = "".join(
        f'<VRTRasterBand dataType="Byte" band="{b}"><SimpleSource><SourceFilename>{three / "s0.tif"}</SourceFilename>'
        f'<SourceBand>{b}</SourceBand><SrcRect xOff="0" yOff="0" xSize="128" ySize="128"/>'
        '<DstRect xOff="128" yOff="0" xSize="128" ySize="128"/></SimpleSource></VRTRasterBand>'
        for b in (1, 2, 3)
    )
    geo = ", ".join(map(str, NORTH_UP.to_gdal()))
    (tmp_path / "m.vrt").write_text(
        f'<VRTDataset rasterXSize="512" rasterYSize="128"><SRS>{UTM31}</SRS><GeoTransform>{geo}</GeoTransform>'
        f"{source}</VRTDataset>"
    )
    result, notes = run(tmp_path / "m.vrt", rgb_bundle, tmp_path / "out", bands=[1, 2, 3])
    assert result.exit_code == 0 and ground(tmp_path / "out", "m") == {"inspected": 0.25, "nodata": 0.75}
    assert any("no source covers 75 % of this mosaic" in note for note in notes)


def test_failures_of_inputs_that_are_gone_are_run(three: Path, rgb_bundle: Path, tmp_path: Path) -> None:
    (three / "junk.tif").write_bytes(b"no raster")
    assert run(three, rgb_bundle, tmp_path / "out")[0].exit_code == 3
    (three / "junk.tif").unlink()
    result, notes = run(three, rgb_bundle, tmp_path / "out")
    assert result.exit_code == 0 and "failures of 1 scene(s) or input(s) that are not in this run" in notes[-1]
    (tmp_path / "out" / "failures.parquet").unlink()
    assert not run(three, rgb_bundle, tmp_path / "out")[1]


def test_what_differs_from_a_committed_scene_is_told_in_words(three: Path, rgb_bundle: Path, tmp_path: Path) -> None:
    run(three, rgb_bundle, tmp_path / "out", aoi=aoi_at(tmp_path, 500_000))
    result, _ = run(three, rgb_bundle, tmp_path / "out", aoi=aoi_at(tmp_path, 500_010))
    assert "with other settings: area of interest (another);" in result.failures[0].message
    result, _ = run(three, rgb_bundle, tmp_path / "out")
    assert "with other settings: area of interest (none now);" in result.failures[0].message
