"""The image, as far as it can be checked without Docker: its instructions, what its steps install, what it is sent."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
FILE = ROOT / "cluster" / "Dockerfile"
#: Instructions of Docker; a line with another one is a typo.
INSTRUCTIONS = {
    *("ADD", "ARG", "CMD", "COMMENT", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL"),
    *("ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
}


def instructions() -> list[tuple[str, str]]:
    return [(found["instruction"], found["value"]) for found in DockerfileParser(path=str(FILE)).structure]


def values(name: str) -> list[str]:
    return [value for instruction, value in instructions() if instruction == name]


def run_step(words: str) -> str:
    """The only step whose command has some words in it."""
    (found,) = [value for value in values("RUN") if words in value]
    return found


def shell(step: str, folder: Path, **env: str) -> str:
    """Run a step as Docker does, with this Python."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    if not (bin_folder / "python").exists():
        (bin_folder / "python").symlink_to(sys.executable)
    path = f"{bin_folder}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", step], cwd=folder, env=os.environ | {"PATH": path} | env, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_instruction_is_one() -> None:
    assert {name for name, _ in instructions()} <= INSTRUCTIONS
    stages = [value.split()[-1] for value in values("FROM")]
    assert stages == ["wheel", "common", "cpu", "cuda", "final"]
    sources = [value.split()[0] for value in values("FROM")]
    assert sources == ["python:${PYTHON}-slim", "python:${PYTHON}-slim", "common", "common", "${DEVICE}"]
    assert "DEVICE=cpu" in values("ARG"), "the build argument that names the last stage's base"


def test_the_image_runs_as_a_user_and_asks_for_the_token() -> None:
    found = instructions()
    final = found[found.index(("FROM", "${DEVICE} AS final")) :]
    assert ("USER", "geosod") in final and "RAY_AUTH_MODE=token" in dict(final)["ENV"]
    after = [name for name, _ in final[final.index(("USER", "geosod")) :]]
    assert "RUN" not in after and "COPY" not in after


def test_what_is_copied_exists_and_is_sent() -> None:
    """The build gets only what the ignore file lets through, and that is all that is copied."""
    lines = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text().split("\n")
    sent = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    copied = {word for value in values("COPY") if "--from" not in value for word in value.split()[:-1]}
    assert copied == sent and all((ROOT / name).exists() for name in copied)


@pytest.mark.slow
def test_the_wheel_that_is_built_is_all_that_a_node_needs(tmp_path: Path) -> None:
    """The steps up to the libraries' installation, whose names and versions are checked below."""
    source, wheels, target = tmp_path / "source", tmp_path / "wheels", tmp_path / "target"
    source.mkdir()
    copy = next(value for value in values("COPY") if "pyproject.toml" in value).split()[:-1]
    for name in copy:
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "geosod", source / "geosod", ignore=shutil.ignore_patterns("__pycache__"))
    step = run_step("pip wheel").replace("/wheels", str(wheels))
    # Packages that build the wheel are installed here already.
    shell(step.replace("--no-deps", "--no-deps --no-build-isolation" if _has_hatchling() else "--no-deps"), source)
    (wheel,) = wheels.glob("geosod-*.whl")
    install = f"python -m pip install --no-deps --no-compile --target {target} {wheel}"
    shell(install, source)
    script = (
        "import geosod, sys; from geosod.detectors.find_model import find_model; "
        "print(geosod.__file__, find_model('demo-harbour').card.name)"
    )
    place = f"{target}:{ROOT / 'none'}"
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=os.environ | {"PYTHONPATH": place}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [str(target / "geosod" / "__init__.py"), "demo-harbour"]


def _has_hatchling() -> bool:
    return subprocess.run([sys.executable, "-c", "import hatchling"], check=False, capture_output=True).returncode == 0


def test_what_is_installed_is_pinned_and_of_extras_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    step = run_step("/tmp/wheels/geosod-")
    extras = step.partition("[")[2].partition("]")[0].split(",")
    assert set(extras) <= set(project["optional-dependencies"]) and "cluster" in extras
    pins = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    wanted = project["dependencies"] + [word for extra in extras for word in project["optional-dependencies"][extra]]
    names = {word.partition(">=")[0].partition("[")[0].lower() for word in wanted}
    assert names <= pins
    assert all("--constraint" in value for value in values("RUN") if "pip install" in value)


def test_the_index_is_an_option() -> None:
    """Without TORCH_INDEX the option is left out, with it it is one word."""
    step = run_step("TORCH_INDEX").replace("python -m pip", "printf '%s\\n'")
    for index, expected in (("", []), ("https://index.example/cpu", ["--index-url", "https://index.example/cpu"])):
        done = subprocess.run(
            ["sh", "-c", step], env={"TORCH_INDEX": index}, capture_output=True, text=True, check=True
        )
        words = done.stdout.split("\n")
        assert [w for w in words if "index" in w] == expected


@pytest.mark.parametrize("name", ["scene.tif", ".git", ".venv", "id_rsa", ".env", "out"])
def test_nothing_else_is_sent(name: str) -> None:
    lines = [line for line in (ROOT / "cluster" / "Dockerfile.dockerignore").read_text().split("\n") if line]
    kept = False
    for line in lines:
        if not line.startswith("#") and fnmatch.fnmatch(name, line.lstrip("!")):
            kept = line.startswith("!")
    assert not kept
