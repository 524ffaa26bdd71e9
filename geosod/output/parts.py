"""Rows in parts: computed on all cores, delivered in order, a bounded number at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from geosod.machine import usable_cpus

_T = TypeVar("_T")
#: Rows of a part: few enough for its arrays to stay in a core's cache.
PART_ROWS = 10_000
#: Parts a core that are computed or wait for those before them.
PARTS_AHEAD = 2


def by_part(compute: Callable[[slice], _T], rows: int) -> Iterator[_T]:
    """The results of `compute` for consecutive parts of the rows, in their order.

    Args:
        compute: takes the slice of rows that are a part; called in threads.
        rows: number of rows; none give no part.
    """
    spans = [slice(start, min(start + PART_ROWS, rows)) for start in range(0, rows, PART_ROWS)]
    if len(spans) < 2:
        yield from map(compute, spans)
        return
    cpus = usable_cpus()
    waiting: deque[Future[_T]] = deque()
    with ThreadPoolExecutor(cpus) as threads:
        for span in spans:
            if len(waiting) == PARTS_AHEAD * cpus:
                yield waiting.popleft().result()
            waiting.append(threads.submit(compute, span))
        while waiting:
            yield waiting.popleft().result()
