"""The display on a real pseudo-terminal: other output never lands in the status, and the terminal is left clean."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl

import pytest
from rich.cells import cell_len

from geosod.cli.status_line import SPINNER
from tests.rasters import noise, write_tif


class Pty:
    """A command on a pseudo-terminal, and everything it has written there."""

    def __init__(self, command: list[str], columns: int, **environment: str) -> None:
        self.master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        clean = {
            k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "TERM", "FORCE_COLOR")
        }
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=clean | {"TERM": "xterm"} | environment,
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.text = ""

    def read(self, until: str | None = None, seconds: float = 150.0) -> str:
        """Read until a text appears, or to the end."""
        deadline = time.monotonic() + seconds
        while until is None or until not in self.text:
            if time.monotonic() > deadline:
                self.process.kill()
                pytest.fail(self.text[-2000:])
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    chunk = os.read(self.master, 1 << 16)
                except OSError:  # Linux reports the end in this way
                    break
                self.text += chunk.decode()
        return self.text

    def end(self) -> int:
        self.read()
        os.close(self.master)
        return self.process.wait(10)

    def rows(self) -> list[str]:
        """Everything that stood in a row at some time."""
        return [row for row in re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text)) if row]


def geosod(*args: object) -> list[str]:
    return [sys.executable, "-c", "from geosod.cli.main import run; run()", *map(str, args)]


NOISE = """
import logging, os, sys, time, warnings
kept = logging.StreamHandler()  # keeps the stream that is standard error now
logging.getLogger("early").addHandler(kept)
from geosod.cli.display import display
from geosod.cli.status_line import Status
with display() as shown:
    for i in range(6):
        shown.update(Status("detecting", i / 6, (("3 of 10 scenes finished", "3/10 scenes"), ("12.3 Mpx/s",))))
        logging.getLogger("early").warning("early %d", i)
        logging.getLogger("root").error("root %d", i)
        warnings.warn(f"warning {i}")
        print("printed", i)
        os.write(1, f"descriptor 1 {i}\\n".encode())
        os.write(2, f"descriptor 2 {i}\\n".encode())
        sys.stderr.write("in two ")
        sys.stderr.flush()
        time.sleep(0.2)
        sys.stderr.write(f"parts {i}\\n")
        shown.say(f"said {i}", "error")
    os.write(2, b"no end of line")
print("after")
"""
SAID = ("early {i}", "root {i}", "printed {i}", "descriptor 1 {i}", "descriptor 2 {i}", "in two parts {i}", "said {i}")


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_other_output_has_rows_of_its_own(columns) -> None:
    terminal = Pty([sys.executable, "-c", NOISE], columns)
    assert terminal.end() == 0
    rows = terminal.rows()
    status = [row for row in rows if row[0] in SPINNER]
    assert len(status) > 8 and all(cell_len(row) < columns for row in status)
    assert all(
        re.fullmatch(r". (starting|detecting)  [^a-z]*(3(/| of )10 scenes[a-z ]*)?[0-9.]*( Mpx/s)?", s) for s in status
    )
    others = [row for row in rows if row[0] not in SPINNER]
    for i in range(6):
        for line in SAID:
            assert others.count(line.format(i=i)) == 1, line
        assert sum(row.endswith(f"UserWarning: warning {i}") for row in others) == 1
    assert others[-2:] == ["no end of line", "after"]
    assert terminal.text.count("\x1b[?25l") == terminal.text.count("\x1b[?25h") == 1


def test_a_dumb_terminal_gets_plain_lines() -> None:
    terminal = Pty([sys.executable, "-c", NOISE], 80, TERM="dumb")
    assert terminal.end() == 0
    assert "\x1b" not in terminal.text and terminal.rows().count("detecting") == 1
    assert {"printed 5", "descriptor 1 5", "said 5", "no end of lineafter"} <= set(terminal.rows())


def test_no_color() -> None:
    terminal = Pty([sys.executable, "-c", NOISE], 80, NO_COLOR="1")
    assert terminal.end() == 0
    assert not re.search(r"\x1b\[(3|9)\dm", terminal.text) and "detecting  ━" in terminal.text


def test_the_terminal_may_be_resized() -> None:
    script = NOISE.replace("time.sleep(0.2)", "time.sleep(0.5)")
    # Standard error alone is the terminal.
    shell = ["sh", "-c", '"$@" < /dev/null > /dev/null', "sh"]
    terminal = Pty([*shell, sys.executable, "-c", script], 120)
    terminal.read("said 2")
    ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 50, 0, 0))
    assert terminal.end() == 0
    status = [row for row in terminal.rows() if row[0] in SPINNER]
    assert max(map(cell_len, status[:8])) > 80 and all(cell_len(row) < 50 for row in status[-8:])


def test_ctrl_c_gives_the_cursor_back(tmp_path) -> None:
    terminal = Pty(geosod("demo", "--size", 16384, "-o", tmp_path), 80)
    terminal.read("drawing 16,384")
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.end() == 130
    assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l")
    assert terminal.rows()[-1] == "geosod: interrupted; run the same command again to continue"
    assert "Traceback" not in terminal.text


HALF_MADE = """
    def __init__(self):
        raise KeyboardInterrupt
