"""Progress and messages of a command on standard error: a line that is redrawn on a terminal, else plain lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from geosod.cli.interrupts import check_interrupts
from geosod.cli.status_line import Kind, Status
from geosod.cli.streams import print_error, stdout_to_stderr
from geosod.cli.timing import Clock

#: Seconds between lines about the progress where there is no terminal.
LINE_EVERY = 10.0


class Display(Protocol):
    """Where a command shows messages and its progress."""

    def say(self, text: str, kind: Kind = "info") -> None:
        """Print a message on a line of its own."""

    def update(self, status: Status) -> None:
        """Show what is going on now; KeyboardInterrupt where an interrupt was lost."""


class Quiet:
    """Prints errors only."""

    def say(self, text: str, kind: Kind = "info") -> None:
        """See `Display`."""
        if kind == "error":
            print_error(text)

    def update(self, status: Status) -> None:  # noqa: ARG002
        """See `Display`."""
        check_interrupts()


class Lines:
    """Prints a line when a phase is first entered, and one about the progress from time to time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._phases: set[str] = set()
        self._printed = clock.now()

    def say(self, text: str, kind: Kind = "info") -> None:  # noqa: ARG002
        """See `Display`."""
        print_error(text)

    def update(self, status: Status) -> None:
        """See `Display`."""
        check_interrupts()
        self._clock.update(status)
        now = self._clock.now()
        if status.phase not in self._phases:
            self._phases.add(status.phase)
            print_error(status.phase)
        elif now - self._printed >= LINE_EVERY:
            print_error(self._clock.moment().in_words())
        else:
            return
        self._printed = now


@contextmanager
def display(*, quiet: bool = False) -> Iterator[Display]:
    """A display that fits where standard error goes. Meanwhile nothing is written to standard output."""
    if quiet or not _on_terminal():
        with stdout_to_stderr():
            yield Quiet() if quiet else Lines(Clock())
        return
    from geosod.cli.terminal import terminal

    with terminal(Clock()) as shown:
        yield shown


def _on_terminal() -> bool:
    """Whether standard error is a terminal whose lines can be redrawn."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
