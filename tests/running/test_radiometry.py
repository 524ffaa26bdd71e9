"""Radiometry, resampling, band files and masks through the whole pipeline."""

from __future__ import annotations

import json
from dataclasses import replace

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from rasterio.enums import Resampling

from geosod.detectors import find_model, open_bundle
from geosod.detectors.radiometry import scaled_tiles
from geosod.errors import ConfigError, ModelError
from geosod.results import Execution
from geosod.scene import TileBatch
from geosod.testing import fake_card
from tests.rasters import NORTH_UP, UTM31, noise, random_bundle, write_tif
from tests.running.helpers import detect, tables


def columns(out, *names):
    table = pq.read_table(next((out / "detections").rglob("*.parquet")))
    return {name: table[name].to_numpy() for name in names}


BOX = ("px_xmin", "px_ymin", "px_xmax", "px_ymax", "score")


def same_boxes(first, second) -> bool:
    """The same boxes with the same scores; ids differ with the name of the scene."""
    a, b = columns(first, *BOX), columns(second, *BOX)
    return all(np.array_equal(a[name], b[name]) for name in BOX) and len(a["score"]) > 20


def test_values_are_scaled_by_what_the_card_says() -> None:
    """Against the arithmetic written out, for each kind of scaling."""
    pixels = np.array([[[[0, 100], [1000, 3000]]]], np.uint16)
    limits = np.array([[[100, 1100]]], np.float32)
    batch = TileBatch(pixels, np.array([[0, 0, 2, 2]]), None, np.array([[2, 2]]), limits)
    card = fake_card(gamma=2.0, dtype="uint16")
    scaled = scaled_tiles(batch, card, size=3, device=torch.device("cpu"))
    np.testing.assert_allclose(scaled[0, 0], np.sqrt([[0, 0], [0.9, 1]]), rtol=1e-6)
    assert scaled.shape == (3, 1, 2, 2)
    # Without limits of its own, a batch gets the card's.
    plain = scaled_tiles(replace(batch, limits=None), card, size=1, device=torch.device("cpu"))
    np.testing.assert_allclose(plain[0, 0], np.sqrt([[0, 100 / 255], [1, 1]]), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "int8"])
def test_percentiles_of_the_scene_make_its_units_not_matter(tmp_path, dtype) -> None:
    """The same ground in other units gives the same boxes; with fixed limits it does not."""
    bundle = random_bundle(
        tmp_path / "b", bands=("a",), minimum=(1.0,), maximum=(99.0,), scaling="percentile", gamma=1.5
    )
    ground = noise(1, 300, 400)
    ground //= 2
    plain = write_tif(tmp_path / "plain.tif", ground)
    other = ground.astype(dtype) if dtype == "int8" else (ground.astype(dtype) * 8 + 64).astype(dtype)
    changed = write_tif(tmp_path / "changed.tif", other)
    for path in (plain, changed):
        assert detect(path, bundle, tmp_path / path.stem).exit_code == 0
    assert same_boxes(tmp_path / "plain", tmp_path / "changed")


def test_percentiles_are_the_same_for_every_tile_and_engine(tmp_path) -> None:
    bundle = random_bundle(tmp_path / "b", bands=("a",), minimum=(2.0,), maximum=(98.0,), scaling="percentile")
    ramp = (noise(1, 600, 600, dtype="uint16").astype(int) + np.arange(600)[None, None, :] * 10).astype(np.uint16)
    scene = write_tif(tmp_path / "s.tif", ramp)
    for name, unit in (("rows", (1, 0)), ("whole", (0, 0))):
        assert detect(scene, bundle, tmp_path / name, unit=unit).exit_code == 0
    assert tables(tmp_path / "rows") == tables(tmp_path / "whole")


@pytest.mark.parametrize(("scale", "offset"), [(1e-4, -0.1), (0.5, 3.0)])
def test_physical_values_follow_the_tags(tmp_path, scale, offset) -> None:
    """A file of reflectances, and one of numbers that its tags turn into the same."""
    stored = noise(1, 300, 300, dtype="uint16")
    low, high = 10 * scale + offset, 200 * scale + offset
    bundle = random_bundle(tmp_path / "b", bands=("a",), minimum=(low,), maximum=(high,), scaling="physical")
    tagged = write_tif(tmp_path / "tagged.tif", stored)
    with rasterio.open(tagged, "r+") as dataset:
        dataset.scales, dataset.offsets = (scale,), (offset,)
    fixed = random_bundle(tmp_path / "f", bands=("a",), dtype="uint16", minimum=(10.0,), maximum=(200.0,))
    assert detect(tagged, bundle, tmp_path / "tagged").exit_code == 0
    assert detect(tagged, fixed, tmp_path / "fixed").exit_code == 0
    first, second = columns(tmp_path / "tagged", *BOX), columns(tmp_path / "fixed", *BOX)
    assert abs(len(first["score"]) - len(second["score"])) <= 2, "the limits differ in the last bit of a float"
    assert np.sort(first["score"])[-50:] == pytest.approx(np.sort(second["score"])[-50:], abs=1e-4)
    untagged = write_tif(tmp_path / "untagged.tif", stored)
    assert detect(untagged, bundle, tmp_path / "untagged").exit_code == 0
    assert columns(tmp_path / "untagged", "score")["score"].sum() != first["score"].sum()


