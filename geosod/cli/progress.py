"""Shows the events of `geosod detect`: messages, and the status of the run."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from geosod.cli.display import Display
from geosod.cli.status_line import Kind, Status, counted
from geosod.cli.summary import ENDINGS
from geosod.results import SceneResult
from geosod.running.events import (
    DetectorsStarted,
    Emit,
    Event,
    Failed,
    Note,
    Ready,
    SceneFinished,
    ScenePlanned,
    ScenesFound,
    TilesDetected,
    UnitSettled,
    Writing,
)

#: What differs between messages of one kind.
_NUMBERS = re.compile(r"[\d.,]+")
#: Failures of one scene and stage, and messages of one kind about several scenes, that are shown, unless verbose.
MAX_SHOWN = 3


@dataclass(slots=True)
class _ActiveScene:
    """A scene between planning and its end: tiles planned, detected, without valid pixels, and of finished units."""

    tiles: int
    megapixels: float
    detected: int = 0
    empty: int = 0
    settled: int = 0
    writing: bool = False

    @property
    def done(self) -> int:
        return min(self.tiles, max(self.detected + self.empty, self.settled))

    @property
    def fraction(self) -> float:
        return self.done / self.tiles if self.tiles else 1.0


class RunProgress:
    """Running totals of a run, from its events."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._scenes = self._ended = self._tiles_ended = 0
        self._megapixels_ended = 0.0
        self._active: dict[str, _ActiveScene] = {}
        self._detectors = DetectorsStarted(0, 0)
        self._planned: float | None = None
        self._ready: float | None = None

    def add(self, event: Event) -> None:
        """Count an event."""
        match event:
            case ScenesFound():
                self._scenes = event.scenes
            case ScenePlanned():
                self._planned = self._planned or self._now()
                self._active[event.scene_id] = _ActiveScene(event.tiles, event.megapixels)
            case DetectorsStarted():
                self._detectors = event
            case Ready():
                self._ready = self._now()
            case SceneFinished():
                self._end(event.result)
            case TilesDetected():
                for scene_id, tiles in event.by_scene.items():
                    self._active[scene_id].detected += tiles
            case UnitSettled():
                scene = self._active[event.scene_id]
                scene.empty += event.tiles if event.before else event.empty
                scene.settled += event.tiles
            case Writing():
                self._active[event.scene_id].writing = True
            case _:
                pass

    @property
    def seconds_starting(self) -> float:
        """Seconds from the first planned scene to the first detector that is ready."""
        return 0.0 if self._ready is None or self._planned is None else self._ready - self._planned

    def _end(self, result: SceneResult) -> None:
        self._ended += 1
        scene = self._active.pop(result.scene_id, None)
        if scene is not None:
            self._tiles_ended += scene.tiles
            self._megapixels_ended += scene.megapixels

    def status(self) -> Status:
        """What the run is doing. Every scene has the same share of it, so that the fraction never falls."""
        active = list(self._active.values())
        fraction = math.fsum([self._ended, *(scene.fraction for scene in active)]) / max(1, self._scenes)
        phase = self._phase(active)
        if phase == "starting detectors":
            return Status(phase, None, self._loaded())
        details = (*self._of_scenes(), *self._speed(active), *self._of_tiles(active), *self._loaded())
        return Status(phase, fraction if self._ready is not None and fraction < 1 else None, details)

    def _phase(self, active: list[_ActiveScene]) -> str:
        if not active:
            return "opening scenes" if self._ended < self._scenes or not self._scenes else "finishing"
        if self._ready is None:
            return "starting detectors"
        if any(scene.done < scene.tiles for scene in active):
            return "detecting"
        return "writing" if all(scene.writing for scene in active) else "merging"

    def _of_scenes(self) -> tuple[tuple[str, ...], ...]:
        if self._scenes < 2:
            return ()
        count = f"{self._ended:,} of {self._scenes:,} scenes"
        return ((f"{count} finished", count, f"{self._ended}/{self._scenes} scenes"),)

    def _of_tiles(self, active: list[_ActiveScene]) -> tuple[tuple[str, ...], ...]:
        done = self._tiles_ended + sum(scene.done for scene in active)
        if not done:
            return ()
        if self._scenes < 2:
            return ((f"{done:,} of {self._tiles_ended + sum(scene.tiles for scene in active):,} tiles",),)
        return ((counted(done, "tile"),),)

    def _speed(self, active: list[_ActiveScene]) -> tuple[tuple[str, ...], ...]:
        megapixels = self._megapixels_ended + sum(scene.fraction * scene.megapixels for scene in active)
        if self._ready is None or not megapixels:
            return ()
        return ((f"{megapixels / max(1e-3, self._now() - self._ready):.1f} Mpx/s",),)

    def _loaded(self) -> tuple[tuple[str, ...], ...]:
        d = self._detectors
        if d.workers < 2 or d.ready == d.workers:
            return ()
        return ((f"{d.ready} of {d.workers} detectors ready", f"{d.ready} of {d.workers} ready"),)


