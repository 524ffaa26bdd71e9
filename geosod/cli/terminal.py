"""The display on a terminal: one line at the bottom, redrawn in place, and all other output above it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from threading import Event, Lock, Thread
from typing import IO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from geosod.cli.interrupts import check_interrupts
from geosod.cli.status_line import Kind, Status
from geosod.cli.streams import STDERR, STDOUT, redirected
from geosod.cli.timing import Clock

#: Seconds between drawings.
REDRAW_EVERY = 0.125
_STYLES: dict[Kind, str] = {"info": "", "detail": "dim", "warning": "yellow", "error": "red"}


class Terminal:
    """A `geosod.cli.display.Display` on a terminal.

    Args:
        console: writes to the terminal.
        output: file that standard output and standard error were redirected to.
        clock: measures time.
    """

    def __init__(self, console: Console, output: IO[bytes], clock: Clock) -> None:
        self._console, self._output, self._clock = console, output, clock
        self._read, self._rest, self._lock = 0, b"", Lock()
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            get_renderable=clock.moment,
        )
        self._ended = Event()
        self._thread = Thread(target=self._redraw, name="display", daemon=True)

    def say(self, text: str, kind: Kind = "info") -> None:
        """See `Display`."""
        self._show_output()
        self._print(Text(text, _STYLES[kind]))

    def update(self, status: Status) -> None:
        """See `Display`."""
        check_interrupts()
        self._clock.update(status)

    def __enter__(self) -> Terminal:
        self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._ended.set()
            self._thread.join()
            self._show_output(all_of_it=True)
        finally:
            self._live.stop()

    def _redraw(self) -> None:
        while not self._ended.wait(REDRAW_EVERY):
            self._show_output()
            with suppress(OSError):
                # Asked each time: the terminal may be resized, and no standard stream may be it.
                self._console.size = os.get_terminal_size(self._console.file.fileno())
                self._live.refresh()

    def _show_output(self, *, all_of_it: bool = False) -> None:
        """Print the lines that were written to standard output and standard error since the last call."""
        with self._lock:
            # The writers' position is that of the descriptor, which pread leaves where it is.
            while new := os.pread(self._output.fileno(), 1 << 16, self._read):
                self._read += len(new)
                self._rest += new
            *lines, self._rest = self._rest.split(b"\n")
            if all_of_it and self._rest:
                lines, self._rest = [*lines, self._rest], b""
            for line in lines:
                # Of a line that rewrites itself, as other progress bars do, only the last state.
                self._print(Text.from_ansi(line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]))

    def _print(self, text: Text) -> None:
        with suppress(OSError):  # a run outlives its terminal
            self._console.print(text)


@contextmanager
def terminal(clock: Clock) -> Iterator[Terminal]:
    """A display on the terminal that standard error is.

    Standard output and standard error are redirected to a temporary file meanwhile, whose lines are printed above the
    status. That catches libraries in C, and loggers that have kept a stream; a file, unlike a pipe, never blocks them.
    """
    with ExitStack() as stack:
        screen = stack.enter_context(os.fdopen(os.dup(STDERR), "w", encoding=sys.stderr.encoding, errors="replace"))
        output = stack.enter_context(tempfile.TemporaryFile(buffering=0))
        shown = Terminal(Console(file=screen, highlight=False, soft_wrap=True), output, clock)
        stack.enter_context(shown)
        stack.enter_context(redirected(STDERR, output.fileno()))
        stack.enter_context(redirected(STDOUT, output.fileno()))
        stack.enter_context(redirect_stdout(sys.stderr))
        yield shown
