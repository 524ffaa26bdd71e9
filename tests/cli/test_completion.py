"""Completion as shells do it: each shell that is installed is asked."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from geosod.detectors import shipped_models

#: A command line, and what may stand for its last word.
CASES = [
    ("geosod de", {"detect", "deduplicate", "demo"}),
    ("geosod detect --merge-method n", {"nms", "nmm"}),
    ("geosod model info ", set(shipped_models())),
    ("geosod config va", {"validate"}),
    ("geosod export out --to geo", {"geoparquet", "geojson"}),
    ("geosod train labels.json --netw", {"--network"}),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables with which the command `geosod` is this code."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "geosod"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from geosod.cli.main import run; run()" "$@"\n')
    command.chmod(0o755)
    root = str(Path(__file__).parents[2])
    return dict(os.environ) | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": root, "TERM": "dumb"}


def shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_bash(environment) -> None:
    lines = ['eval "$(geosod --show-completion)"']
    for line, _ in CASES:
        words = line.split(" ")
        quoted = " ".join(f"'{word}'" for word in words)
        lines.append(f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMPREPLY=()")
        lines.append('_geosod_completion geosod; echo "${COMPREPLY[*]}"')
    done = subprocess.run(
        [shell("bash"), "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [set(line.split()) for line in done.stdout.splitlines()] == [expected for _, expected in CASES]


def test_fish(environment) -> None:
    lines = [
        "geosod --show-completion | source",
        *(f"complete -C '{line}' | string collect; echo =" for line, _ in CASES),
    ]
    done = subprocess.run(
        [shell("fish"), "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answers = [{row.split("\t")[0] for row in part.split("\n") if row} for part in done.stdout.split("=\n")[:-1]]
    assert answers == [expected for _, expected in CASES]


def test_zsh(environment) -> None:
    """zsh completes in an interactive session only; a word of which there is one is put in full on the line."""
    program = shell("zsh")
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe(program, ["zsh", "-f", "-i"], environment)
    try:
        _send(
            terminal,
            'PS1=""; autoload -Uz compinit; compinit -u -D; eval "$(geosod --show-completion)"; echo re""ady\n',
        )
        assert "ready\r" in _until(terminal, "ready\r")
        for typed, completed in [
            ("geosod detec\t", "geosod detect "),
            ("geosod detect --merge-method gr\t", "--merge-method greedy_nmm "),
            ("geosod model info demo\t", "model info demo-harbour "),
            ("geosod detect --sig\t", "--sigma "),  # its help has an apostrophe, which must not end a text of zsh's
        ]:
            _send(terminal, f"\x15{typed}")
            assert completed in _until(terminal, completed), typed
    finally:
        _send(terminal, "\x15exit\n")
        os.waitpid(process, 0)
        os.close(terminal)


def _send(terminal: int, text: str) -> None:
    os.write(terminal, text.encode())


def _until(terminal: int, expected: str, seconds: float = 60) -> str:
    """What the terminal shows until it shows the expected."""
    shown, end = b"", time.monotonic() + seconds
    while expected not in shown.decode(errors="replace") and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            shown += os.read(terminal, 65536)
    return shown.decode(errors="replace")
