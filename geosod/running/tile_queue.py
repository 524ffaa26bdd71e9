"""Tiles that wait for a detector, and the batches that are made of them, across units and scenes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, Self, TypeVar

from geosod.tile_size import TileSize


class Tiles(Protocol):
    """Tiles of one size."""

    @property
    def size(self) -> TileSize:
        """(width, height) of each in pixels."""
        ...

    def __len__(self) -> int: ...

    def part(self, start: int, stop: int) -> Self:
        """Some of the tiles."""
        ...


T = TypeVar("T", bound=Tiles)


class TileQueue(Generic[T]):
    """Tiles in the order in which they came.

    Args:
        group: tiles in a batch.
    """

    def __init__(self, group: int) -> None:
        self._group = group
        self._waiting: deque[T] = deque()

    def __len__(self) -> int:
        """Number of tiles."""
        return sum(map(len, self._waiting))

    def append(self, tiles: T) -> None:
        """Add tiles at the end."""
        self._waiting.append(tiles)

    def batch(self, *, more: bool, prefer: Callable[[T], bool] | None = None) -> list[T] | None:
        """Take tiles of one size for a batch; None if it is better to wait.

        A batch may be short where no more tiles come, or tiles of several sizes wait.

        Args:
            more: whether more tiles will come.
            prefer: which tiles to take first; None for the oldest.
        """
        if prefer is not None:
            self._waiting = deque(sorted(self._waiting, key=lambda tiles: not prefer(tiles)))
        size = size_to_fill(((tiles.size, len(tiles)) for tiles in self._waiting), self._group, more=more)
        if size is None:
            return None
        parts: list[T] = []
        others: list[T] = []
        room = self._group
        while room and self._waiting:
            first = self._waiting.popleft()
            if first.size != size:
                others.append(first)
                continue
            taken = min(room, len(first))
            parts.append(first.part(0, taken))
            if taken < len(first):
                self._waiting.appendleft(first.part(taken, len(first)))
            room -= taken
        self._waiting.extendleft(reversed(others))
        return parts


def size_to_fill(waiting: Iterable[tuple[TileSize, int]], group: int, *, more: bool) -> TileSize | None:
    """The size of the tiles for the next batch of `group`, or None if it is better to wait.

    Args:
        waiting: sizes and numbers of the tiles that wait, the oldest first.
        group: tiles in a batch, all of one size.
        more: whether more tiles will come.

    Returns:
        The first size that fills a batch; else that of the oldest tile, if no more come or two batches wait in all.
    """
    counts: Counter[TileSize] = Counter()
    for size, count in waiting:
        counts[size] += count
        if counts[size] >= group:
            return size
    return next(iter(counts), None) if not more or counts.total() >= 2 * group else None
