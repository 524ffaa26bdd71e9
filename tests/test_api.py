"""The public Python API: what it is, results in memory, arrays as scenes, and typed settings."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import typing
from pathlib import Path

import geopandas
import numpy as np
import pytest
from affine import Affine
from geopandas.testing import assert_geodataframe_equal

import geosod
from geosod.config import RunConfig
from geosod.detectors import open_bundle
from geosod.errors import ConfigError, ModelError
from geosod.settings import Settings
from geosod.testing import fake_detector
from tests.rasters import NORTH_UP, UTM31, noise, random_bundle, write_tif
from tests.running.helpers import PLAIN, tables

PUBLIC = [
    "ArrayScene",
    "Detections",
    "Detector",
    "Execution",
    "GeosodError",
    "ModelCard",
    "RawBoxes",
    "Result",
    "RunConfig",
    "__version__",
    "changes",
    "create_pipeline",
    "deduplicate",
    "detect",
    "export",
    "fragment_flags",
    "from_callback",
    "from_sahi",
    "load_model",
    "merge",
    "merge_polygons",
    "mine",
    "progress",
    "summarize",
    "train",
    "view",
]


def test_the_public_names_are_these() -> None:
    assert geosod.__all__ == PUBLIC
    for name in PUBLIC:
        assert getattr(geosod, name).__doc__ or name == "__version__"
    with pytest.raises(AttributeError, match="no attribute 'detekt'"):
        _ = geosod.detekt


def test_typed_settings_are_those_of_the_configuration() -> None:
    """A setting that one of the two lacks, or an option that only one of them names, is found here."""
    hints = typing.get_type_hints(Settings)
    assert ["model", "out", *hints] == list(RunConfig.model_fields)
    for name, field in RunConfig.model_fields.items():
        if name not in hints:
            continue
        options = {o for part in typing.get_args(field.annotation) or () for o in typing.get_args(part)}
        options |= set(typing.get_args(field.annotation))
        named = {o for o in options if isinstance(o, str)}
        if named and name not in ("tile_gsd", "levels"):
            typed = {o for part in typing.get_args(hints[name]) for o in typing.get_args(part)}
            assert {o for o in typed if isinstance(o, str)} == named, name


def test_unknown_settings_are_refused(rgb_bundle) -> None:
    with pytest.raises(ConfigError, match="overlapp: unknown setting"):
        geosod.detect("a.tif", model=rgb_bundle, overlapp=3)  # type: ignore[call-arg]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return noise(3, 300, 420)


def read(out: Path, scene: str) -> geopandas.GeoDataFrame:
    return geopandas.read_parquet(next((out / "detections").rglob(f"{scene}.parquet")))


def test_results_in_memory_are_the_committed_ones(pixels, rgb_bundle, tmp_path) -> None:
    """Of a file, of the array of its pixels, and of that array committed."""
    scene = write_tif(tmp_path / "scene.tif", pixels)
    geosod.detect(scene, model=rgb_bundle, out=tmp_path / "file", engine="serial", **PLAIN)
    written = read(tmp_path / "file", "scene")
    placed = geosod.ArrayScene(pixels, NORTH_UP, UTM31, id="scene")
    in_memory = {
        "file": geosod.detect(scene, model=rgb_bundle, **PLAIN),
        "array": geosod.detect(placed, model=rgb_bundle, **PLAIN),
        "detector": geosod.detect(placed, model=geosod.load_model(rgb_bundle, **PLAIN)),
        "mixed": geosod.detect([pixels, scene], model=rgb_bundle, **PLAIN),
    }
    for result in in_memory.values():
        outputs = result["scene"]
        assert result.exit_code == 0 and result.out is None and len(outputs.detections) == len(written) > 100
        assert_geodataframe_equal(outputs.to_geopandas(), written)
        ground = geopandas.read_parquet(tmp_path / "file/coverage/scene.parquet")
        assert_geodataframe_equal(outputs.coverage_to_geopandas(), ground)
    assert set(in_memory["mixed"].outputs) == {"array", "scene"}
    geosod.detect(placed, model=rgb_bundle, out=tmp_path / "array", **PLAIN)
    assert_geodataframe_equal(read(tmp_path / "array", "scene"), written)
    again = geosod.detect(placed, model=rgb_bundle, out=tmp_path / "array", **PLAIN)
    assert [scene.status for scene in again.scenes] == ["skipped"]
    # On the pixels themselves, too.
    boxes = in_memory["array"]["scene"].detections.boxes
    assert sorted(boxes[:, 0]) == sorted(written.px_xmin)


def test_results_in_memory_need_neither_disk_nor_ray(tmp_path) -> None:
    """In a folder, with a home and with temporary files that nobody may write to."""
    script = """
