"""Groups of threads that work for one calling thread, which alone handles what has ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")
_Handled = TypeVar("_Handled")
_Task = tuple[Callable[[], Any], Callable[[Any], Any]]


class Threads(Generic[_Handled]):
    """Groups of threads, and the queue of what they have to say to the calling thread.

    They are daemon threads, so that one that hangs does not keep the process from ending.

    Args:
        **counts: number of threads of each group.
    """

    def __init__(self, **counts: int) -> None:
        self._work: dict[str, SimpleQueue[_Task | None]] = {name: SimpleQueue() for name in counts}
        self._said: SimpleQueue[Callable[[], _Handled]] = SimpleQueue()
        self._closed = False
        self._threads = [
            (name, threading.Thread(target=self._run, args=(self._work[name],), name=f"{name}_{i}", daemon=True))
            for name, count in counts.items()
            for i in range(count)
        ]
        for _, thread in self._threads:
            thread.start()

    def start(self, group: str, work: Callable[[], _T], end: Callable[[_T | Exception], _Handled]) -> None:
        """Do `work` in a thread, then hand over `end` with its result, or with what it raised."""
        self._work[group].put((work, end))

    def say(self, handle: Callable[[], _Handled]) -> None:
        """Hand over something for the calling thread to do."""
        self._said.put(handle)

    def next(self, patience: float) -> Callable[[], _Handled] | None:
        """What the calling thread is to do next; None if there is nothing within so many seconds."""
        try:
            return self._said.get(timeout=patience)
        except Empty:
            return None

    def close(self, patience: float) -> None:
        """Stop: nothing new is started, and what is being done is waited for, so many seconds at most."""
        self._closed = True
        for name, _ in self._threads:
            self._work[name].put(None)
        deadline = time.monotonic() + patience
        for _, thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, tasks: SimpleQueue[_Task | None]) -> None:
        while (task := tasks.get()) is not None:
            if not self._closed:
                self.say(partial(task[1], _done(task[0])))


def _done(work: Callable[[], _T]) -> _T | Exception:
    try:
        return work()
    except Exception as error:
        return error
