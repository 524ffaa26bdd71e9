"""The command line as a user meets it: one clear line, the right exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from geosod.config import RunConfig
from tests.rasters import noise, write_tif

PLAIN = ["--engine", "serial", "--precision", "fp32", "--backend", "eager", "--batch", "4"]


def geosod(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from geosod.cli.main import app; app()", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "200"})


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_tif(tmp_path / "scene.tif", noise(3, 200, 200))


def test_detect_tells_what_it_did(scene, rgb_bundle, tmp_path) -> None:
    done = geosod("detect", scene, "-m", rgb_bundle, "-o", tmp_path / "out", "--json", *PLAIN)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["detections"] == told["scenes"][0]["detections"] > 0 and not told["failures"]
    assert "detections in" in done.stderr and "\x1b" not in done.stderr
    again = geosod("detect", scene, "-m", rgb_bundle, "-o", tmp_path / "out", *PLAIN)
    assert again.returncode == 0 and "1 skipped" in again.stderr and again.stdout == ""


@pytest.mark.parametrize(
    ("extra", "code", "line"),
    [
        (["missing.tif"], 3, "missing.tif: no such file"),
        (["--bands", "7,8,9"], 2, "no band '7'"),
        (["--threshold", "2"], 2, "threshold = 2"),
        (["--merge-method", "magic"], 2, "merge_method = 'magic'"),
        (["--aoi", "none.geojson"], 2, "AOI none.geojson: cannot be read"),
        (["--crs", "EPSG:1"], 2, "EPSG:1"),
    ],
)
def test_one_line_and_the_right_exit_code(extra, code, line, scene, rgb_bundle, tmp_path) -> None:
    done = geosod("detect", scene, "-m", rgb_bundle, "-o", tmp_path / "out", *PLAIN, *extra)
    assert done.returncode == code, done.stderr
    assert sum(line in row for row in done.stderr.splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_usage_and_wrong_places(scene, rgb_bundle, tmp_path) -> None:
    assert geosod("detect", scene).returncode == 2
    bad_model = geosod("detect", scene, "-m", tmp_path, "-o", tmp_path / "out")
    assert bad_model.returncode == 2 and "model.json is missing" in bad_model.stderr
    no_place = geosod("detect", scene, "-m", rgb_bundle, "-o", scene, *PLAIN)
    assert no_place.returncode == 2 and "is a file" in no_place.stderr
    assert all("Traceback" not in run.stderr for run in (bad_model, no_place))


def test_every_setting_is_a_flag_a_key_and_a_keyword(tmp_path) -> None:
    told = geosod("detect", "--help").stdout
    assert [name for name in RunConfig.model_fields if f"--{name.replace('_', '-')}" not in told] == []
    printed = geosod("config").stdout
    assert set(yaml.safe_load(printed)) == set(RunConfig.model_fields)
    (tmp_path / "c.yaml").write_text(printed)
    assert geosod("config", tmp_path / "c.yaml").stdout == printed
    (tmp_path / "c.yaml").write_text("thresold: 0.3\n")
    wrong = geosod("config", tmp_path / "c.yaml")
    assert wrong.returncode == 2 and "thresold: unknown setting" in wrong.stderr


def test_flags_go_on_top_of_the_file(scene, rgb_bundle, tmp_path) -> None:
    (tmp_path / "c.yaml").write_text("threshold: 1.0\nengine: serial\n")
    base = ["detect", scene, "-m", rgb_bundle, "--config", tmp_path / "c.yaml", "--json", *PLAIN]
    assert json.loads(geosod(*base, "-o", tmp_path / "a").stdout)["detections"] == 0
    assert json.loads(geosod(*base, "-o", tmp_path / "b", "--threshold", "0").stdout)["detections"] > 0


def test_models_are_listed_and_shown(rgb_bundle) -> None:
    assert "demo-harbour" in geosod("model", "list").stdout
    assert "ship, car" in geosod("model", "show", rgb_bundle).stdout
    card = json.loads(geosod("model", "show", "demo-harbour", "--json").stdout)
    assert card["stac_version"] == "1.1.0"


def test_doctor_finds_this_machine_well() -> None:
    done = geosod("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no problems found" in done.stdout and "DEFLATE" in done.stdout and "node(s)" in done.stdout
