"""`geosod predict`."""

from __future__ import annotations

import ast
import json

import pytest
import yaml
from PIL import Image

from tests.cli.commands import geosod
from tests.predict.test_contract import DOCUMENTED

EAGER = ("--device", "cpu", "--backend", "eager")


@pytest.mark.parametrize("flag", ["--save_path", "--save-path"])
def test_prints_each_result_and_saves_picture_and_json(flag, rgb_bundle, photo, tmp_path) -> None:
    args = ("--pipeline", rgb_bundle, "--input", photo, "--threshold", "0.6", flag, tmp_path / "output", *EAGER)
    done = geosod("predict", *args)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{'res': {'input_path': ") and done.stdout.count("\n") == 1
    printed = ast.literal_eval(done.stdout)["res"]
    assert json.loads((tmp_path / "output/photo_res.json").read_text()) == printed
    assert Image.open(tmp_path / "output/photo_res.png").size == (300, 200)
    assert printed["boxes"] and min(box["score"] for box in printed["boxes"]) >= 0.6


def test_options_of_our_own(rgb_bundle, photo, tmp_path) -> None:
    """The folder of results lies in a folder of images; pictures of results are not taken for images."""
    args = ("--input", photo, "--input", photo.parent, "--save_path", tmp_path / "v1.0", "--parquet")
    done = geosod("predict", "--pipeline", rgb_bundle, *args, "--classes", "car", *EAGER)
    assert done.returncode == 0, done.stderr
    names = [f"photo{n}_res.{suffix}" for n in ("", "-2") for suffix in ("json", "parquet", "png")]
    assert sorted(p.name for p in (tmp_path / "v1.0").iterdir()) == sorted(names)
    results = [ast.literal_eval(line)["res"] for line in done.stdout.splitlines()]
    assert {box["label"] for result in results for box in result["boxes"]} == {"car"}


@pytest.mark.parametrize("flag", ["--get_pipeline_config", "--get-pipeline-config"])
def test_the_configuration_of_a_pipeline(flag, tmp_path, rgb_bundle, photo) -> None:
    done = geosod("predict", flag, "small_object_detection", "--save_path", tmp_path / "my_path")
    assert done.returncode == 0 and done.stdout == ""
    path = tmp_path / "my_path/small_object_detection.yaml"
    content = yaml.safe_load(path.read_text())
    assert content == DOCUMENTED
    content["SubModules"]["SmallObjectDetection"] |= {"model_dir": str(rgb_bundle), "threshold": 0.7}
    path.write_text(yaml.safe_dump(content))
    done = geosod("predict", "--pipeline", path, "--input", photo, *EAGER)
    printed = ast.literal_eval(done.stdout)["res"]
    assert done.returncode == 0 and 0.7 <= min(box["score"] for box in printed["boxes"]) < 0.75
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my_path", "photo.png"], "nothing is saved unasked"


def test_failures_and_exit_codes(rgb_bundle, photo, tmp_path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    done = geosod("predict", "--pipeline", rgb_bundle, "--input", broken, "--input", photo, *EAGER)
    assert done.returncode == 3 and "photo.png" in done.stdout and "broken.png" in done.stderr
    for args, message in (
        (("--input", tmp_path / "missing.png"), "missing.png"),
        ((), "add --input"),
        (("--input", photo, "--threshold", "2"), "from 0 to 1"),
        (("--input", photo, "--save_path", broken), "is a file"),
        (("--input", photo, "--device", "npu:0"), "torch_npu"),
    ):
        done = geosod("predict", "--pipeline", rgb_bundle, *args)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert done.stdout == ""
    done = geosod("predict", "--pipeline", "small_objects", "--input", photo)
    assert done.returncode == 2 and "small_object_detection, crowns-10cm" in done.stderr
