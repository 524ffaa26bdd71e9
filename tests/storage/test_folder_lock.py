"""The lock of an output folder, between processes and between threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from geosod.storage import folder_lock as module
from geosod.storage.folder_lock import FolderLock, folder_lock

fcntl = pytest.importorskip("fcntl")

#: Takes the lock in its file argument, says so, and holds it until its input ends.
HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path: Path) -> FolderLock:
    return FolderLock(str(tmp_path / ".lock"))


def enters(lock: FolderLock, part: str | None, *, seconds: float = 0.3) -> bool:
    """Whether another thread gets the lock while this one holds it."""
    entered = threading.Event()

    def enter() -> None:
        with lock.held(part):
            entered.set()

    threading.Thread(target=enter, daemon=True).start()
    return entered.wait(seconds)


@pytest.mark.parametrize(
    ("held", "asked", "let_in"),
    [("a", "b", True), ("a", "a", False), ("a", None, False), (None, "a", False), (None, None, False)],
)
def test_threads_are_kept_apart_where_they_change_the_same(
    lock: FolderLock, held: str | None, asked: str | None, let_in: bool
) -> None:
    with lock.held(held):
        assert enters(lock, asked) == let_in
    assert enters(lock, asked, seconds=10)


def test_a_thread_that_changes_anything_is_not_kept_waiting_by_ever_new_others(
    lock: FolderLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "JOINING", 1e9)
    with keep_joining(lock):
        assert enters(lock, None, seconds=10)


def test_another_process_has_a_turn(lock: FolderLock, tmp_path: Path) -> None:
    """While threads join one another, who without a limit would never let go of the file."""
    with keep_joining(lock):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, tmp_path / ".lock"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        held = within(20, process.stdout.readline)
        assert held == "held\n"
        assert not enters(lock, "x"), "this process waits for the other one"
        process.communicate("")
        assert enters(lock, "y", seconds=10)


def test_the_file_is_released_after_an_error(lock: FolderLock, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), lock.held("a"):
        raise ValueError("inside")
    with (tmp_path / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lost = FolderLock(str(tmp_path / "missing" / ".lock"))
    for part in (None, "a", "a"):
        with pytest.raises(FileNotFoundError), lost.held(part):
            pass


def test_who_waits_is_woken_where_a_thread_that_waited_alone_fails(tmp_path: Path) -> None:
    """Others wait for it; the folder is gone when its turn comes, and is back when theirs does."""
    folder = tmp_path / "out"
    folder.mkdir()
    lock, failed, entered = FolderLock(str(folder / ".lock")), threading.Event(), threading.Event()

    def alone() -> None:
        with pytest.raises(FileNotFoundError), lock.held(None):
            pass
        folder.mkdir()
        failed.set()

    def part() -> None:
        with suppress(FileNotFoundError), lock.held("b"):
            pass
        entered.set()

    with lock.held("a"):
        threading.Thread(target=alone, daemon=True).start()
        time.sleep(0.1)
        threading.Thread(target=part, daemon=True).start()
        time.sleep(0.1)
        (folder / ".lock").unlink()
        folder.rmdir()
    assert failed.wait(10) and entered.wait(10)


def test_a_process_that_is_forked_neither_has_the_lock_nor_keeps_it(tmp_path: Path) -> None:
    path, (reads, writes) = str(tmp_path / ".lock"), os.pipe()
    with folder_lock(path).held("a"):
        pid = os.fork()
        if pid == 0:
            os.close(writes)
            os.read(reads, 1)  # until the parent has left the lock
            with folder_lock(path).held("b"):
                os._exit(0)
    try:
        with (tmp_path / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(writes)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_process_has_one_lock_for_a_file(tmp_path: Path) -> None:
    """Two would keep its threads apart, since each has a handle of its own."""
    assert folder_lock(str(tmp_path / ".lock")) is folder_lock(str(tmp_path / ".lock"))


class keep_joining:  # noqa: N801
    """Threads that hold the lock one after the other, so that some always do."""

    def __init__(self, lock: FolderLock) -> None:
        self._lock, self._ended = lock, threading.Event()
        self._pool = ThreadPoolExecutor(3)

    def __enter__(self) -> None:
        for name in ("1", "2", "3"):
            self._pool.submit(self._hold, name)
        time.sleep(0.05)

    def _hold(self, name: str) -> None:
        while not self._ended.is_set():
            with self._lock.held(name):
                time.sleep(0.01 * int(name))

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._pool.shutdown()


def within(seconds: float, call: Callable[[], str]) -> str | None:
    """What a call returns; None where it takes longer."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None
