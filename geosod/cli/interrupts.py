"""Interrupts by the user. Where one hits code being compiled it may be lost, or become another error."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

_interrupted = threading.Event()


def watch_interrupts() -> None:
    """Remember from now on that the user has interrupted the process, unless something else handles that."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _on_interrupt)
        sys.unraisablehook = _report_unraisable


def was_interrupted() -> bool:
    """Whether the user has interrupted the process."""
    return _interrupted.is_set()


def check_interrupts() -> None:
    """Interrupt a process that goes on though the user has interrupted it.

    Raises:
        KeyboardInterrupt: it does.
    """
    if was_interrupted():
        raise KeyboardInterrupt


def _on_interrupt(number: int, frame: FrameType | None) -> NoReturn:
    _interrupted.set()
    signal.default_int_handler(number, frame)


def _report_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Say what Python had to ignore, as it does itself, but not interrupts in code called from C: they are known."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
