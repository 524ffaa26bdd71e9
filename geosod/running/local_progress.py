"""Work in progress in the local engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from geosod.running.planning import Level, ScenePlan
from geosod.running.stages import TileOutcome
from geosod.running.unit_store import SceneUnits, UnitRecord
from geosod.scene import Scene, TileBatch, Unit
from geosod.scenes.read import ReadSummary
from geosod.tile_size import TileSize


@dataclass(slots=True, eq=False)
class SceneInProgress:
    """A scene in progress, of which `waiting` units are not settled; `units` names them where they are kept."""

    plan: ScenePlan
    units: SceneUnits | None
    waiting: int
    error: Exception | None = None
    records: dict[str, UnitRecord] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class UnitInProgress:
    """A unit in progress. It is finished when its summary has arrived and no tile is outstanding."""

    scene: SceneInProgress
    unit: Unit
    summary: ReadSummary | None = None
    tiles: int = 0
    outstanding: int = 0
    outcomes: list[TileOutcome] = field(default_factory=list)

    @property
    def level(self) -> Level:
        """The unit's level."""
        return self.scene.plan.level(self.unit)

    @property
    def level_scene(self) -> Scene:
        """The scene at that level."""
        return self.level.scene


@dataclass(frozen=True, slots=True, eq=False)
class TilesInProgress:
    """Tiles of a unit that wait for a detector."""

    unit: UnitInProgress
    batch: TileBatch

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def size(self) -> TileSize:
        """(width, height) of each tile."""
        height, width = self.batch.pixels.shape[2:]
        return width, height

    def part(self, start: int, stop: int) -> TilesInProgress:
        """Some of the tiles."""
        return TilesInProgress(self.unit, self.batch[start:stop])


@dataclass(slots=True, eq=False)
class BatchInProgress:
    """Tiles for one call of a detector, which began with them at a time of `time.monotonic`, or has not yet."""

    parts: list[TilesInProgress]
    began: float | None = None
