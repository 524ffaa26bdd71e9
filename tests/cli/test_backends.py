"""`geosod model bench`, `geosod model export` and `geosod doctor --model` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.commands import geosod
from tests.rasters import noise, random_bundle, write_tif

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    return random_bundle(folder, bands=("red", "green", "blue"), threshold=0.5, top_k=30)


@pytest.fixture
def scene(tmp_path) -> Path:
    return write_tif(tmp_path / "scene.tif", noise(3, 500, 500, seed=3))


@pytest.mark.slow
def test_bench_compares_every_way_and_is_remembered(model, scene, tmp_path) -> None:
    done = geosod("model", "bench", model, "--scenes", scene, "--rounds", 1, "--tiles", 2, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    ways = {(way["backend"], way["precision"]): way for way in found["ways"]}
    assert {("eager", "fp32"), ("onnxruntime", "fp32")} <= set(ways) and "2 tiles of" in found["sample"]
    for way in ways.values():
        assert way["tiles_per_s"] == pytest.approx(1 / way["seconds_per_tile"])
        assert way["mpx_per_s"] == pytest.approx(128 * 128 / 1e6 / way["seconds_per_tile"])
    same = ways["onnxruntime", "fp32"]["agreement"]
    assert same["matched"] == same["reference"] == same["found"] > 20 and same["max_px"] < 0.05
    assert "(measured)" in found["chosen"]
    # A later command takes what was measured.
    out = geosod("detect", scene, "-m", model, "-o", tmp_path / "out", "--engine", "serial")
    assert out.returncode == 0 and "measured" in out.stderr, out.stderr


def test_an_exported_file_runs_elsewhere(model, tmp_path) -> None:
    file = tmp_path / "small.onnx"
    done = geosod("model", "export", model, "-o", file)
    assert done.returncode == 0, done.stderr
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert [port.name for port in session.get_outputs()] == ["boxes", "scores", "labels"]
    images = noise(3, 160, 192).astype(np.float32)[None].repeat(3, axis=0) / 255
    boxes, scores, labels = session.run(None, {"images": images})
    assert boxes.shape == (3, 60, 4) and scores.shape == labels.shape == (3, 60)
    assert (scores[scores > 0] >= 0.5).all() and (scores > 0).sum() > 20 and np.array_equal(boxes[0], boxes[2])
    stated = {p.key: p.value for p in onnx.load(str(file)).metadata_props}
    assert stated["names"] == "{0: 'ship', 1: 'car'}" and stated["bands"] == "red,green,blue"
    again = geosod("model", "export", model, "-o", file)
    assert again.returncode == 2 and "exists; choose another name" in again.stderr


def test_an_int8_bundle_is_calibrated_and_detects(model, scene, tmp_path) -> None:
    made = tmp_path / "int8"
    done = geosod("model", "export", model, "-o", made, "--int8", "--calibrate", scene, "--tiles", 3)
    assert done.returncode == 0 and "F1 0." in done.stderr and "on 3 tiles" in done.stderr, done.stderr
    card = json.loads((made / "model.json").read_text())["properties"]
    assert card["geosod:adapter"] == "zoo-onnx" and card["geosod:parameters"]["precision"] == "int8"
    found = geosod("detect", scene, "-m", made, "-o", tmp_path / "out", "--engine", "serial", "--json")
    assert found.returncode == 0 and json.loads(found.stdout)["detections"] > 20, found.stderr
    wrong = geosod("detect", scene, "-m", made, "-o", tmp_path / "other", "--engine", "serial", "--precision", "bf16")
    assert wrong.returncode == 2 and "int8 and runs in no other precision" in wrong.stderr


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        (["--int8"], "--int8 and --calibrate SCENES go together"),
        (["--calibrate", "scene.tif"], "--int8 and --calibrate SCENES go together"),
        (["--int8", "--calibrate", "missing.tif"], "missing.tif: no such file"),
    ],
)
def test_what_cannot_be_exported(extra, line, model, tmp_path) -> None:
    done = geosod("model", "export", model, "-o", tmp_path / "out", *extra)
    assert done.returncode == 2 and line in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_doctor_measures_a_model(model) -> None:
    done = geosod("doctor", "--no-ray", "--model", model)
    assert done.returncode == 0, done.stderr
    assert "measured" in done.stdout and "eager fp32" in done.stdout and "tiles/s" in done.stdout