import os, sys
import numpy as np
import geosod
from geosod.testing import fake_detector

detector = fake_detector()
image = np.zeros((300, 500), np.uint8)
image[40:70, 100:160] = 250

def guard(event, args):
    if args and "__pycache__" in str(args[0]):
        return  # compiled code
    if event == "open" and isinstance(args[0], str) and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        raise AssertionError(f"writes {args[0]}")
    if event in ("os.mkdir", "os.rename", "os.remove"):
        raise AssertionError(f"{event} {args[0]}")

sys.addaudithook(guard)
result = geosod.detect(image, model=detector)
assert result["array"].detections.boxes.tolist() == [[100, 40, 160, 70]], result["array"]
assert "ray" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    assert not list(tmp_path.rglob("*.tif"))


def test_arrays_with_channels_last(pixels, rgb_bundle) -> None:
    first = geosod.detect(pixels, model=rgb_bundle, **PLAIN)["array"].detections
    last = geosod.detect(np.moveaxis(pixels, 0, 2), model=rgb_bundle, **PLAIN)["array"].detections
    assert np.array_equal(first.boxes, last.boxes) and len(first)
    # Three rows of three: both orders fit, and the documented one is taken.
    small = noise(3, 64, 3)
    assert geosod.detect(small, model=rgb_bundle, **PLAIN)["array"].scene.width == 3


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_arrays_of_every_type_nodata_and_bands(dtype, tmp_path) -> None:
    pixels = noise(4, 200, 260, dtype=dtype)
    pixels[:, :, :90] = 0 if dtype != "float32" else np.nan
    top = 1.0 if dtype == "float32" else 300.0
    bundle = random_bundle(tmp_path / "b", bands=("b", "r", "g", "n"), dtype=dtype, top=top)
    nodata = None if dtype == "float32" else 0
    scene = geosod.ArrayScene(pixels, NORTH_UP, UTM31, id="a", nodata=nodata, datetime=dt.datetime(2026, 5, 1, 10))
    result = geosod.detect(scene, model=bundle, **PLAIN)
    frame = result["a"].to_geopandas()
    assert len(frame) and (frame.px_xmax > 90).all()
    assert frame.datetime.iloc[0] == dt.datetime(2026, 5, 1, 10, tzinfo=dt.UTC)
    ground = result["a"].coverage_to_geopandas()
    assert set(ground.status) == {"inspected", "nodata"}
    write_tif(tmp_path / "a.tif", pixels, nodata=nodata)
    same = geosod.detect(tmp_path / "a.tif", model=bundle, **PLAIN)["a"].detections
    assert np.array_equal(same.boxes, result["a"].detections.boxes)
    # The user's choice of bands goes by the array's own order.
    turned = geosod.ArrayScene(pixels[::-1], NORTH_UP, UTM31, id="a", nodata=nodata)
    turned_back = geosod.detect(turned, model=bundle, bands="4,3,2,1", **PLAIN)["a"].detections
    assert np.array_equal(turned_back.boxes, same.boxes)


