"""The lock of a folder: it keeps processes apart, and those threads of one process that change the same thing."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

try:
    import fcntl
except ImportError:  # Windows: one process per folder
    fcntl = None  # type: ignore[assignment]

#: Seconds for which threads may join those that hold the lock; then other processes have a turn.
JOINING = 0.1


class FolderLock:
    """A lock on a file, which a process takes once for all of its threads that change different things.

    Args:
        path: of the file, which is created.
    """

    def __init__(self, path: str) -> None:
        self._path, self._changed = path, threading.Condition()
        #: What the threads that hold it change; None for anything.
        self._inside: set[str | None] = set()
        self._waiting_alone, self._joined_until, self._handle = 0, 0.0, -1

    @contextmanager
    def held(self, part: str | None = None) -> Iterator[None]:
        """Hold the lock; waits for it.

        Args:
            part: what is changed, so that threads of this process that change other parts may hold it meanwhile; None
                for anything.
        """
        alone = part is None
        with self._changed:
            self._waiting_alone += alone
            try:
                self._changed.wait_for(lambda: self._may_enter(part))
                if not self._inside:
                    self._handle = _locked_file(self._path)
                    self._joined_until = 0.0 if alone else time.monotonic() + JOINING
                self._inside.add(part)
            finally:
                self._waiting_alone -= alone
                # Others wait while a thread waits alone; where it fails, nobody else would wake them.
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._inside.remove(part)
                if not self._inside:
                    _unlock(self._handle)
                self._changed.notify_all()

    def _may_enter(self, part: str | None) -> bool:
        if part is None:
            return not self._inside
        joins = not self._inside or (part not in self._inside and time.monotonic() < self._joined_until)
        return joins and not self._waiting_alone


_locks: dict[str, FolderLock] = {}


def folder_lock(path: str) -> FolderLock:
    """The lock of this process on a file."""
    return _locks.setdefault(path, FolderLock(path))


if hasattr(os, "register_at_fork"):
    # The threads that hold locks are the parent's.
    os.register_at_fork(after_in_child=_locks.clear)


def _locked_file(path: str) -> int:
    if fcntl is None:
        return -1
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _unlock(handle: int) -> None:
    if fcntl is not None:
        # Closing alone leaves the lock to a process that was forked meanwhile.
        fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)
