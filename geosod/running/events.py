"""Events of a run. Engines emit these values; showing them is up to the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from geosod.results import Execution, Failure, SceneResult


@dataclass(frozen=True, slots=True)
class Note:
    """A message; `important` ones are warnings."""

    text: str
    important: bool = False


@dataclass(frozen=True, slots=True)
class ScenesFound:
    """The run has this many scenes; each of them ends with a `SceneFinished`."""

    scenes: int


@dataclass(frozen=True, slots=True)
class ScenePlanned:
    """A scene was opened and divided into `units` with `tiles` tiles."""

    scene_id: str
    units: int
    tiles: int
    megapixels: float


@dataclass(frozen=True, slots=True)
class DetectorsStarted:
    """`ready` of `workers` detectors are loaded; emitted whenever either number changes."""

    ready: int
    workers: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The first detector is loaded; `line` says how it runs and why."""

    execution: Execution
    line: str
    workers: int


@dataclass(frozen=True, slots=True)
class TilesRead:
    """A reader has passed on `tiles` tiles with `bytes` bytes of pixels (engine ray)."""

    tiles: int
    bytes: int


@dataclass(frozen=True, slots=True)
class BatchEnded:
    """A detector has finished `tiles` tiles, where `room` would have fitted, in `seconds` of computing (engine ray)."""

    tiles: int
    room: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Queued:
    """What is waiting or in progress at this moment, numbers by kind (engine ray)."""

    lengths: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Retried:
    """Something was lost and is done again: "read", "detect" or "load" (engine ray)."""

    stage: str


@dataclass(frozen=True, slots=True)
class TilesDetected:
    """Tiles of these scenes, numbers by identifier, went through a detector and gave `boxes` raw boxes."""

    by_scene: Mapping[str, int]
    boxes: int

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return sum(self.by_scene.values())


@dataclass(frozen=True, slots=True)
class UnitSettled:
    """A unit is finished: `tiles` planned, of which `empty` held no valid pixel; `before`: by an earlier run."""

    scene_id: str
    tiles: int
    empty: int
    before: bool = False


@dataclass(frozen=True, slots=True)
class Writing:
    """A scene is merged, and its files are being written."""

    scene_id: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Some ground, or a whole scene, failed."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class SceneFinished:
    """A scene is committed, skipped, or failed."""

    result: SceneResult


Event = (
    Note
    | ScenesFound
    | ScenePlanned
    | DetectorsStarted
    | Ready
    | TilesRead
    | BatchEnded
    | Queued
    | Retried
    | TilesDetected
    | UnitSettled
    | Writing
    | Failed
    | SceneFinished
)
Emit = Callable[[Event], None]