def test_settings_apply_to_arrays(pixels, rgb_bundle) -> None:
    scene = geosod.ArrayScene(pixels, NORTH_UP, UTM31)
    for settings in ({"tile_gsd": 0.8}, {"levels": "1,0.5"}, {"crs": "EPSG:3035"}, {"tile": "128x96", "overlap": 0.3}):
        result = geosod.detect(scene, model=rgb_bundle, **PLAIN, **settings)
        assert result.exit_code == 0 and result.detections > 20
    assert geosod.detect(scene, model=rgb_bundle, **PLAIN, crs="EPSG:3035")["array"].to_geopandas().crs == "EPSG:3035"


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        (np.zeros((2, 3, 4, 5), np.uint8), r"shape \(2, 3, 4, 5\) is not an image"),
        (np.zeros((3, 0, 5), np.uint8), "is not an image"),
        (np.zeros((7, 90, 90), np.uint8), "does not have the model's 3 bands"),
        (np.zeros((3, 90, 90), np.complex64), "pixel"),
        (geosod.ArrayScene(np.zeros((3, 9, 9), np.uint8), NORTH_UP), "a CRS or a transform, but not both"),
        (geosod.ArrayScene(np.zeros((3, 9, 9), np.uint8), NORTH_UP, "EPSG:99999999"), "cannot be read as a scene"),
        (np.array([["a"]]), "does not have|cannot be read"),
    ],
)
def test_arrays_that_are_no_scenes(scene, message, rgb_bundle) -> None:
    try:
        result = geosod.detect(scene, model=rgb_bundle, **PLAIN)
    except (ConfigError, ModelError) as error:
        text = str(error)
    else:
        assert result.exit_code == 2
        text = result.failures[0].message
    assert __import__("re").search(message, text), text


def test_two_arrays_of_one_name(pixels, rgb_bundle) -> None:
    result = geosod.detect([pixels, pixels[:, :200]], model=rgb_bundle, **PLAIN)
    assert set(result.outputs) == {"array", "array-2"}
    twice = [geosod.ArrayScene(pixels, id="x"), geosod.ArrayScene(pixels, id="x")]
    with pytest.raises(ConfigError, match="another array has that id"):
        geosod.detect(twice, model=rgb_bundle, **PLAIN)
    assert geosod.detect(twice[:1], model=rgb_bundle, **PLAIN).exit_code == 0, "the name is free again"


def test_ray_and_memory_do_not_go_together(pixels, rgb_bundle, tmp_path) -> None:
    with pytest.raises(ConfigError, match="results in memory"):
        geosod.detect(write_tif(tmp_path / "a.tif", pixels), model=rgb_bundle, engine="ray")
    with pytest.raises(ConfigError, match="reads scenes from files"):
        geosod.detect(pixels, model=rgb_bundle, engine="ray", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_result_does_not_hold(pixels, rgb_bundle, tmp_path) -> None:
    scene = write_tif(tmp_path / "a.tif", pixels)
    result = geosod.detect([scene, tmp_path / "gone.tif"], model=rgb_bundle, **PLAIN)
    assert result.exit_code == 3 and set(result.outputs) == {"a"}
    with pytest.raises(ConfigError, match=r"no scene 'b' in this result; there are: .*a"):
        result["b"]
    written = geosod.detect(scene, model=rgb_bundle, out=tmp_path / "out", engine="serial", **PLAIN)
    with pytest.raises(ConfigError, match=r"written to .*a\.parquet"):
        written["a"]
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"no raster")
    failed = geosod.detect(broken, model=rgb_bundle, **PLAIN)
    with pytest.raises(ConfigError, match="failed"):
        failed[failed.scenes[0].scene_id]


