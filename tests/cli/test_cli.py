"""The command line as a user meets it: one clear line, the right exit code."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from geosod.config import RunConfig, make_config
from geosod.errors import ConfigError
from geosod.setting_types import LevelSetting
from tests.cli.commands import FROM_SCRATCH, geosod
from tests.rasters import noise, write_tif

PLAIN = ["--engine", "serial", "--precision", "fp32", "--backend", "eager", "--batch", "4"]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_tif(tmp_path / "scene.tif", noise(3, 200, 200))


def test_detect_tells_what_it_did(scene, rgb_bundle, tmp_path) -> None:
    done = geosod("detect", scene, "-m", rgb_bundle, "-o", tmp_path / "out", "--json", *PLAIN)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["detections"] == told["scenes"][0]["detections"] > 0 and not told["failures"]
    assert "detections in" in done.stderr and "\x1b" not in done.stderr
    assert "without georeference" not in done.stderr
    again = geosod("detect", scene, "-m", rgb_bundle, "-o", tmp_path / "out", *PLAIN)
    assert again.returncode == 0 and "1 scene skipped (done before)" in again.stderr and again.stdout == ""
    # A rerun finds nothing new, and says how much there is.
    assert "0 detections in this run" in again.stderr and f"{told['total']:,} detections in" in again.stderr
    assert told["total"] == told["detections"]
    other = geosod(
        "detect", scene, "-m", rgb_bundle, "-o", tmp_path / "out", "--overlap", 0.5, "--metric", "ios", *PLAIN
    )
    assert other.returncode == 2 and "metric 'iou', now 'ios', overlap 32, now 64" in other.stderr
    other = geosod("detect", scene, "-m", "demo-harbour", "-o", tmp_path / "out", *PLAIN[2:], "--engine", "serial")
    assert other.returncode == 2 and "model 'random-rgb', now 'demo-harbour'" in other.stderr


def test_detect_says_where_boxes_without_a_position_are(rgb_bundle, tmp_path) -> None:
    picture = write_tif(tmp_path / "picture.tif", noise(3, 200, 200), crs=None)
    done = geosod("detect", picture, "-m", rgb_bundle, "-o", tmp_path / "out", *PLAIN)
    assert f"1 scene without georeference: boxes in pixels, in {tmp_path / 'out'}/pixel" in done.stderr
    assert list((tmp_path / "out/pixel").glob("*.parquet"))
    single = geosod("detect", picture, "-m", rgb_bundle, "-o", tmp_path / "one.parquet", *PLAIN)
    assert (tmp_path / "one.parquet").is_file()
    assert "1 scene without georeference: boxes in pixels\n" in single.stderr


def test_only_failures_of_a_run_that_started_are_worth_another_try(scene, rgb_bundle, tmp_path) -> None:
    missing = tmp_path / "missing.tif"
    wrong = geosod("detect", missing, "-m", rgb_bundle, "-o", tmp_path / "wrong", *PLAIN)
    assert wrong.returncode == 2 and wrong.stderr.endswith("1 failure, listed in failures.parquet\n")
    partly = geosod("detect", missing, scene, "-m", rgb_bundle, "-o", tmp_path / "partly", *PLAIN)
    assert partly.returncode == 3 and "1 failure, listed in failures.parquet; the same command tries" in partly.stderr


@pytest.mark.parametrize(
    ("extra", "code", "line"),
    [
        (["missing.tif"], 3, "missing.tif: no such file"),
        (["--bands", "7,8,9"], 2, "no band '7'"),
        (["--threshold", "2"], 2, "threshold = '2'"),
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
    defaults = make_config().model_dump(mode="json")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({k: v for k, v in defaults.items() if k != "trust"}))
    assert make_config(tmp_path / "c.yaml") == make_config() == make_config(**defaults)


def test_flags_go_on_top_of_the_file(scene, rgb_bundle, tmp_path) -> None:
    (tmp_path / "c.yaml").write_text("threshold: 1.0\nengine: serial\n")
    base = ["detect", scene, "-m", rgb_bundle, "--config", tmp_path / "c.yaml", "--json", *PLAIN]
    assert json.loads(geosod(*base, "-o", tmp_path / "a").stdout)["detections"] == 0
    assert json.loads(geosod(*base, "-o", tmp_path / "b", "--threshold", "0").stdout)["detections"] > 0


def test_models_are_listed_and_shown(rgb_bundle) -> None:
    assert "demo-harbour" in geosod("model", "list").stdout
    assert "ship, car" in geosod("model", "info", rgb_bundle).stdout
    card = json.loads(geosod("model", "info", "demo-harbour", "--json").stdout)
    assert card["stac_version"] == "1.1.0"


def test_doctor_finds_this_machine_well() -> None:
    done = geosod("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no problems found" in done.stdout and "DEFLATE" in done.stdout and "node(s)" in done.stdout


def test_the_help_shows_every_setting_in_a_panel_with_choices_and_defaults() -> None:
    from geosod.cli.options import PANELS

    named = [name for names in PANELS.values() for name in names]
    assert sorted([*named, "model", "out"]) == sorted(RunConfig.model_fields)
    text = geosod("detect", "--help").stdout
    for name in RunConfig.model_fields:
        assert f"--{name.replace('_', '-')}" in text, name
    assert all(f"─ {panel} ─" in text for panel in PANELS)
    assert "[nms|soft_nms|nmm|greedy_nmm|wbf]" in text and "Default: nms." in text and "Default: the model's." in text
    assert "--no-borders" in text and "Example: geosod detect" in text


def test_model_and_out_are_keys_of_the_configuration(scene, rgb_bundle, tmp_path) -> None:
    settings = {"model": str(rgb_bundle), "out": str(tmp_path / "out"), "engine": "serial", "batch": 4}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings | {"precision": "fp32", "backend": "eager"}))
    done = geosod("detect", scene, "--config", tmp_path / "run.yaml")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/items/scene.json").exists()
    elsewhere = geosod("detect", scene, "--config", tmp_path / "run.yaml", "-o", tmp_path / "other")
    assert elsewhere.returncode == 0 and (tmp_path / "other/items/scene.json").exists()
    assert "no model is given" in geosod("detect", scene, "-o", tmp_path / "x").stderr
    assert "no output is given" in geosod("detect", scene, "-m", rgb_bundle).stderr


def test_failures_of_one_scene_are_grouped(tmp_path, rgb_bundle) -> None:
    """A file that ends early fails in many windows: a few lines say so, and the record has them all."""
    scene = write_tif(tmp_path / "short.tif", noise(3, 900, 900), block=64)
    scene.write_bytes(scene.read_bytes()[: scene.stat().st_size // 3])
    arguments = ("detect", scene, "-m", rgb_bundle, "--tile-gsd", 0.6, *PLAIN)
    done = geosod(*arguments, "-o", tmp_path / "out")
    lines = [line for line in done.stderr.splitlines() if line.startswith("failed (read)")]
    assert done.returncode == 3 and len(lines) == 3 and "failures.parquet lists all" in done.stderr
    assert pq.read_table(tmp_path / "out/failures.parquet").num_rows > 10
    verbose = geosod(*arguments, "-o", tmp_path / "verbose", "-v")
    assert sum(line.startswith("failed (read)") for line in verbose.stderr.splitlines()) > 10


def test_doctor_sees_the_data_of_another_proj(tmp_path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "proj.db") as database:
        database.execute("create table metadata(key text, value text)")
        layout = [("DATABASE.LAYOUT.VERSION.MAJOR", "1"), ("DATABASE.LAYOUT.VERSION.MINOR", "0")]
        database.executemany("insert into metadata values(?, ?)", layout)
    environment = os.environ | {"PROJ_DATA": str(tmp_path), "PROJ_LIB": str(tmp_path), "COLUMNS": "200"}
    command = [*FROM_SCRATCH, "doctor", "--no-ray"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 3 and f"PROJ_DATA={tmp_path}" in done.stdout and "DEFLATE GeoTIFF" not in done.stdout


def test_an_installation_that_cannot_be_written_to() -> None:
    """As in a container that runs as another user without a home: numba finds no place for its cache."""
    no_cache = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator", "PYTHONDONTWRITEBYTECODE": "1"}
    environment = os.environ | no_cache | {"COLUMNS": "200"}
    # Kernels are looked for in the cache when their modules are imported.
    imported = (
        "import geosod, geosod.running.local_engine, geosod.demo.run, geosod.demo.scene, geosod.deduplication.run; "
        "d = geosod.Detections(boxes=[[0, 0, 9, 9]] * 2, scores=[0.5, 0.6], labels=[0, 0]); "
        "assert len(geosod.merge(d)) == 1"
    )
    subprocess.run([sys.executable, "-c", imported], check=True, env=environment)
    command = [*FROM_SCRATCH, "doctor", "--no-ray"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert shown.returncode == 0 and "set NUMBA_CACHE_DIR to a folder" in shown.stdout
    assert "Warning" not in shown.stderr


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("threshold: 0.1\nthreshold: 0.9", "threshold stands twice"),
        ("merge-method: nms\nmerge_method: wbf", "merge_method stands twice"),
        ("mask: {a: x.gpkg, a: y.gpkg}", "a stands twice"),
        ("tile_gsd: yes", "tile_gsd = 'yes': give metres, or model"),
        ("threshold: true", "threshold is True, which is no value for it"),
        ("workers: on", "workers = 'on'"),
        ("merge_threshold_by_class: car=0.3,car=0.6", "names a class twice"),
        ("rpc_height: .nan", "rpc_height = nan"),
        ("aoi: ''", "aoi = '': is empty"),
        ("out: ' '", "out = ' ': is empty"),
    ],
)
def test_yaml_that_says_something_else_than_it_seems_is_refused(text, refusal, tmp_path) -> None:
    (tmp_path / "c.yaml").write_text(text + "\n")
    with pytest.raises(ConfigError, match=re.escape(refusal)):
        make_config(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("tile: 0640", "tile", (640, 640)),
        ("levels: 1:20", "levels", (LevelSetting(scale=1, sizes=(20, None)),)),
        ("borders: no", "borders", False),
        ("threshold: 1e-1", "threshold", 0.1),
        ("threshold: .5", "threshold", 0.5),
        ("tile_gsd: 1", "tile_gsd", 1.0),
        ("datetime: 2024-05-01", "datetime", dt.datetime(2024, 5, 1, tzinfo=dt.UTC)),
        ("bands: [4, 3, 2]", "bands", ("4", "3", "2")),
        ("aoi: ~/a.gpkg", "aoi", Path.home() / "a.gpkg"),
    ],
)
def test_yaml_is_read_as_people_read_it(text, name, value, tmp_path) -> None:
    (tmp_path / "c.yaml").write_text(text + "\n")
    found = getattr(make_config(tmp_path / "c.yaml"), name)
    assert found == (Path.home() / "a.gpkg" if name == "aoi" else value)


def test_an_empty_output_is_not_this_folder(scene, rgb_bundle, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = geosod("detect", scene, "-m", rgb_bundle, "-o", "", *PLAIN)
    assert done.returncode == 2 and "is empty" in done.stderr and not (tmp_path / "detections").exists()


def test_scenes_outside_the_aoi_take_few_lines(tmp_path, rgb_bundle) -> None:
    import geopandas
    import shapely
    from affine import Affine

    scenes = [
        write_tif(tmp_path / f"s{i}.tif", noise(3, 64, 64), transform=Affine(1, 0, 5e5 + 9000 * i, 0, -1, 5.8e6))
        for i in range(9)
    ]
    box = shapely.box(5e5, 5.8e6 - 64, 5e5 + 64, 5.8e6)
    geopandas.GeoSeries([box], crs=32631).to_file(tmp_path / "aoi.gpkg")
    done = geosod("detect", *scenes, "-m", rgb_bundle, "-o", tmp_path / "out", "--aoi", tmp_path / "aoi.gpkg")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("lies outside the AOI") == 3 and "the same of more scenes (-v shows all)" in done.stderr
    assert done.stderr.count("detections\n") <= 2 + done.stderr.count("detections in") and "s0: done" in done.stderr
    assert "s3: done" not in done.stderr
