"""Standard output and standard error: one may be full or closed, and libraries write to both."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import IO, Any

STDOUT, STDERR = 1, 2


def print_error(text: str) -> None:
    """Print a line on standard error. Where that is full or closed, the command goes on without it."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


class _Stdout(io.TextIOWrapper):
    """Standard output that remembers why it could not be written, whoever catches the error."""

    lost: OSError | None = None

    def write(self, text: str, /) -> int:
        """Write `text`."""
        try:
            return super().write(text)
        except OSError as error:
            self.lost = error
            raise

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            super().flush()
        except OSError as error:
            self.lost = error
            raise


def run_checked(command: Callable[[], None]) -> None:
    """Run a command; exit with one line, and no traceback, where standard output cannot be written.

    Raises:
        SystemExit: 2 where it cannot be written, 1 without a message where nobody reads it any more; and those of the
            command.
    """
    _open_missing()
    if not isinstance(sys.stdout, io.TextIOWrapper):
        command()  # a caller in Python has put its own stream there
        return
    s = sys.stdout
    form: Any = {"encoding": s.encoding, "errors": s.errors, "line_buffering": s.line_buffering}
    stdout = _Stdout(s.buffer, **form, write_through=s.write_through)
    try:
        with redirect_stdout(stdout):
            try:
                command()
            finally:
                stdout.flush()
    except (OSError, SystemExit):
        if stdout.lost is None:
            raise
    finally:
        _drop_unwritten(stdout, STDOUT)
        _drop_unwritten(sys.stderr, STDERR)
        stdout.detach()  # else it would close the stream's descriptor with itself
    if stdout.lost is not None:
        _exit_without_stdout(stdout.lost)


def _exit_without_stdout(lost: OSError) -> None:
    if lost.errno == errno.EPIPE:
        raise SystemExit(1)
    reason = "it is closed" if lost.errno == errno.EBADF else lost.strerror
    print_error(f"geosod: standard output cannot be written: {reason}")
    raise SystemExit(2)


def _drop_unwritten(stream: IO[str], descriptor: int) -> None:
    """Send what cannot be written nowhere; else Python would fail when it exits."""
    try:
        stream.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _open_missing() -> None:
    """Give streams that were closed from the start a descriptor, which else the next file to be opened would get."""
    if sys.stdout is None:
        # Open for reading, so that writing fails, as the user of a closed stream expects.
        os.dup2(os.open(os.devnull, os.O_RDONLY), STDOUT)
        sys.stdout = os.fdopen(STDOUT, "w", closefd=False)
    if sys.stderr is None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR)
        sys.stderr = os.fdopen(STDERR, "w", closefd=False)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send what is written to standard output, by Python or by libraries in C, to standard error."""
    with redirected(STDOUT, STDERR), redirect_stdout(sys.stderr):
        yield


@contextmanager
def redirected(descriptor: int, target: int) -> Iterator[None]:
    """Let a descriptor of the process write to another one's file."""
    _flush()
    saved = os.dup(descriptor)
    os.dup2(target, descriptor)
    try:
        yield
    finally:
        _flush()
        os.dup2(saved, descriptor)
        os.close(saved)


def _flush() -> None:
    streams: tuple[IO[str], ...] = (sys.stdout, sys.stderr)
    for stream in streams:
        with suppress(OSError, ValueError):
            stream.flush()
