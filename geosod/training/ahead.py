"""Batches made in threads ahead of the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Made = TypeVar("Made")


def made_ahead(make: Callable[[int], Made], start: int, stop: int, *, threads: int) -> Iterator[Made]:
    """``make(step)`` for each step from `start` to before `stop`, in order; errors are raised where they belong.

    GDAL, numpy and torch release the interpreter's lock while they work, so threads do what processes would, share the
    decoded images, and need nothing of the program that calls them.

    Args:
        make: called in threads, at most two steps ahead for each.
        start: first step.
        stop: step after the last.
        threads: number of threads; 0 for none, so that each is made when it is asked for.
    """
    if not threads:
        yield from map(make, range(start, stop))
        return
    # With threads of torch's own, those of each maker would compete for the cores that the network works on.
    with ThreadPoolExecutor(threads, "batches", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        upcoming: deque[Future[Made]] = deque()
        following = start
        try:
            for _ in range(start, stop):
                while following < stop and len(upcoming) < 2 * threads:
                    upcoming.append(pool.submit(make, following))
                    following += 1
                yield upcoming.popleft().result()
        finally:
            for future in upcoming:
                future.cancel()