def test_a_card_says_how_values_are_scaled(tmp_path) -> None:
    folder = random_bundle(
        tmp_path / "b", bands=("a",), minimum=(2.0,), maximum=(98.0,), scaling="percentile", gamma=2.2
    )
    card = open_bundle(folder).card
    assert (card.scaling, card.gamma, card.minimum, card.maximum) == ("percentile", 2.2, (2.0,), (98.0,))
    item = json.loads((folder / "model.json").read_text())
    assert "percentiles 2 and 98" in item["properties"]["mlm:input"][0]["value_scaling"][0]["expression"]
    for wrong in ({"scaling": "magic"}, {"maximum": (101.0,)}, {"gamma": 0.0}):
        values = {"minimum": (2.0,), "maximum": (98.0,), "scaling": "percentile"} | wrong
        with pytest.raises(ModelError, match="fix its card"):
            random_bundle(tmp_path / "wrong", bands=("a",), **values)


def test_tiles_at_another_gsd_equal_a_scene_that_was_resampled_before(tmp_path) -> None:
    bundle = random_bundle(tmp_path / "b", bands=("red", "green", "blue"), gsd=1.0, gsd_range=(0.8, 1.2))
    pixels = noise(3, 640, 900)
    pixels[:, 200:300, 400:520] = 0
    fine = write_tif(tmp_path / "fine.tif", pixels, nodata=0, block=128)
    refused = detect(fine, bundle, tmp_path / "refused")
    assert refused.exit_code == 2 and "--tile-gsd 1" in refused.failures[0].message
    gsd = 2 * 0.5002  # UTM's scale on the ground
    with rasterio.open(fine) as dataset:
        half = dataset.read(out_shape=(3, 320, 450), resampling=Resampling.bilinear)
    coarse = write_tif(tmp_path / "coarse.tif", half, nodata=0, transform=NORTH_UP @ Affine.scale(2))
    assert detect(coarse, bundle, tmp_path / "coarse").exit_code == 0
    for name, unit in {"a": (1, 2), "b": (0, 0)}.items():
        assert detect(fine, bundle, tmp_path / name, tile_gsd=gsd, unit=unit).exit_code == 0
    assert tables(tmp_path / "a") == tables(tmp_path / "b")
    seen, oracle = columns(tmp_path / "a", *BOX, "level"), columns(tmp_path / "coarse", *BOX, "level")
    assert len(seen["score"]) == len(oracle["score"]) > 20
    np.testing.assert_array_equal(seen["score"], oracle["score"])
    for name in BOX[:4]:
        np.testing.assert_allclose(seen[name], 2 * oracle[name], rtol=1e-3)
    assert set(oracle["level"]) == {1.0} and seen["level"] == pytest.approx(0.5, rel=1e-3)
    paths = [next((tmp_path / name / "detections").rglob("*.parquet")) for name in ("a", "coarse")]
    mine, theirs = (geopandas.read_parquet(path).to_crs(UTM31).geometry.centroid for path in paths)
    assert mine.distance(theirs).max() < 0.1


def test_the_models_own_gsd(tmp_path) -> None:
    bundle = random_bundle(tmp_path / "b", bands=("red", "green", "blue"), gsd=1.0, gsd_range=(0.9, 1.1))
    scene = write_tif(tmp_path / "s.tif", noise(3, 500, 500))
    assert detect(scene, bundle, tmp_path / "out", tile_gsd="model").exit_code == 0
    item = json.loads((tmp_path / "out/items/s.json").read_text())
    assert item["properties"]["gsd"] == pytest.approx(1.0, rel=2e-3)
    nameless = random_bundle(tmp_path / "n", bands=("red", "green", "blue"))
    result = detect(scene, nameless, tmp_path / "none", tile_gsd="model")
    assert result.exit_code == 2 and "states no GSD" in result.failures[0].message
    with pytest.raises(ConfigError, match="tile_gsd"):
        detect(scene, bundle, tmp_path / "x", tile_gsd=-1.0)


