"""What commands print: JSON, nothing, colours or none; and lists that they read from standard input."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from geosod.cli.commands import command_of
from geosod.cli.inputs import with_listed
from geosod.detectors import open_bundle
from geosod.errors import ConfigError
from tests.cli.commands import FROM_SCRATCH, geosod
from tests.cli.test_commands import ALL
from tests.rasters import noise, write_tif

#: Commands without a result of their own: a service, the job of another command, and a file of settings.
NO_JSON = {("serve",), ("submit",), ("config", "save")}
PLAIN = ["--engine", "serial", "--precision", "fp32", "--backend", "eager", "--batch", "4"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, rgb_bundle) -> list[Path]:
    """Two outputs of one scene each."""
    folder = tmp_path_factory.mktemp("outputs")
    found = []
    for name in ("a", "b"):
        scene = write_tif(folder / f"{name}.tif", noise(3, 200, 200))
        done = geosod("detect", scene, "-m", rgb_bundle, "-o", folder / f"out-{name}", "-q", *PLAIN)
        assert done.returncode == 0 and done.stdout == done.stderr == "", done.stderr
        found.append(folder / f"out-{name}")
    return found


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_with_a_result_prints_json(words: tuple[str, ...]) -> None:
    options = {option for parameter in command_of(*words).params for option in parameter.opts}
    assert ("--json" in options) == (words not in NO_JSON)


@pytest.mark.parametrize(
    "args",
    [
        ["model", "list"],
        ["model", "info", "demo-harbour"],
        ["doctor", "--no-ray"],
        ["config", "show"],
    ],
    ids=" ".join,
)
def test_json_is_all_of_standard_output(args: list[str]) -> None:
    assert isinstance(json.loads(geosod(*args, "--json").stdout), dict)


def test_json_of_what_makes_files(tmp_path, rgb_bundle) -> None:
    image = write_tif(tmp_path / "a.tif", noise(3, 200, 200))
    tried = json.loads(geosod("model", "try", rgb_bundle, image, "-o", tmp_path / "t.png", "--json").stdout)
    assert sum(tried["detections"].values()) > 0 and (tmp_path / "t.png").is_file() and 0 < tried["best_score"] <= 1
    found = geosod("predict", "--pipeline", rgb_bundle, "--input", image, "--input", image, "--json")
    assert [len(json.loads(line)["res"]["boxes"]) > 0 for line in found.stdout.splitlines()] == [True, True]


def test_quiet_commands_print_nothing(outputs, tmp_path) -> None:
    for args in (
        ["export", outputs[0], "-o", tmp_path / "a.csv"],
        ["deduplicate", *outputs, "-o", tmp_path / "all"],
        ["predict", "--pipeline", "demo-harbour", "--input", outputs[0].parent / "a.tif"],
    ):
        done = geosod(*args, "-q")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), args


def test_outputs_are_listed_on_standard_input(outputs, tmp_path) -> None:
    listed = f"# two outputs\n{outputs[0]}\n\n{outputs[1]}\n"
    for args in (
        ["deduplicate", "-", "-o", tmp_path / "all", "--json"],
        ["summarize", "-", "--json"],
        ["export", "-", "-o", tmp_path / "all.csv", "--json"],
    ):
        command = [*FROM_SCRATCH, *map(str, args)]
        done = subprocess.run(command, input=listed, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout), args
    assert json.loads(done.stdout)["scenes"] == 2


@pytest.mark.parametrize(("names", "text", "message"), [(["-"], "\n# x\n", "is empty"), (["-", "-"], "a", "twice")])
def test_lists_that_are_none(names, text, message, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    with pytest.raises(ConfigError, match=message):
        with_listed(names)


def test_a_list_takes_the_place_of_its_sign(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\ufeffb\r\n c d \n".encode())))
    assert with_listed(["a", "-", "e"]) == ["a", "b", "c d", "e"]


def on_a_terminal(*args: str, **environment: str) -> str:
    """What a command prints on a terminal, both streams."""
    variables = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe(FROM_SCRATCH[0], [*FROM_SCRATCH, *args], variables | {"TERM": "xterm-256color"} | environment)
    shown = b""
    try:
        while new := os.read(terminal, 65536):
            shown += new
    except OSError:  # the other end is closed
        pass
    os.waitpid(process, 0)
    os.close(terminal)
    return shown.decode()


@pytest.mark.parametrize("args", [["--help"], ["detect", "--wrong"]], ids=" ".join)
def test_no_color(args: list[str]) -> None:
    """https://no-color.org: bold and dim are no colours."""
    colour = re.compile(r"\x1b\[[\d;]*\b(?:3[0-8]|4[0-8]|9[0-7])[\d;]*m")
    assert colour.search(on_a_terminal(*args)), "colours on a terminal"
    assert not colour.search(on_a_terminal(*args, NO_COLOR="1"))


def test_nothing_is_cut_off_where_there_are_few_columns() -> None:
    shown = geosod("model", "info", "demo-harbour", COLUMNS="60").stdout
    bundle = open_bundle("demo-harbour")
    assert "…" not in shown and bundle.digest in "".join(shown.split())
    assert str(bundle.folder) in "".join(shown.split())


def test_what_is_piped_has_no_escape_codes() -> None:
    assert "\x1b" not in geosod("--help").stdout + geosod("detect", "--wrong").stderr
