"""`geosod evaluate`, from drawn scenes to tables, JSON and configurations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import geosod
from tests.evaluation.scenes import SPOTS, draw, grid_of_spots, write_coco

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes, labels with one object more in each, and the outputs of a run."""
    folder = tmp_path_factory.mktemp("evaluate")
    boxes = {f"s{i}.tif": grid_of_spots(20 + i) for i in range(2)}
    for name, rows in boxes.items():
        draw(folder / name, rows[1:])
    write_coco(folder / "labels.json", boxes)
    done = geosod("detect", *(folder / name for name in boxes), "-m", SPOTS, "--trust", "-o", folder / "out", "-q")
    assert done.returncode == 0, done.stderr
    return folder


def test_outputs_are_compared_with_labels(made: Path, tmp_path: Path) -> None:
    report, thresholds = tmp_path / "report.html", tmp_path / "thresholds.yaml"
    done = geosod(
        "evaluate", made / "out", "-l", made / "labels.json", "--report", report, "--fit-thresholds", thresholds, "-q"
    )
    assert done.returncode == 0, done.stderr
    assert "2 images, 41 objects, 39 detections" in done.stdout and "recall" in done.stdout
    assert report.read_text().endswith("</html>")
    checked = geosod("config", "show", "detect", "--config", thresholds)
    assert checked.returncode == 0 and 'threshold: {"spot": 0.5' in checked.stdout
    again = geosod("evaluate", made / "out", "-l", made / "labels.json", "--report", report)
    assert again.returncode == 2 and "exists; use --overwrite" in again.stderr


def test_a_model_is_run_now_and_gives_the_same_figures(made: Path) -> None:
    labels = ("-l", made / "labels.json", "--json", "-q", "--radius", 3)
    outputs = geosod("evaluate", made / "out", *labels)
    now = geosod("evaluate", "-m", SPOTS, "--trust", *labels)
    assert now.returncode == outputs.returncode == 0, now.stderr
    values = json.loads(now.stdout)
    assert values == json.loads(outputs.stdout)
    assert values["boxes"]["at_iou"]["recall"] == 39 / 41 and values["points"]["matched"] == 39


def test_a_threshold_is_fitted_to_points(made: Path, tmp_path: Path) -> None:
    file = tmp_path / "points.yaml"
    points = ("evaluate", made / "out", "-l", made / "labels.json", "--points", "--fit-thresholds", file, "-q")
    done = geosod(*points, "--radius", 3)
    assert done.returncode == 0 and "Centres, matched within 3 px" in done.stdout, done.stderr
    assert "AP50" not in done.stdout and "threshold: 0.5" in geosod("config", "show", "detect", "--config", file).stdout
    for more, message in (((), "add --radius"), (("--radius", 3, "--min-precision", 0.9), "for boxes")):
        wrong = geosod(*points, "--overwrite", *more)
        assert wrong.returncode == 2 and message in wrong.stderr


def test_distances_may_be_to_borders_of_other_tiles(made: Path) -> None:
    done = geosod("evaluate", made / "out", "-l", made / "labels.json", "--border-tile", 96, "--json", "-q")
    ranges = {row["range"]: row["objects"] for row in json.loads(done.stdout)["boxes"]["by_range"]}
    edges = [96.0, 192.0, 288.0]
    boxes = [box for i in range(2) for box in grid_of_spots(20 + i)]
    crossed = sum(any(box[a] < edge < box[a + 2] for a in (0, 1) for edge in edges) for box in boxes)
    assert ranges["< 0 px"] == crossed > 0


def test_labels_with_ground_coordinates_are_placed_on_the_scenes_of_the_outputs(tmp_path: Path) -> None:
    import geopandas

    boxes = grid_of_spots(12)
    draw(tmp_path / "map.tif", boxes, georeferenced=True)
    assert geosod("detect", tmp_path / "map.tif", "-m", SPOTS, "--trust", "-o", tmp_path / "out", "-q").returncode == 0
    found = geopandas.read_parquet(next((tmp_path / "out" / "detections").rglob("*.parquet")))
    found[["label", "geometry"]].iloc[2:].to_file(tmp_path / "truth.geojson")
    done = geosod(
        *("evaluate", tmp_path / "out", "-l", tmp_path / "truth.geojson", "--label-column", "label", "--json", "-q")
    )
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout)["boxes"]["at_iou"]
    assert (counted["matched"], counted["found"], counted["objects"]) == (10, 12, 10)


def test_levels_are_fitted(tmp_path: Path) -> None:
    boxes = {f"s{i}.tif": grid_of_spots(60) for i in range(2)}
    for name, rows in boxes.items():
        draw(tmp_path / name, rows)
    write_coco(tmp_path / "labels.json", boxes)
    levels = tmp_path / "levels.yaml"
    done = geosod(
        *("evaluate", "-l", tmp_path / "labels.json", "-m", SPOTS, "--trust", "--levels", "1,0.5", "-q"),
        *("--fit-levels", levels),
    )
    assert done.returncode == 0, done.stderr
    assert geosod("config", "validate", levels).returncode == 0
    assert "scale: 1.0" in levels.read_text() and "# scale 0.5:" in levels.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{made}/out"], "no labels are given: add --labels"),
        (["-l", "{made}/labels.json"], "name the outputs"),
        (["{made}/nowhere", "-l", "{made}/labels.json"], "no such output"),
        (["{made}/out", "-l", "{made}/nothing.json"], "nothing.json"),
        (["{made}/out", "-l", "{made}/labels.json", "--tile", "64"], "--tile is a setting of a run"),
        (["{made}/out", "-l", "{made}/labels.json", "--fit-levels", "x.yaml"], "add --model NAME"),
        (["{made}/out", "-l", "{made}/labels.json", "--min-precision", "0.9"], "add --fit-thresholds"),
        (["{made}/out", "-l", "{made}/labels.json", "--class-map", "spot=lamp"], "--class-map lamp=spot"),
        (["{made}/out", "-l", "{made}/labels.json", "--groups", "("], "is no regular expression"),
        (["{made}/out", "-l", "{made}/labels.json", "--sizes", "5,x"], "give limits in metres"),
        (["{made}/out", "-l", "{made}/labels.json", "--confidence", "95"], "level=95.0 must be between 0 and 1"),
        (["{made}/out", "-l", "{made}/labels.json", "--threshold", "lamp=0.3"], "there is no such class"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(made: Path, arguments: list[str], message: str) -> None:
    done = geosod("evaluate", *(part.format(made=made) for part in arguments), "-q")
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_pipeline_is_the_command(made: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "pipelines" / "evaluate.py", made / "out", "-l", made / "labels.json", "--json", "-q"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0 and json.loads(done.stdout)["objects"] == 41, done.stderr
