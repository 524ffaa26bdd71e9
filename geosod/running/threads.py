"""Groups of threads that work for one calling thread, which alone handles what has ended."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

_T = TypeVar("_T")
_Handled = TypeVar("_Handled")


class Threads(Generic[_Handled]):
    """Groups of threads, and the queue of what they have to say to the calling thread.

    Args:
        **counts: number of threads of each group.
    """

    def __init__(self, **counts: int) -> None:
        self._groups = {name: ThreadPoolExecutor(n, thread_name_prefix=name) for name, n in counts.items()}
        self._said: SimpleQueue[Callable[[], _Handled]] = SimpleQueue()

    def start(self, group: str, work: Callable[[], _T], end: Callable[[_T | Exception], _Handled]) -> None:
        """Do `work` in a thread, then hand over `end` with its result, or with what it raised."""

        def do() -> None:
            try:
                result: _T | Exception = work()
            except Exception as error:
                result = error
            self.say(partial(end, result))

        self._groups[group].submit(do)

    def say(self, handle: Callable[[], _Handled]) -> None:
        """Hand over something for the calling thread to do."""
        self._said.put(handle)

    def next(self, patience: float, on_silence: Callable[[], None]) -> Callable[[], _Handled]:
        """What the calling thread is to do next; `on_silence` is called every `patience` seconds without."""
        while True:
            try:
                return self._said.get(timeout=patience)
            except Empty:
                on_silence()

    def close(self) -> None:
        """Stop; what is being done is ended first, and nothing new is started."""
        for threads in self._groups.values():
            threads.shutdown(wait=True, cancel_futures=True)
