"""Peak memory of a process and all that it started."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil


@dataclass(slots=True)
class Peak:
    """The largest sum of proportional set sizes so far, in bytes; 0 where the system does not report it."""

    pss_bytes: int = 0


def tree_pss(pid: int | None = None) -> int:
    """Proportional set size of a process, or this one, and its descendants in bytes: shared pages are counted once."""
    total = 0
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return total
    for process in tree:
        try:
            total += getattr(process.memory_full_info(), "pss", 0)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return total


@contextmanager
def peak_memory(*, pid: int | None = None, every: float = 0.5) -> Iterator[Peak]:
    """Watch the memory of a process tree while the block runs.

    Args:
        pid: the process at its root; None for this one.
        every: seconds between two samples; a shorter peak may be missed.
    """
    peak, done = Peak(), threading.Event()

    def watch() -> None:
        while not done.wait(every):
            peak.pss_bytes = max(peak.pss_bytes, tree_pss(pid))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
        peak.pss_bytes = max(peak.pss_bytes, tree_pss(pid))