def test_a_detector_takes_arrays(rgb_bundle) -> None:
    """From public names alone: single images, several, channels last, sizes that are no multiple of 32."""
    detector = geosod.load_model(rgb_bundle, precision="fp32", backend="eager")
    image = noise(3, 100, 170)
    found = detector.detect(image)
    assert isinstance(found, geosod.Detections)
    several = detector.detect(np.stack([image, image]))
    assert len(several) == 2 and np.array_equal(several[1].boxes, found.boxes)
    last = detector.detect(np.moveaxis(image, 0, 2))
    assert np.array_equal(last.boxes, found.boxes)
    for wrong, message in (
        (image.astype(np.float32), "pixels are float32, but random-rgb was trained on uint8"),
        (noise(4, 64, 64), "does not have the model's 3 bands"),
        (noise(1, 64, 64)[0], "is not an image"),
        (np.zeros((3, 32, 8224), np.uint8), "does not fit a tile"),
    ):
        with pytest.raises(ModelError, match=message):
            detector.detect(wrong)


def test_a_detector_finds_what_the_pipeline_finds() -> None:
    """In a scene of one tile, where there is nothing to merge."""
    detector = fake_detector()
    image = np.zeros((1, 200, 230), np.uint8)
    image[0, 20:60, 30:90], image[0, 190:, 100:140] = 250, 200
    found, outputs = detector.detect(image), geosod.detect(image, model=detector)["array"]
    assert same_boxes(found, outputs.detections)
    assert found.truncated.sum() == 1 and not found.fragment.any()
    floats = np.where(image > 0, np.float32(0.9), np.float32(np.nan))
    found = fake_detector(dtype="float32", maximum=(1.0,)).detect(floats)
    assert sorted(map(tuple, found.boxes.tolist())) == [(30, 20, 90, 60), (100, 190, 140, 200)]


def test_percentiles_of_an_array_are_those_of_the_scene(tmp_path) -> None:
    """Limits that depend on the scene are computed from the array, as `detect` computes them from the file."""
    image = (noise(1, 96, 128).astype(np.uint16) * 37).astype(np.uint16)
    bundle = random_bundle(
        tmp_path / "b", bands=("a",), dtype="uint16", minimum=(2.0,), maximum=(98.0,), scaling="percentile"
    )
    found = geosod.load_model(bundle, **PLAIN).detect(image)
    outputs = geosod.detect(image, model=bundle, **PLAIN)["array"].detections
    merged = geosod.merge(found, threshold=open_bundle(bundle).card.merge_threshold)
    assert len(found) and same_boxes(merged, outputs)


def same_boxes(a: geosod.Detections, b: geosod.Detections) -> bool:
    return sorted(a.boxes.tolist()) == sorted(b.boxes.tolist())


def test_supervision() -> None:
    supervision = pytest.importorskip("supervision")
    image = np.zeros((300, 500), np.uint8)
    image[40:70, 100:160] = 250
    outputs = geosod.detect(image, model=fake_detector())["array"]
    found = outputs.to_supervision()
    assert isinstance(found, supervision.Detections) and found.xyxy.tolist() == [[100, 40, 160, 70]]
    assert found.data["class_name"].tolist() == ["spot"] and found.class_id.tolist() == [0]
    assert found.confidence.tolist() == pytest.approx(outputs.detections.scores.tolist())
    empty = geosod.detect(image * 0, model=fake_detector())["array"].to_supervision()
    assert len(empty) == 0


def test_a_rotated_array(rgb_bundle, pixels, tmp_path) -> None:
    transform = NORTH_UP * Affine.rotation(30)
    write_tif(tmp_path / "r.tif", pixels, transform=transform)
    array = geosod.detect(geosod.ArrayScene(pixels, transform, UTM31, id="r"), model=rgb_bundle, **PLAIN)
    file = geosod.detect(tmp_path / "r.tif", model=rgb_bundle, **PLAIN)
    assert_geodataframe_equal(array["r"].to_geopandas(), file["r"].to_geopandas())


