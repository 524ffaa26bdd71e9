"""How many requests, and how many bytes of them, the service holds at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from geosod.serving.options import Limits
from geosod.serving.refused import RefusedError, busy


class Share:
    """What one request holds of the budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self._bytes = budget, 0

    def add(self, count: int) -> None:
        """Hold so many bytes more.

        Raises:
            RefusedError: there is no room for them (429).
        """
        self._budget.take(count)
        self._bytes += count

    def release(self) -> None:
        """Hold nothing any more."""
        self._budget.give(self._bytes)
        self._bytes = 0


class Budget:
    """Bounds over all requests in progress.

    Args:
        limits: the bounds.
    """

    def __init__(self, limits: Limits) -> None:
        self._lock = threading.Lock()
        self._limits = limits
        self.requests, self.bytes = 0, 0
        self.wait_seconds = 1.0

    @contextmanager
    def request(self) -> Iterator[Share]:
        """A request is in progress in the block.

        Raises:
            RefusedError: too many are (429).
        """
        with self._lock:
            if self.requests >= self._limits.requests:
                raise self._busy()
            self.requests += 1
        share = Share(self)
        try:
            yield share
        finally:
            share.release()
            with self._lock:
                self.requests -= 1

    def take(self, count: int) -> None:
        """Count bytes in; RefusedError where there is no room."""
        with self._lock:
            if self.bytes + count > self._limits.bytes_in_progress:
                raise self._busy()
            self.bytes += count

    def give(self, count: int) -> None:
        """Count bytes out."""
        with self._lock:
            self.bytes -= count

    def _busy(self) -> RefusedError:
        return busy(self.wait_seconds)
