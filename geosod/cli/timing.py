"""How long a command has taken, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from geosod.cli.status_line import Moment, Status

#: Seconds after which the time left is estimated, and the fraction that must have been done in them.
ESTIMATE_AFTER, ESTIMATE_FROM = 3.0, 0.01


@dataclass(frozen=True, slots=True)
class _Update:
    """A status, when it came, and since when its fraction has grown from what."""

    status: Status
    at: float
    since: float
    from_fraction: float

    def left(self, now: float) -> float | None:
        seconds, fraction = self.at - self.since, self.status.fraction
        if fraction is None or seconds < ESTIMATE_AFTER or fraction - self.from_fraction < ESTIMATE_FROM:
            return None
        left = (1.0 - fraction) * seconds / (fraction - self.from_fraction) - (now - self.at)
        return left if left >= 1.0 else None  # an estimate that was too short says nothing


class Clock:
    """Measures time, and estimates how much of it is left from how the fraction that is done grows."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self._started = now()
        self._last = _Update(Status("starting"), self._started, self._started, 1.0)

    def update(self, status: Status) -> None:
        """A new status. Where its fraction is below that of the last, something else is measured now."""
        now, last = self.now(), self._last
        since, fraction = last.since, last.from_fraction
        known = last.status.fraction
        if status.fraction is not None and (known is None or status.fraction < known):
            since, fraction = now, status.fraction
        # One assignment: another thread draws.
        self._last = _Update(status, now, since, fraction)

    def moment(self) -> Moment:
        """The latest status, as of now."""
        now, last = self.now(), self._last
        return Moment(last.status, now - self._started, last.left(now))
