"""Runs commands and functions in processes of their own, and measures their time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geosod.running.memory import Peak, peak_memory

ROOT = Path(__file__).parents[1]
#: Lines of a failed program's standard error that are shown.
_LAST_LINES = 12


class ProgramError(Exception):
    """A program failed; the message has the last lines that it printed."""


@dataclass(slots=True)
class Ended:
    """A process that has ended.

    Attributes:
        began: when it was started, on the clock of `time.monotonic`, which all processes of a machine share on Linux.
        seconds: from its start to its end.
        peak: maximum sum of the proportional set sizes of it and its descendants in bytes; 0 where not watched.
        value: what its function returned; None for commands.
    """

    began: float
    seconds: float = 0.0
    peak: int = 0
    value: Any = None


def command(words: Sequence[object], *, watch: bool = False, code: int = 0) -> Ended:
    """Run a command in the project's folder.

    Args:
        words: program and arguments.
        watch: measure its memory, which takes a little of its time.
        code: the exit code that it must have.

    Raises:
        ProgramError: it ended with another one.
    """
    with tempfile.TemporaryFile("w+") as errors:
        ended = Ended(time.monotonic())
        program = subprocess.Popen(
            [str(word) for word in words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors, stdin=subprocess.DEVNULL
        )
        with peak_memory(pid=program.pid) if watch else nullcontext(Peak()) as peak:
            returned = program.wait()
            ended.seconds = time.monotonic() - ended.began
        ended.peak = peak.pss_bytes
        if returned != code:
            errors.seek(0)
            last = "".join(errors.readlines()[-_LAST_LINES:])
            raise ProgramError(f"{' '.join(map(str, words))}\nended with {returned}, not {code}:\n{last}")
    return ended


def call(target: str, *, python: str | Path = sys.executable, watch: bool = False, **arguments: Any) -> Ended:
    """Call ``module:function`` in a process of its own; arguments and result must fit into JSON.

    Raises:
        ProgramError: it raised an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        text = json.dumps(arguments, default=str)
        ended = command([python, "-m", "benchmarks.child", target, text, result], watch=watch)
        ended.value = json.loads(result.read_text())
    return ended
