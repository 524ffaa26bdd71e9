"""Events of a run. Engines emit these values; showing them is up to the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from geosod.results import Execution, Failure, SceneResult


@dataclass(frozen=True, slots=True)
class Note:
    """A message; `important` ones are warnings."""

    text: str
    important: bool = False


@dataclass(frozen=True, slots=True)
class ScenePlanned:
    """A scene was opened and divided into `units` with `tiles` tiles."""

    scene_id: str
    units: int
    tiles: int
    megapixels: float


@dataclass(frozen=True, slots=True)
class Ready:
    """The first detector is loaded; `line` says how it runs and why."""

    execution: Execution
    line: str
    workers: int


@dataclass(frozen=True, slots=True)
class TilesDetected:
    """Tiles went through a detector and gave `boxes` raw boxes."""

    tiles: int
    boxes: int


@dataclass(frozen=True, slots=True)
class UnitSettled:
    """A unit is finished: `tiles` planned, of which `empty` held no valid pixel."""

    scene_id: str
    tiles: int
    empty: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Some ground, or a whole scene, failed."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class SceneFinished:
    """A scene is committed, skipped, or failed."""

    result: SceneResult


Event = Note | ScenePlanned | Ready | TilesDetected | UnitSettled | Failed | SceneFinished
Emit = Callable[[Event], None]
