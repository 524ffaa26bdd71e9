"""Work in progress, as the driver keeps track of it: references, never pixels or boxes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from geosod.arrays import IntArray
from geosod.running.planning import ScenePlan
from geosod.running.unit_store import SceneUnits
from geosod.scene import Unit
from geosod.scenes.read import ReadSummary
from geosod.tile_size import TileSize


@dataclass(slots=True, eq=False)
class SceneInProgress:
    """A scene in progress: references to the summaries of its units, and to final and pending boxes of each node.

    `units` names its units where they are kept, and `kept` are references to why one could not be kept, or None.
    """

    plan: ScenePlan
    units: SceneUnits | None
    waiting: int
    kept: list[Any] = field(default_factory=list)
    summaries: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, tuple[Any, Any]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class UnitInProgress:
    """A unit in progress. It is finished when its summary has arrived and no tile is outstanding."""

    scene: SceneInProgress
    unit: Unit
    size: TileSize = (0, 0)
    summary: ReadSummary | None = None
    tiles: int = 0
    outstanding: int = 0
    outcomes: list[tuple[Any, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class TilesInProgress:
    """Tiles ``[start, stop)`` of a batch from a reader on some `node`, waiting for a detector or at one."""

    unit: UnitInProgress
    pixels: Any
    windows: IntArray
    start: int
    stop: int
    attempts: int = 0
    node: str = ""

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def size(self) -> TileSize:
        """(width, height) of each tile."""
        return self.unit.size

    def part(self, start: int, stop: int) -> TilesInProgress:
        """Some of the tiles."""
        return replace(self, start=self.start + start, stop=self.start + stop)


@dataclass(frozen=True, slots=True, eq=False)
class BatchInProgress:
    """A batch group: what one detector works on, numbered in the order in which groups are submitted."""

    detector: int
    outcomes: Any
    parts: list[TilesInProgress]
    number: int

    def __len__(self) -> int:
        return sum(map(len, self.parts))


def halves(parts: list[TilesInProgress]) -> tuple[list[TilesInProgress], list[TilesInProgress]]:
    """The tiles of a batch in two batches."""
    first, second = [], []
    room = sum(map(len, parts)) // 2
    for part in parts:
        taken = min(room, len(part))
        room -= taken
        first += [part.part(0, taken)] if taken else []
        second += [part.part(taken, len(part))] if taken < len(part) else []
    return first, second
