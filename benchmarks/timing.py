"""Several ways to do one thing, in alternating rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

T = TypeVar("T")


def alternate(ways: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each way returns; every round takes each once, so that all meet the same load of the machine."""
    found: dict[str, list[T]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            found[name].append(work())
    return found


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def medians(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each way, in alternating rounds."""
    times = alternate({name: partial(timed, work) for name, work in ways.items()}, rounds)
    return {name: statistics.median(values) for name, values in times.items()}


def median_of(measured: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over several measurements."""
    rows = list(measured)
    return {name: statistics.median([row[name] for row in rows]) for name in rows[0]}