def test_writing_a_bundle_chooses_no_licence(tmp_path) -> None:
    from geosod.detectors import write_bundle
    from geosod.detectors.adapters.zoo import network

    card = open_bundle(random_bundle(tmp_path / "b", bands=("a",))).card
    state = network(card).state_dict()
    from dataclasses import replace

    with pytest.raises(ModelError, match="states no license"):
        write_bundle(tmp_path / "n", replace(card, license=""), state)
    with pytest.raises(ModelError, match="unknown architecture 'yolo'"):
        write_bundle(tmp_path / "n", replace(card, architecture="yolo"), state)
    with pytest.raises(ModelError, match="unknown adapter 'magic'"):
        write_bundle(tmp_path / "n", replace(card, adapter="magic"), b"")
    assert not (tmp_path / "n").exists()
    assert tables(tmp_path) == {}


def test_masked_arrays_and_arrays_of_other_libraries(pixels, rgb_bundle) -> None:
    import torch

    mask = np.zeros(pixels.shape, bool)
    mask[1, :, :200] = True
    masked = np.ma.masked_array(pixels, mask=mask)
    result = geosod.detect(geosod.ArrayScene(masked, NORTH_UP, UTM31, id="m"), model=rgb_bundle, **PLAIN)
    assert (result["m"].detections.boxes[:, 2] > 200).all() and len(result["m"].detections)
    ground = result["m"].coverage_to_geopandas()
    share = ground[ground.status == "nodata"].area_km2.sum() / ground.area_km2.sum()
    assert share == pytest.approx(200 / 420, abs=0.05)
    tensor = geosod.detect(torch.from_numpy(pixels), model=rgb_bundle, **PLAIN)["array"].detections
    plain = geosod.detect(pixels, model=rgb_bundle, **PLAIN)["array"].detections
    assert np.array_equal(tensor.boxes, plain.boxes)
    found = geosod.load_model(rgb_bundle, **PLAIN).detect(masked[:, :128, :128])
    assert not len(found), "everything is masked"


def test_rows_come_in_one_order_whatever_the_units(pixels, rgb_bundle) -> None:
    settings = PLAIN | {"merge_threshold": 0.3}
    whole = geosod.detect(pixels, model=rgb_bundle, unit=(0, 0), **settings)["array"].detections
    for unit in [(1, 1), (2, 3), (1, 0)]:
        parts = geosod.detect(pixels, model=rgb_bundle, unit=unit, **settings)["array"].detections
        assert parts.to_arrow().equals(whole.to_arrow())


def test_runs_with_arrays_in_several_threads(pixels) -> None:
    from concurrent.futures import ThreadPoolExecutor

    image = np.zeros((300, 400), np.uint8)
    image[50:90, 60:130] = 250
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: geosod.detect(image * (i % 2), model=fake_detector()), range(8)))
    assert [len(r["array"].detections) for r in results] == [0, 1] * 4


@pytest.mark.parametrize("scene", [None, 3, [3], b"x", [["a"]]])
def test_scenes_of_other_types(scene, rgb_bundle) -> None:
    with pytest.raises(ConfigError, match="a scene is a"):
        geosod.detect(scene, model=rgb_bundle, **PLAIN)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": "a/b"}, "cannot name a file"), ({"id": ""}, "cannot name a file"),
        ({"datetime": "yesterday"}, "ISO 8601"),
        ({"transform": (1, 2), "crs": UTM31}, "no Affine|not an Affine"),
    ],
)  # fmt: skip
def test_array_scenes_with_unusable_fields(fields, message, pixels, rgb_bundle) -> None:
    with pytest.raises(ConfigError, match=message):
        geosod.detect(geosod.ArrayScene(pixels, **fields), model=rgb_bundle, **PLAIN)
    with pytest.raises(ConfigError, match="pixels are bool"):
        geosod.detect(pixels > 3, model=rgb_bundle, **PLAIN)


def test_results_of_several_scenes(pixels, rgb_bundle) -> None:
    scenes = [geosod.ArrayScene(pixels, NORTH_UP, UTM31, id=name) for name in ("a", "b")]
    result = geosod.detect(scenes, model=rgb_bundle, **PLAIN)
    assert list(result) == ["a", "b"] and len(result) == 2
    assert len(result.to_geopandas()) == result.detections == 2 * len(result["a"].detections)