"""
#: As compiled code does that Python calls back from C.
TURNED_INTO_ANOTHER_ERROR = """
    def __init__(self):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt:
            pass
        self.handle.value
"""


LOST = """
    def __init__(self):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt:
            pass
        with display(quiet=True) as shown:
            shown.update(Status("going on"))
"""
#: As in a function of Python's that compiled code calls.
IGNORED = """
    def __init__(self):
        import ctypes
        ctypes.CFUNCTYPE(None)(lambda: os.kill(os.getpid(), signal.SIGINT) or time.sleep(10))()
        with display(quiet=True) as shown:
            shown.update(Status("going on"))
"""


@pytest.mark.parametrize("compiling", [HALF_MADE, TURNED_INTO_ANOTHER_ERROR, LOST, IGNORED])
def test_an_interrupt_while_code_is_compiled_is_one_line(compiling: str) -> None:
    script = f"""
import os, signal, time
import geosod.cli.main as main
from geosod.cli.display import display
from geosod.cli.status_line import Status

class Compiled:
{compiling}
    def __del__(self):
        self.handle.close()

main.LazyGroup.invoke = lambda *_: Compiled()
main.run(["doctor"])
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert ended.returncode == 130
    assert ended.stderr == "geosod: interrupted; run the same command again to continue\n"


def test_a_run_on_a_terminal(rgb_bundle, tmp_path) -> None:
    """The status goes to the terminal, the result to standard output."""
    scene = write_tif(tmp_path / "scene.tif", noise(3, 400, 400))
    plain = ["--engine", "serial", "--precision", "fp32", "--backend", "eager", "--batch", "4", "--json"]
    command = geosod("detect", scene, tmp_path / "missing.tif", "-m", rgb_bundle, "-o", tmp_path / "out", *plain)
    result = tmp_path / "result.json"
    terminal = Pty(["sh", "-c", 'out=$1; shift; exec "$@" > "$out"', "sh", str(result), *command], 60)
    assert terminal.end() == 3
    rows = terminal.rows()
    assert all(cell_len(row) < 60 for row in rows if row[0] in SPINNER)
    # Which of the phases are drawn depends on how fast they are.
    phases = ("finding scenes", "opening scenes", "starting detectors", "detecting", "merging", "writing", "finishing")
    assert any(row[2:].startswith(phases) for row in rows if row[0] in SPINNER)
    assert sum(row.startswith("failed (open): ") for row in rows) == 1
    assert json.loads(result.read_text())["detections"] > 0
    assert "2 scenes (1 done, 1 failed)" in terminal.text
