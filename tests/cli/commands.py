"""Run geosod's commands in processes of their own that need not import anything first."""

from __future__ import annotations

import io
import multiprocessing
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

#: Python's own arguments for a command in a new process.
FROM_SCRATCH = [sys.executable, "-c", "from geosod.cli.main import run; run()"]
_PRELOADED = [
    "geosod.cli.main",
    "geosod.api",
    "geosod.running.serial",
    "geosod.running.ray_engine",
    "geopandas",
    "torch",
]
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload([*_PRELOADED, __name__])


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def geosod(*args: object, stdout: str | None = None, **environment: str) -> Done:
    """Run a command in a fork of a process that has only imported geosod and its libraries.

    Args:
        *args: the command line.
        stdout: file that standard output goes to, instead of being returned.
        **environment: variables in addition to those of this process.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = stdout or f"{folder}/out", f"{folder}/err"
        variables = dict(os.environ) | {"COLUMNS": "200"} | environment
        process = forks.Process(target=_run, args=([*map(str, args)], variables, str(Path.cwd()), out, err))
        process.start()
        process.join(300)
        assert process.exitcode is not None, f"geosod {args} still runs: {Path(err).read_text()}"
        return Done(process.exitcode, "" if stdout else Path(out).read_text(), Path(err).read_text())


def _run(args: list[str], variables: dict[str, str], folder: str, out: str, err: str) -> None:
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding="utf-8")
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), encoding="utf-8", line_buffering=True)
    sys.argv = ["geosod", *args]
    from geosod.cli.main import app

    app()