def show_run(display: Display, *, verbose: bool = False, now: Callable[[], float] = time.monotonic) -> Emit:
    """A callback for the events of a run, which shows them on a display."""
    progress = RunProgress(now)
    shown: Counter[str] = Counter()

    def emit(event: Event) -> None:
        progress.add(event)
        if isinstance(event, Failed):
            _say_failed(display, event, shown, verbose=verbose)
        elif isinstance(event, Note) and event.important:
            kind = _NUMBERS.sub("", event.text.partition(": ")[2] or event.text)
            text = f"note: {event.text}"
            _say_some(display, text, "warning", shown, kind, "note: the same of more scenes", verbose=verbose)
        else:
            _say(display, event, verbose=verbose, seconds=progress.seconds_starting)
        display.update(progress.status())

    return emit


def _say(display: Display, event: Event, *, verbose: bool, seconds: float) -> None:
    match event:
        case Note():
            display.say(event.text)
        case Ready(workers=n):
            display.say(f"{n} detector(s), the first ready after {seconds:.0f} s: {event.line}", "detail")
        case SceneFinished(result=r) if _worth_a_line(r, verbose=verbose):
            display.say(f"{r.scene_id}: {ENDINGS[r.status]}, {r.detections:,} detections")
        case _:
            pass


def _worth_a_line(result: SceneResult, *, verbose: bool) -> bool:
    """Failures have lines of their own; scenes that were skipped, or lie outside the AOI, are shown with -v."""
    searched = result.status != "skipped" and (result.counts.tiles > 0 or result.detections > 0)
    return result.status != "failed" and (verbose or searched)


def _say_failed(display: Display, event: Failed, shown: Counter[str], *, verbose: bool) -> None:
    """Show only the first failures of a scene, since one bad block may cost hundreds of windows, and of a kind."""
    f = event.failure
    ground = f" at column {f.window.col}, row {f.window.row}" if f.window else ""
    where = "" if f.uri in f.message else f"{f.uri}{ground}: "
    text = f"failed ({f.stage}): {where}{f.message}"
    if f.window is None:
        kind = f"{f.stage} {f.message.replace(f.uri, '').replace(f.scene_id, '')}"
        more = "failed: more scenes, for the same reason"
    else:
        kind, more = f"{f.stage} {f.uri}", f"failed: more ground of {f.uri}; failures.parquet lists all"
    _say_some(display, text, "error", shown, kind, more, verbose=verbose)


def _say_some(
    display: Display, text: str, style: Kind, shown: Counter[str], kind: str, more: str, *, verbose: bool
) -> None:
    """Print the first messages of a kind, then once that there are more."""
    shown[kind] += 1
    if verbose or shown[kind] <= MAX_SHOWN:
        display.say(text, style)
    elif shown[kind] == MAX_SHOWN + 1:
        display.say(f"{more} (-v shows all)", style)
