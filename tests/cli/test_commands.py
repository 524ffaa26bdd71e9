"""The commands that the help lists: each is imported only when it is wanted."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest

from geosod.cli.commands import COMMANDS, command_of
from geosod.cli.lazy import Lazy, LazyGroup
from tests.cli.commands import geosod


def all_commands(commands: Mapping[str, object] = COMMANDS, *words: str) -> Iterator[tuple[tuple[str, ...], Lazy]]:
    """The words of every command, and what the list of commands has of it."""
    for name, command in commands.items():
        if isinstance(command, LazyGroup):
            yield from all_commands(command.commands, *words, name)
        else:
            assert isinstance(command, Lazy)
            yield (*words, name), command


ALL = dict(all_commands())


def loaded_by(*args: str) -> set[str]:
    """Modules that are imported when a command line ends."""
    script = (
        "import atexit, sys; from geosod.cli.main import run\n"
        "atexit.register(lambda: print('\\n'.join(sys.modules), file=sys.stderr)); run()"
    )
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("args", [["--version"], ["--help"], ["model", "--help"]])
def test_the_list_of_commands_imports_none_of_them(args: list[str]) -> None:
    """Start-up is felt at every call: commands and settings are not there before they are wanted."""
    loaded = loaded_by(*args)
    commands = {f"geosod.cli.{command.target.partition(':')[0]}" for command in ALL.values()}
    assert "geosod.cli.commands" in loaded and not loaded & {*commands, "numpy", "geosod.config", "yaml"}


def test_a_command_is_imported_alone() -> None:
    loaded = loaded_by("status", "--help")
    assert "geosod.cli.status" in loaded and not loaded & {"geosod.cli.detect", "geosod.cli.train", "geosod.config"}


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_the_line_of_a_command_is_that_of_its_docstring(words: tuple[str, ...]) -> None:
    loaded = command_of(*words)
    about = inspect.cleandoc(loaded.help or "")
    first = about.split("\n\n")[0]
    assert ALL[words].help == " ".join(first.split()) and loaded.name == words[-1]
    assert f"Example: geosod {' '.join(words)}" in about


def test_the_help_lists_every_command() -> None:
    text = geosod("--help").stdout
    assert all(f"│ {name} " in text for name in COMMANDS)
    assert "Find small objects in scenes" in text


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["detekt"], "Did you mean 'detect'?"),
        (["model", "lst"], "Did you mean 'list'?"),
        (["detect", "--treshold", "3"], "--threshold"),
        (["detect", "a.tif", "-m", "demo-harbor", "-o", "x"], "did you mean 'demo-harbour'?"),
        (
            ["detect", "a.tif", "-m", "demo-harbour", "-o", "x", "--merge-method", "soft-nms"],
            "did you mean 'soft_nms'?",
        ),
        (["detect", "a.tif", "-m", "demo-harbour", "-o", "x", "--classes", "vesel"], "did you mean 'vessel'?"),
        (["export", "x", "-o", "a.bin", "--to", "flatgeobuff"], "did you mean 'flatgeobuf'?"),
        (["dataset", "convert", "labels.json", "-o", "x", "--format", "yollo"], "did you mean 'yolo'?"),
        (["summarize", "x", "--by", "klass"], "did you mean 'class'?"),
        (["config", "show", "detekt"], "did you mean 'detect'?"),
    ],
)
def test_a_misspelt_name_is_recognised(args: list[str], hint: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.json").write_text("{}")
    done = geosod(*args)
    assert done.returncode == 2 and hint in done.stderr, done.stderr
