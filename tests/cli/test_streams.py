"""Standard output that is full or closed: one line and an exit code, never a traceback."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.commands import FROM_SCRATCH, geosod
from tests.rasters import noise, write_tif

FULL = "geosod: standard output cannot be written: No space left on device\n"


COMMANDS: list[tuple[object, ...]] = [
    ("--version",),
    ("--help",),
    ("detect", "--help"),
    ("config", "show"),
    ("model", "list"),
    ("model", "info", "demo-harbour"),
    ("model", "info", "demo-harbour", "--json"),
    ("doctor", "--no-ray"),
]


@pytest.fixture(scope="module")
def outputs(rgb_bundle, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    scene = write_tif(folder / "scene.tif", noise(3, 200, 200))
    done = geosod("detect", scene, "-m", rgb_bundle, "-o", folder / "out", "--engine", "serial", "-q")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_full_standard_output_is_one_line(command) -> None:
    assert_one_line(*command)


def test_full_standard_output_after_a_run_is_one_line(outputs, rgb_bundle) -> None:
    assert_one_line("detect", outputs / "scene.tif", "-m", rgb_bundle, "-o", outputs / "out", "--json", "-q")
    assert_one_line("deduplicate", outputs / "out", "-o", outputs / "one", "--json", "-q")
    assert_one_line("demo", "--size", 1024, "-o", outputs / "demo", "--engine", "serial", "--json", "-q")


def assert_one_line(*command: object) -> None:
    done = geosod(*command, stdout="/dev/full")
    assert (done.returncode, done.stderr) == (2, FULL)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_full_standard_output_of_a_new_process_is_one_line(unbuffered) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered, "PYTHONWARNINGS": "ignore"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*FROM_SCRATCH, "model", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment,
        )
    assert (done.returncode, done.stderr) == (2, FULL)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [("model", "list"), ("detect", "--help")], ids=lambda c: c[0])
def test_a_closed_pipe_ends_quietly(command, unbuffered) -> None:
    read, write = os.pipe()
    os.close(read)
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        [*FROM_SCRATCH, *command], stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=environment
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_closed_streams() -> None:
    shell = ["sh", "-c", '"$@" >&-', "sh"]
    done = subprocess.run([*shell, *FROM_SCRATCH, "model", "list"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "geosod: standard output cannot be written: it is closed\n")
    shell = ["sh", "-c", '"$@" 2>&-', "sh"]
    done = subprocess.run([*shell, *FROM_SCRATCH, "model", "list"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "demo-harbour" in done.stdout
