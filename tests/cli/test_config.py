"""`geosod config`: where settings come from, files that mean what was given, and the line of an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from geosod.cli.config_values import configurable
from geosod.cli.job_file import read_job
from geosod.config import RunConfig, make_config
from geosod.ingest.config import IngestConfig, split_config
from geosod.training.config import TrainConfig, make_train_config
from geosod.yaml_file import read_yaml
from tests.cli.commands import geosod
from tests.cli.test_job_file import SETTINGS


def shown(*args: object, **environment: str) -> dict[str, dict[str, object]]:
    """The settings that a command line resolves to, by name."""
    done = geosod("config", "show", "--json", *args, **environment)
    assert done.returncode == 0, done.stderr
    return {one["name"]: one for one in json.loads(done.stdout)["settings"]}


def test_each_setting_has_its_origin(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("# a comment\nthreshold: 0.3\nworkers: 3\nscenes: [a.tif]\n")
    found = shown("detect", "--config", file, "--threshold", "0.4", RAY_ADDRESS="10.0.0.1:6379")
    assert {"scenes", *RunConfig.model_fields} == set(found)
    assert (found["threshold"]["value"], found["threshold"]["origin"]) == (0.4, "command line")
    assert (found["workers"]["value"], found["workers"]["origin"]) == (3, "file")
    assert found["workers"]["source"] == f"{file}, line 3" and found["workers"]["default"] is None
    assert (found["scenes"]["value"], found["scenes"]["source"]) == (["a.tif"], f"{file}, line 4")
    assert (found["ray_address"]["value"], found["ray_address"]["source"]) == ("10.0.0.1:6379", "RAY_ADDRESS")
    assert found["merge_method"]["origin"] == "default" and found["merge_method"]["value"] == "nms"
    text = geosod("config", "show", "detect", "--config", file, "--threshold", "0.4").stdout
    assert "threshold: 0.4  # command line; default: the model's" in text and f"workers: 3  # {file}, line 3" in text
    assert {"overlap", "scenes"} <= yaml.safe_load(text).keys(), "what is shown is YAML"


@pytest.mark.parametrize(
    ("command", "models"), [("detect", [RunConfig]), ("train", [TrainConfig]), ("ingest", [IngestConfig, RunConfig])]
)
def test_every_setting_of_a_command_is_shown(command: str, models: list[type]) -> None:
    names = {name for model in models for name in model.model_fields}
    assert set(shown(command)) - {"scenes"} == names - {"scenes"} and set(configurable(command).names) == names


def test_a_saved_file_means_what_was_given(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(yaml.safe_dump(SETTINGS | {"scenes": ["a.tif", "s3://b/c/"]}))
    done = geosod("config", "save", second, "detect", "--config", first, "--threads", 2)
    assert done.returncode == 0, done.stderr
    assert read_job(str(second)) == (["a.tif", "s3://b/c/"], make_config(**SETTINGS, threads=2))
    assert set(yaml.safe_load(second.read_text())) == {*SETTINGS, "scenes", "threads"}, "defaults are comments"
    assert all(f"{name}:" in second.read_text() for name in RunConfig.model_fields if name != "trust")
    again = geosod("config", "save", second, "detect")
    assert again.returncode == 2 and "exists; use --overwrite" in again.stderr
    assert geosod("config", "save", "--overwrite", second).returncode == 0
    assert read_job(str(second)) == ([], make_config())


def test_files_of_training_and_ingestion(tmp_path: Path) -> None:
    train, ingest = tmp_path / "train.yaml", tmp_path / "ingest.yaml"
    given = ["labels.json", "--lr", "0.01", "--rename-classes", "a=b", "--levels", "1,0.5"]
    assert geosod("config", "save", train, "train", *given).returncode == 0
    assert make_train_config(train) == make_train_config(
        labels="labels.json", lr=0.01, rename_classes="a=b", levels="1,0.5"
    )
    assert geosod("config", "save", ingest, "ingest", "--source", "in", "--lease", 60, "--tile", "640").returncode == 0
    assert split_config(read_yaml(ingest), None) == split_config({"source": "in", "lease": 60, "tile": "640"}, None)


def test_every_error_of_a_file_has_its_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "thresold: 0.3\n\nmerge_method: nns\ntile: 100\noverlap: 2x\nworkers: many\nscenes: 4\nborders: true\n"
    )
    done = geosod("config", "validate", file)
    assert done.returncode == 2 and done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line.split(":")[1] for line in lines] == ["1", "3", "4", "5", "6", "7"]
    assert lines[0] == f"{file}:1: thresold: unknown setting; did you mean 'threshold'?"
    assert "merge_method = 'nns'" in lines[1] and "did you mean 'nms'?" in lines[1]
    found = json.loads(geosod("config", "validate", file, "--json").stdout)
    assert not found["valid"] and [one["line"] for one in found["problems"]] == [1, 3, 4, 5, 6, 7]
    assert [one["setting"] for one in found["problems"]][0::5] == ["thresold", "scenes"]
    # The command itself names lines, too.
    run = geosod("detect", "--config", file, "--tile", "640", "--overlap", "64", "--workers", "2")
    assert run.returncode == 2 and f"config {file}: scenes is 4" in run.stderr
    file.write_text("borders: true\nthresold: 0.3\n")
    run = geosod("detect", "--config", file)
    assert run.returncode == 2 and f"config {file}, line 2: thresold: unknown setting" in run.stderr


@pytest.mark.parametrize(
    ("text", "command", "code", "message"),
    [
        ("threshold: 0.4\n", "detect", 0, "1 settings of geosod detect, all good"),
        ("", "detect", 0, "0 settings of geosod detect, all good"),
        ("trust: true\n", "detect", 2, "trust cannot be set in a file"),
        ("lease: -3\n", "ingest", 2, "lease = -3"),
        ("sorce: x\n", "ingest", 2, "did you mean 'source'?"),
        ("stepps: 3\n", "train", 2, ":1: stepps: unknown setting; did you mean 'steps'?"),
        ("a: [1\n", "detect", 2, "line 2, column 1"),
        ("- a\n", "detect", 2, "expected settings as `name: value` lines"),
    ],
)
def test_files_good_and_bad(text: str, command: str, code: int, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    done = geosod("config", "validate", tmp_path / "c.yaml", command)
    assert done.returncode == code and message in done.stdout + done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_arguments_are_those_of_the_command() -> None:
    done = geosod("config", "show", "detect", "--treshold", "3")
    assert done.returncode == 2 and "--threshold" in done.stderr
    done = geosod("config", "save", "x.yaml", "--overwrite", "detect")
    assert done.returncode == 2 and "stand before its arguments" in done.stderr
