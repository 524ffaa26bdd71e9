"""Threads that read units, each down a column of them, and hand over tiles while there is room for more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from geosod.errors import EngineError
from geosod.running.stages import read_tiles
from geosod.running.threads import Threads
from geosod.running.unit_queue import HasUnit, UnitQueue
from geosod.scene import Scene, TileBatch, Unit
from geosod.scenes.read import ReadSpec, ReadSummary


class Room:
    """A bound on tiles that wait, which readers wait for."""

    def __init__(self, limit: int) -> None:
        self._limit, self._waiting, self.closed = limit, 0, False
        self._changed = threading.Condition()

    def add(self, tiles: int) -> None:
        """Count tiles that begin to wait."""
        with self._changed:
            self._waiting += tiles

    def remove(self, tiles: int) -> None:
        """Count tiles that wait no more."""
        with self._changed:
            self._waiting -= tiles
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until fewer tiles wait than the limit.

        Raises:
            EngineError: the room was closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.closed or self._waiting < self._limit)
        if self.closed:
            raise EngineError("the run was stopped")

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()


class InProgress(HasUnit, Protocol):
    """A unit in progress."""

    @property
    def level_scene(self) -> Scene:
        """The unit's scene at the unit's level."""
        ...


T = TypeVar("T", bound=InProgress)


class Readers(Generic[T]):
    """Reads the units of a queue.

    Args:
        threads: has a group "read".
        room: for the tiles that are handed over.
        spec: how to read a unit.
        on_batch: takes a batch of a unit.
        on_unit: takes a unit's summary, which comes after its last batch, or what reading it raised.

    `on_batch` and `on_unit` are called in the calling thread of `threads`.
    """

    def __init__(
        self,
        threads: Threads[Any],
        room: Room,
        *,
        spec: Callable[[T], ReadSpec],
        on_batch: Callable[[T, TileBatch], None],
        on_unit: Callable[[T, ReadSummary | Exception], None],
    ) -> None:
        self._threads, self._room, self._spec = threads, room, spec
        self._on_batch, self._on_unit = on_batch, on_unit
        self.units: UnitQueue[T] = UnitQueue()
        #: Number of threads that read.
        self.running = 0

    def start(self) -> bool:
        """Let another thread begin with a unit; False where none waits."""
        unit = self.units.take()
        if unit is None:
            return False
        self.running += 1
        self._threads.start("read", partial(self._read, unit), self._end)
        return True

    def _read(self, unit: T) -> None:
        """Read a unit, and those below it that no other reader takes first."""

        def column() -> Iterator[Unit]:
            nonlocal unit
            yield unit.unit
            while not self._room.closed and (below := self.units.take_below(unit)) is not None:
                unit = below
                yield unit.unit

        done = False
        try:
            for item in read_tiles(unit.level_scene, column(), self._spec(unit)):
                done = isinstance(item, ReadSummary)
                if isinstance(item, ReadSummary):
                    self._threads.say(partial(self._on_unit, unit, item))
                    continue
                self._room.add(len(item))
                self._threads.say(partial(self._on_batch, unit, item))
                self._room.wait()
        except Exception as error:
            if done:
                raise
            self._threads.say(partial(self._on_unit, unit, error))

    def _end(self, ended: Exception | None) -> None:
        self.running -= 1
        if isinstance(ended, Exception):
            raise ended
