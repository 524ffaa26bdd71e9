"""`geosod dataset` and `geosod stats` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geosod.datasets.write import write_labels
from tests.cli.commands import geosod
from tests.datasets.samples import sample_labels


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    write_labels(sample_labels(tmp_path / "images"), tmp_path / "labels.json")
    return tmp_path / "labels.json"


def test_check(labels: Path, tmp_path: Path) -> None:
    done = geosod("dataset", "check", labels)
    assert done.returncode == 0, done.stderr
    assert "12 labels in 3 images; 2 ignored, 2 truncated" in done.stdout and "√area in pixels:" in done.stdout
    document = json.loads(labels.read_text())
    document["annotations"][0]["bbox"] = [1, 2, -3, 4]
    document["annotations"][1]["bbox"] = [500, 500, 5, 5]
    labels.write_text(json.dumps(document))
    done = geosod("dataset", "check", labels, "--json")
    report = json.loads(done.stdout)
    assert (
        done.returncode == 3
        and report["problem_count"] == 1
        and "annotation 1: box has the size -3 x 4" in report["problems"][0]
    )
    assert [one["kind"] for one in report["findings"] if one["level"] == "error"] == ["outside"] and report[
        "errors"
    ] == 2
    refused = geosod("dataset", "convert", labels, "-o", tmp_path / "x.json")
    assert refused.returncode == 2 and "annotation 1" in refused.stderr and not (tmp_path / "x.json").exists()
    skipped = geosod("dataset", "convert", labels, "-o", tmp_path / "x.json", "--invalid", "skip", "--json")
    assert skipped.returncode == 3 and json.loads(skipped.stdout)["boxes"] == 11 and "left out:" in skipped.stderr


def test_convert_split_slice_and_scale(labels: Path, tmp_path: Path) -> None:
    done = geosod(
        "dataset", "convert", labels, "-o", tmp_path / "yolo", "--to", "yolo", "--rename-classes", "bus=car,others="
    )
    assert done.returncode == 0 and "ignored or crowd boxes left out" in done.stderr
    assert (tmp_path / "yolo/data.yaml").read_text().endswith("names:\n  0: car\n")
    done = geosod("dataset", "split", labels, "-o", tmp_path / "parts", "--parts", "train=0.6,val=0.4", "--json")
    assert done.returncode == 0 and sorted(json.loads(done.stdout)["parts"]) == ["train", "val"]
    assert (tmp_path / "parts/train.json").exists() and (tmp_path / "parts/val.json").exists()
    done = geosod("dataset", "slice", labels, "-o", tmp_path / "tiles", "--tile", "32", "--overlap", "0.25", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["images"] == len(
        list((tmp_path / "tiles/images").rglob("*.tif"))
    )
    done = geosod("dataset", "scale", labels, "-o", tmp_path / "half", "--by", "0.5", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["images"] == 3
    again = geosod("dataset", "scale", labels, "-o", tmp_path / "half")
    assert again.returncode == 2 and "exists; use --overwrite" in again.stderr


def test_stats(labels: Path, tmp_path: Path) -> None:
    done = geosod("stats", labels, "--picture", tmp_path / "p.png")
    assert done.returncode == 0, done.stderr
    assert (
        "--tile 512: " in done.stdout and "S-alpha: 2-3" in done.stdout and (tmp_path / "p.png").stat().st_size > 1000
    )
    done = geosod("stats", labels, "--json", "--tile", "64", "--overlap", "0.5", "--priors", "3")
    found = json.loads(done.stdout)
    assert found["tile"] == [64, 64] and len(found["priors"]) == 3 and found["classes"]["car"]["side_m"]["p50"] > 0
    again = geosod("stats", labels, "--picture", tmp_path / "p.png")
    assert again.returncode == 2 and "exists; use --overwrite" in again.stderr


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["dataset", "check", "none.json"], "none.json: there is no such file or folder"),
        (["dataset", "check", "."], "its format is not recognised; give --format"),
        (
            ["dataset", "check", "labels.json", "--format", "kitti"],
            "format 'kitti' is not known; choose tinyperson, coco",
        ),
        (["dataset", "convert", "labels.json", "-o", "x.bin"], "its suffix names no format; give --to"),
        (["dataset", "convert", "labels.json", "-o", "x.gpkg", "--image-files", "link"], "one file without images"),
        (["dataset", "convert", "labels.json", "-o", "x.geojson", "--crs", "EPSG:3857"], "in longitude and latitude"),
        (["dataset", "split", "labels.json", "-o", "p", "--parts", "a=1"], "two or more shares"),
        (["dataset", "split", "labels.json", "-o", "p", "--parts", "../a=0.5,b=0.5"], "give NAME=SHARE"),
        (["dataset", "slice", "labels.json", "-o", "t", "--tile", "33"], "multiple of 32"),
        (["dataset", "scale", "labels.json", "-o", "t", "--by", "0"], "give a positive number"),
        (["stats", "labels.json", "--points"], "points have no size"),
        (["stats", "labels.json", "--anchors", "8,x"], "give numbers, such as 8,16,32"),
        (["dataset", "check", "labels.json", "--images", "nowhere"], "there is no such folder of images"),
        (["dataset", "check", "labels.json", "--subset", "val"], "coco has no use for --subset; it takes --images"),
        (["dataset", "check", "labels.json", "--rename-classes", "ship=x"], "no class 'ship'"),
    ],
)
def test_refusals_are_one_line(labels: Path, args: list[str], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(labels.parent)
    done = geosod(*args)
    assert done.returncode == 2 and line in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["images", "labels.json"]
