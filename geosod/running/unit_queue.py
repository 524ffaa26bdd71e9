"""Units that wait to be read, in an order in which readers can go on from one to the next."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from geosod.scene import Unit


class HasUnit(Protocol):
    """Something about a unit."""

    @property
    def unit(self) -> Unit:
        """The unit."""
        ...


T = TypeVar("T", bound=HasUnit)


@dataclass(slots=True, eq=False)
class _Run(Generic[T]):
    """Units that wait, each below the one before; `begun` if the unit above them has been taken."""

    items: deque[T]
    begun: bool = False


class UnitQueue(Generic[T]):
    """Units by columns. Several threads may take units at once.

    A reader that goes down a column decodes the blocks across units once, so each begins a column of its own while
    there are any, and then the lower half of one.
    """

    def __init__(self) -> None:
        self._runs: list[_Run[T]] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return sum(len(run.items) for run in self._runs)

    def extend(self, items: Iterable[T]) -> None:
        """Add the units of a scene, in reading order."""
        columns: dict[tuple[float, int], list[_Run[T]]] = {}
        for item in items:
            runs = columns.setdefault((item.unit.level, item.unit.index[1]), [])
            if runs and _is_below(runs[-1].items[-1], item):
                runs[-1].items.append(item)
            else:
                runs.append(_Run(deque([item])))
        with self._lock:
            self._runs += [run for column in columns.values() for run in column]

    def take(self) -> T | None:
        """A unit for a reader to begin with, of the scene that came first; None if none waits."""
        with self._lock:
            if not self._runs:
                return None
            first = self._runs[0].items[0].unit.scene_id
            runs = [run for run in self._runs if run.items[0].unit.scene_id == first]
            run = next((run for run in runs if not run.begun), None)
            return self._take_first(run) if run else self._split(max(runs, key=lambda run: len(run.items)))

    def take_below(self, item: T) -> T | None:
        """The unit below another one, if it waits."""
        with self._lock:
            run = next((run for run in self._runs if run.begun and _is_below(item, run.items[0])), None)
            return None if run is None else self._take_first(run)

    def _take_first(self, run: _Run[T]) -> T:
        item = run.items.popleft()
        run.begun = True
        if not run.items:
            self._runs.remove(run)
        return item

    def _split(self, run: _Run[T]) -> T:
        """Take the unit in the middle of a run that another reader goes down."""
        upper = len(run.items) // 2
        below = _Run(deque(run.items.popleft() for _ in range(upper)), begun=True)
        if below.items:
            self._runs.insert(self._runs.index(run), below)
        return self._take_first(run)


def _is_below(above: HasUnit, item: HasUnit) -> bool:
    first, second = above.unit, item.unit
    same_column = (first.scene_id, first.level, first.index[1]) == (second.scene_id, second.level, second.index[1])
    return same_column and second.index[0] == first.index[0] + 1
