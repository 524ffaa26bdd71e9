"""What can be predicted on, lazily and in order; thresholds; and what fails."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import geosod
from geosod.errors import ConfigError, OutputError, SceneError, UsageError
from geosod.running.events import Failed, Note
from tests.rasters import NORTH_UP, UTM31, noise, random_bundle, write_tif
from tests.remote.server import serving


def boxes(result) -> list:
    return [(box["cls_id"], box["score"], *box["coordinate"]) for box in result["boxes"]]


@pytest.fixture(scope="module")
def all_boxes(pipeline, pixels):
    (result,) = pipeline.predict(pixels, color="rgb", threshold=0.0)
    return boxes(result)


def test_results_are_made_when_they_are_asked_for(pipeline, photo, tmp_path, pixels) -> None:
    later = tmp_path / "later.png"
    results = pipeline.predict([str(photo), str(later)])
    assert inspect.isgenerator(results)
    assert next(results)["input_path"] == str(photo)
    Image.fromarray(pixels).save(later)
    assert next(results)["input_path"] == str(later)
    assert next(results, None) is None


def test_arrays_are_bgr_unless_they_are_called_rgb(pipeline, photo, pixels) -> None:
    (file,) = pipeline.predict(photo)
    (bgr,) = pipeline.predict(np.ascontiguousarray(pixels[..., ::-1]))
    (rgb,) = pipeline.predict(pixels, color="rgb")
    (first,) = pipeline.predict(np.moveaxis(pixels, 2, 0), color="rgb")
    (wrong,) = pipeline.predict(pixels)
    assert boxes(file) == boxes(bgr) == boxes(rgb) == boxes(first) != boxes(wrong)
    assert bgr["input_path"] is None and bgr["page_index"] is None
    assert np.array_equal(bgr.img["res"], file.img["res"]), "and the picture has the right colours"


def test_other_arrays(pipeline, pixels) -> None:
    (grey,) = pipeline.predict(pixels[..., 0])
    (same,) = pipeline.predict(np.stack([pixels[..., 0]] * 3, axis=2))
    assert boxes(grey) == boxes(same)
    masked = np.ma.masked_array(pixels, mask=np.broadcast_to(np.arange(300)[None, :, None] < 150, pixels.shape))
    (half,) = pipeline.predict(masked)
    assert half["boxes"] and min(box["coordinate"][2] for box in half["boxes"]) > 150
    placed = geosod.ArrayScene(np.moveaxis(pixels, 2, 0), NORTH_UP, UTM31, id="june")
    (june,) = pipeline.predict(placed)
    (rgb,) = pipeline.predict(pixels, color="rgb")
    assert boxes(june) == boxes(rgb) and june.to_geopandas().crs is not None


def test_folders_globs_lists_and_paths(pipeline, pixels, tmp_path) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.png", "a.jpg", "deep/a.png"):
        Image.fromarray(pixels).save(folder / name)
    paths = [result["input_path"] for result in pipeline.predict(str(folder))]
    assert paths == [str(folder / name) for name in ("a.jpg", "b.png", "deep/a.png")]
    assert [r["input_path"] for r in pipeline.predict(f"{folder}/*.png")] == [str(folder / "b.png")]
    twice = list(pipeline.predict([folder / "b.png", [pixels, str(folder / "b.png")]], threshold=0.6))
    assert [r["input_path"] for r in twice] == [str(folder / "b.png"), None, str(folder / "b.png")]
    for result in twice:
        result.save_to_json(tmp_path / "out")
    names = ["array_res.json", "b-2_res.json", "b_res.json"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names


def test_paths_are_as_the_user_writes_them(pipeline, photo, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photo.png", "./photo.png"):
        assert next(pipeline.predict(name))["input_path"] == name
    assert next(pipeline.predict("."))["input_path"] == "photo.png"
    assert next(pipeline.predict("*.png"))["input_path"] == "photo.png"


def test_addresses(pipeline, photo) -> None:
    with serving(photo.parent) as server:
        address = f"{server.url}/photo.png"
        (found,) = pipeline.predict(address + "?token=secret")
    assert found["input_path"] == address, "without the query, which may be a signature"
    assert boxes(found) == boxes(next(pipeline.predict(photo)))


def test_a_result_for_each_page(pipeline, pixels, tmp_path) -> None:
    path = tmp_path / "pages.tif"
    pages = [Image.fromarray(np.roll(pixels, shift, axis=1)) for shift in (0, 50, 90)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    notes = []
    results = list(pipeline.predict(path, on_event=notes.append))
    assert [r["page_index"] for r in results] == [0, 1, 2] and {r["input_path"] for r in results} == {str(path)}
    assert not [n for n in notes if isinstance(n, Note) and "--page" in n.text]
    for result, page in zip(results, pages, strict=True):
        (alone,) = pipeline.predict(np.asarray(page), color="rgb")
        assert boxes(result) == boxes(alone)
        assert np.array_equal(result.img["res"], alone.img["res"])
        result.save_to_img(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"pages_{i}_res.png" for i in range(3)]


def test_a_geotiff_with_a_place(pipeline, tmp_path) -> None:
    path = write_tif(tmp_path / "scene.tif", noise(3, 200, 300))
    (result,) = pipeline.predict(path, threshold=0.6)
    result.save_to_img(tmp_path / "out")
    result.save_to_parquet(tmp_path / "out")
    frame = result.to_geopandas()
    assert len(frame) == len(result["boxes"]) and frame.crs == "OGC:CRS84"
    import geopandas

    assert geopandas.read_parquet(tmp_path / "out/scene_res.parquet").equals(frame)
    assert (tmp_path / "out/scene_res.png").is_file()


def test_coordinates_are_pixels_of_the_file_at_another_scale(rgb_bundle, tmp_path) -> None:
    path = write_tif(tmp_path / "scene.tif", noise(3, 200, 300))
    made = geosod.create_pipeline(str(rgb_bundle), device="cpu", backend="eager", tile_gsd=0.25)
    (result,) = made.predict(path)
    frame = result.to_geopandas().sort_values("px_xmax")
    assert result.outputs.scene.width == 600
    corners = np.array([box["coordinate"] for box in result["boxes"]])
    assert corners[:, 2].max() <= 300 and np.allclose(np.sort(corners[:, 2]), frame.px_xmax)
    assert result.img["res"].size == (300, 200)


# --- thresholds


@given(st.floats(0, 1) | st.dictionaries(st.sampled_from([0, 1]), st.floats(0, 1), min_size=1))
@settings(max_examples=15, deadline=None)
def test_thresholds(pipeline, pixels, all_boxes, threshold) -> None:
    (result,) = pipeline.predict(pixels, color="rgb", threshold=threshold)
    low = {0: 0.0, 1: 0.0} | threshold if isinstance(threshold, dict) else dict.fromkeys((0, 1), threshold)
    # A box below the threshold of its class is never reported; without merging the others stay the same.
    assert all(box["score"] >= low[box["cls_id"]] for box in result["boxes"])
    best = [box for box in all_boxes if box[1] == max(b[1] for b in all_boxes)]
    assert all((box in boxes(result)) == (box[1] >= low[box[0]]) for box in best)


def test_thresholds_by_name_and_those_of_the_pipeline(tmp_path, pixels) -> None:
    bundle = random_bundle(tmp_path / "many", bands=("red", "green", "blue"), top_k=5000)
    module = {"model_name": "x", "model_dir": str(bundle), "threshold": 0.6}
    named = {"pipeline_name": "p", "SubModules": {"SmallObjectDetection": module}}
    made = geosod.create_pipeline(config=named, device="cpu", backend="eager")

    def scores(threshold=None) -> dict[str, float]:
        (result,) = made.predict(pixels, threshold=threshold)
        return {name: min(box["score"] for box in result["boxes"] if box["label"] == name) for name in ("ship", "car")}

    usual = scores()
    assert min(usual.values()) >= 0.6 and max(usual.values()) < 0.7
    by_name = scores({"ship": 0.3})
    assert by_name == scores({0: 0.3}) and 0.3 <= by_name["ship"] < 0.55 and by_name["car"] >= 0.6
    assert max(scores(0.2).values()) < 0.58, "below the score that the detector was loaded with"
    for wrong in ({"boat": 0.5}, {7: 0.5}, {}, True, "a", 2, float("nan"), [0.5]):
        with pytest.raises(ConfigError):
            made.predict(pixels, threshold=wrong)


# --- failures


@pytest.mark.parametrize("wrong", [None, 3, b"x", [], [["a"], [None]], {"a"}])
def test_inputs_of_other_types_are_refused_at_once(wrong, pipeline) -> None:
    with pytest.raises(ConfigError, match=r"input is a"):
        pipeline.predict(wrong)


def test_a_color_that_is_none(pipeline, pixels) -> None:
    with pytest.raises(ConfigError, match="use 'bgr' or 'rgb'"):
        pipeline.predict(pixels, color="grb")


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4, 5), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.uint8),
     np.zeros((9, 9, 3)), np.zeros((9, 9, 3), bool), np.array(["a"])],
)  # fmt: skip
def test_arrays_that_are_no_images(wrong, pipeline) -> None:
    with pytest.raises(UsageError):
        list(pipeline.predict(wrong))


def test_one_broken_image_stops_no_other(pipeline, photo, tmp_path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no image")
    events, found = [], []
    results = pipeline.predict([str(broken), str(tmp_path / "missing.png"), str(photo)], on_event=events.append)
    with pytest.raises(SceneError, match=r"2 failures.*broken\.jpg.*missing\.png"):
        found.extend(results)
    assert [r["input_path"] for r in found] == [str(photo)]
    assert sum(isinstance(event, Failed) for event in events) == 2
    with pytest.raises(UsageError, match=r"missing\.png"):
        list(pipeline.predict(str(tmp_path / "missing.png")))
    with pytest.raises(UsageError, match="no scene in this folder"):
        (tmp_path / "empty").mkdir()
        list(pipeline.predict(tmp_path / "empty"))


def test_ground_that_cannot_be_read_is_reported(pipeline, tmp_path) -> None:
    path = write_tif(tmp_path / "scene.tif", noise(3, 200, 300))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    found = []
    with pytest.raises(SceneError, match=r"scene\.tif"):
        found.extend(pipeline.predict(path))
    (result,) = found
    assert result.failures and result["boxes"]
    picture = np.asarray(result.img["res"])
    assert picture.shape == (200, 300, 3) and (picture > 0).mean() > 0.5, "the rest is shown"


def test_nothing_is_lost_where_files_are_saved(pipeline, photo, pixels, tmp_path) -> None:
    other = tmp_path / "other.png"
    Image.fromarray(pixels).save(other)
    before = photo.read_bytes()
    first, second = pipeline.predict([photo, other], threshold=0.6)
    first.save_to_json(tmp_path / "res.json")
    with pytest.raises(OutputError, match="result of another image"):
        second.save_to_json(tmp_path / "res.json")
    with pytest.raises(OutputError, match="would be lost"):
        second.save_to_img(photo)
    assert photo.read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        first.save_to_img(f"{tmp_path}/file/")
    with pytest.raises(OutputError, match="cannot be written"):
        first.save_to_json(tmp_path / "file" / "x.json")


def test_a_picture_of_an_image_that_is_gone(pipeline, photo, tmp_path) -> None:
    (result,) = pipeline.predict(photo, threshold=0.6)
    photo.unlink()
    with pytest.raises(SceneError, match=r"photo\.png"):
        result.save_to_img(tmp_path / "out")
    assert not (tmp_path / "out" / "photo_res.png").exists()


# --- engines and backends


def test_large_scenes_go_through_the_engine_with_the_same_result(pipeline, tmp_path, monkeypatch) -> None:
    path = write_tif(tmp_path / "scene.tif", noise(3, 500, 700))
    (small,) = pipeline.predict(path)
    called = []
    monkeypatch.setattr("geosod.predict.pipeline.MAX_TILES", 0)
    from geosod.predict import pipeline as module

    engine = module._in_engine
    monkeypatch.setattr(module, "_in_engine", lambda *args: called.append(1) or engine(*args))
    (large,) = pipeline.predict(path)
    assert called and dict(large) == dict(small)
    assert large.outputs.detection_table().equals(small.outputs.detection_table())


def test_the_measured_backend(rgb_bundle, photo, tmp_path, monkeypatch) -> None:
    from geosod.detectors import measure
    from geosod.detectors.ways import Measured

    monkeypatch.setenv("GEOSOD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measure, "_here", {})
    seen = []

    def timed(model, tile, *, ways, **_):
        seen.append(ways)
        return tuple(Measured(*way, 1.0 - 0.3 * (way == ways[-1])) for way in ways)

    monkeypatch.setattr(measure, "measure", timed)
    made = geosod.create_pipeline(str(rgb_bundle), device="cpu", use_hpip=True)
    (result,) = made.predict(photo)
    execution = result.outputs.provenance.execution
    assert len(seen) == 1 and (execution.backend, execution.precision) == tuple(seen[0][-1])
    geosod.create_pipeline(str(rgb_bundle), device="cpu", use_hpip=True)
    assert len(seen) == 1, "measured once"
    with pytest.raises(ConfigError, match="leave these out"):
        geosod.create_pipeline(str(rgb_bundle), device="cpu", use_hpip=True, backend="eager")


def test_models_with_one_way_to_run(rgb_bundle, monkeypatch) -> None:
    from geosod.detectors import measure
    from geosod.detectors.ways import Way

    monkeypatch.setattr(measure, "possible_ways", lambda *_, **__: (Way("eager", "fp32"),))
    with pytest.raises(ConfigError, match="nothing faster"):
        geosod.create_pipeline(str(rgb_bundle), device="cpu", use_hpip=True)


def test_sixteen_bits_and_four_bands(tmp_path) -> None:
    bundle = random_bundle(
        tmp_path / "msi", bands=("red", "green", "blue", "nir"), dtype="uint16", top=10_000.0, threshold=0.5
    )
    scene = noise(4, 200, 300, dtype="uint16", seed=3) * 4  # at most 1,020 of 10,000, as over land
    path = write_tif(tmp_path / "scene.tif", scene, photometric="MINISBLACK")
    made = geosod.create_pipeline(str(bundle), device="cpu", backend="eager")
    (plain,) = made.predict(path, threshold=1)
    brightest = np.quantile(scene[:3], 0.98)
    expected = np.clip(np.moveaxis(scene[:3], 0, 2) / brightest, 0, 1) * 255
    assert np.abs(np.asarray(plain.img["res"]) - expected).max() <= 1, "visible, though dark to the network"
    (result,) = made.predict(path)
    (array,) = made.predict(np.moveaxis(scene, 0, 2))
    assert boxes(array) == boxes(result), "arrays of four bands have the model's order"