def test_masked_ground_gives_no_boxes_and_is_told(tmp_path, rgb_bundle) -> None:
    scene = write_tif(tmp_path / "s.tif", noise(3, 500, 700))
    cloud = shapely.box(*np.array(NORTH_UP @ (100, 300)), *np.array(NORTH_UP @ (400, 100)))
    sea = shapely.box(*np.array(NORTH_UP @ (300, 500)), *np.array(NORTH_UP @ (700, 250)))
    for name, shape in {"cloud": cloud, "sea": sea}.items():
        geopandas.GeoDataFrame(geometry=[shape], crs=UTM31).to_file(tmp_path / f"{name}.gpkg")
    mask = [f"cloud={tmp_path}/cloud.gpkg", f"sea={tmp_path}/sea.gpkg"]
    plain, masked = tmp_path / "plain", tmp_path / "masked"
    assert detect(scene, rgb_bundle, plain).exit_code == 0
    assert detect(scene, rgb_bundle, masked, mask=mask).exit_code == 0
    frames = [geopandas.read_parquet(next((o / "detections").rglob("*.parquet"))) for o in (plain, masked)]

    def hidden(frame):
        x, y = (frame.px_xmin + frame.px_xmax) / 2, (frame.px_ymin + frame.px_ymax) / 2
        return ((x > 100) & (x < 400) & (y > 100) & (y < 300)) | ((x > 300) & (y > 250))

    assert hidden(frames[0]).sum() > 10 and hidden(frames[1]).sum() == 0
    assert set(frames[1].detection_id) == set(frames[0].detection_id[~hidden(frames[0])]), "the others are as without"
    coverage = geopandas.read_parquet(masked / "coverage/s.parquet")
    square = {k: v.area for k, v in {"cloud": cloud, "sea": sea.difference(cloud)}.items()}
    for kind, area in square.items():
        told = coverage[(coverage.status == "masked") & (coverage.reason == kind)].area_km2.sum() * 1e6
        assert told == pytest.approx(area, rel=2e-3)
    whole = coverage.area_km2.sum() * 1e6
    assert whole == pytest.approx(500 * 700 / 4, rel=2e-3)
    options = json.loads((masked / "items/s.json").read_text())["properties"]
    assert str(tmp_path) not in json.dumps(options)


def test_tiles_under_a_mask_are_not_read(tmp_path, rgb_bundle) -> None:
    """Ground that would fail if it were read is under the mask."""
    path = write_tif(tmp_path / "s.tif", noise(3, 512, 1024), block=128)
    with rasterio.open(path) as dataset:
        offset = int(
            dataset.tags(ns="TIFF", bidx=1).get(
                "BLOCK_OFFSET_6_1", dataset.get_tag_item("BLOCK_OFFSET_6_1", "TIFF", bidx=1)
            )
        )
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * 40)
    assert detect(path, rgb_bundle, tmp_path / "bad").exit_code == 3
    right = shapely.box(*np.array(NORTH_UP @ (560, 512)), *np.array(NORTH_UP @ (1024, 0)))
    geopandas.GeoDataFrame(geometry=[right], crs=UTM31).to_file(tmp_path / "m.gpkg")
    assert detect(path, rgb_bundle, tmp_path / "good", mask=[f"cloud={tmp_path}/m.gpkg"]).exit_code == 0


def test_a_changed_mask_is_another_setting(tmp_path, rgb_bundle) -> None:
    scene = write_tif(tmp_path / "s.tif", noise(3, 200, 200))
    write_tif(tmp_path / "m.tif", np.zeros((1, 200, 200), np.uint8))
    mask = [f"cloud={tmp_path}/m.tif:1"]
    assert detect(scene, rgb_bundle, tmp_path / "out", mask=mask).scenes[0].status == "done"
    assert detect(scene, rgb_bundle, tmp_path / "out", mask=mask).scenes[0].status == "skipped"
    write_tif(tmp_path / "m.tif", np.ones((1, 200, 200), np.uint8))
    again = detect(scene, rgb_bundle, tmp_path / "out", mask=mask)
    assert again.exit_code == 2 and "--overwrite" in again.failures[0].message
    whole = detect(scene, rgb_bundle, tmp_path / "out", mask=mask, overwrite=True)
    assert whole.scenes[0].status == "done" and whole.detections == 0


@pytest.mark.parametrize("wrong", ["cloud", "=x.tif", ["a=b.gpkg", "a=c.gpkg"]])
def test_masks_that_name_nothing(tmp_path, rgb_bundle, wrong) -> None:
    scene = write_tif(tmp_path / "s.tif", noise(3, 200, 200))
    with pytest.raises(ConfigError, match="mask"):
        detect(scene, rgb_bundle, tmp_path / "out", mask=[wrong] if isinstance(wrong, str) else wrong)
    with pytest.raises(ConfigError, match=r"gone\.gpkg"):
        detect(scene, rgb_bundle, tmp_path / "out", mask=["cloud=gone.gpkg"])


def test_a_batch_without_limits_takes_the_cards(tmp_path, rgb_bundle) -> None:
    execution = Execution("cpu", "eager", "fp32", 2, 1)
    model = find_model(rgb_bundle)
    detector = model.load(execution, rules=model.rules.changed(threshold=0.0))
    pixels = noise(3, 128, 128)[None]
    place = (np.array([[0, 0, 128, 128]]), None, np.array([[128, 128]]))
    limits = np.tile(np.array([0, 255], np.float32), (1, 3, 1))
    plain, given = (detector.detect(TileBatch(pixels, *place, value))[0] for value in (None, limits))
    np.testing.assert_array_equal(plain.boxes, given.boxes)
