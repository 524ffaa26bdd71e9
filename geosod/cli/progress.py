"""Progress of a run: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from geosod.running.destination import recorded
from geosod.running.events import (
    Emit,
    Event,
    Failed,
    Note,
    Ready,
    SceneFinished,
    ScenePlanned,
    TilesDetected,
    UnitSettled,
)
from geosod.running.result import Result

#: Failures of one scene and stage that are shown one by one, unless verbose.
MAX_FAILURES = 3
#: Seconds between progress lines where there is no terminal.
LINE_EVERY = 10.0


@dataclass(slots=True)
class _Tally:
    """Running totals of a run."""

    scenes: int = 0
    scenes_done: int = 0
    units: int = 0
    units_done: int = 0
    tiles: int = 0
    tiles_done: int = 0
    boxes: int = 0
    megapixels: float = 0.0
    started: float = field(default_factory=time.monotonic)
    ready: float | None = None

    def add(self, event: Event) -> None:
        match event:
            case ScenePlanned():
                self.scenes += 1
                self.units += event.units
                self.tiles += event.tiles
                self.megapixels += event.megapixels
            case Ready():
                self.ready = time.monotonic()
            case TilesDetected():
                self.tiles_done += event.tiles
                self.boxes += event.boxes
            case UnitSettled():
                self.units_done += 1
                self.tiles_done += event.empty
            case SceneFinished():
                self.scenes_done += event.result.status in ("done", "partial")
            case _:
                pass

    def line(self) -> str:
        seconds = max(1e-3, time.monotonic() - (self.ready or self.started))
        share = self.tiles_done / self.tiles if self.tiles else 0.0
        speed = f"{self.tiles_done / seconds:.1f} tiles/s, {share * self.megapixels / seconds:.1f} Mpx/s"
        return (
            f"scenes {self.scenes_done}/{self.scenes}  units {self.units_done}/{self.units}  "
            f"tiles {self.tiles_done}/{self.tiles}  {speed}  {self.boxes:,} raw boxes"
        )


@contextmanager
def reporter(*, quiet: bool = False, verbose: bool = False) -> Iterator[Emit]:
    """Shows events on standard error: as bars on a terminal, else as lines."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if quiet:
        yield _grouped(lambda event: _say(console, event, quiet=True, verbose=False), verbose)
    elif console.is_terminal:
        with _bars(console) as progress:
            yield _grouped(_on_terminal(progress, verbose), verbose)
    else:
        yield _grouped(_as_lines(console, verbose), verbose)


def _grouped(emit: Emit, verbose: bool) -> Emit:
    """Show only the first failures of a scene: one bad block may cost hundreds of windows."""
    counts: Counter[tuple[str, str]] = Counter()

    def limited(event: Event) -> None:
        if isinstance(event, Failed) and not verbose:
            failure = event.failure
            counts[failure.uri, failure.stage] += 1
            if counts[failure.uri, failure.stage] == MAX_FAILURES + 1:
                emit(Note(f"{failure.uri}: more of its ground failed; failures.parquet lists all", important=True))
            if counts[failure.uri, failure.stage] > MAX_FAILURES:
                return
        emit(event)

    return limited


def _say(console: Console, event: Event, *, quiet: bool, verbose: bool) -> None:
    match event:
        case Failed(failure=f):
            ground = f" at column {f.window.col}, row {f.window.row}" if f.window else ""
            where = "" if f.uri in f.message else f"{f.uri}{ground}: "
            console.print(f"failed ({f.stage}): {where}{f.message}", style="red", markup=False)
        case Note(important=True):
            console.print(f"note: {event.text}", style="yellow", markup=False)
        case _ if quiet:
            pass
        case Note():
            console.print(event.text, markup=False)
        case Ready():
            console.print(f"{event.workers} detector(s): {event.line}", style="dim", markup=False)
        case SceneFinished(result=r) if r.status in ("done", "partial") or (verbose and r.status == "skipped"):
            console.print(f"{r.scene_id}: {r.status}, {r.detections:,} detections", markup=False)
        case _:
            pass


def _as_lines(console: Console, verbose: bool) -> Emit:
    tally = _Tally()
    last = time.monotonic()

    def emit(event: Event) -> None:
        nonlocal last
        tally.add(event)
        _say(console, event, quiet=False, verbose=verbose)
        if time.monotonic() - last >= LINE_EVERY:
            last = time.monotonic()
            console.print(tally.line(), markup=False)

    return emit


def _bars(console: Console) -> Progress:
    columns: list[Any] = [BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(), TextColumn("left")]
    columns += [TimeRemainingColumn(), TextColumn("{task.description}")]
    return Progress(*columns, console=console)


def _on_terminal(progress: Progress, verbose: bool) -> Emit:
    tally = _Tally()
    task = progress.add_task("loading", total=None)

    def emit(event: Event) -> None:
        tally.add(event)
        _say(progress.console, event, quiet=False, verbose=verbose)
        progress.update(task, total=tally.tiles or None, completed=tally.tiles_done, description=tally.line())

    return emit


def summary(result: Result) -> str:
    """The closing lines of a run."""
    counts = dict.fromkeys(("done", "partial", "failed", "skipped"), 0)
    for scene in result.scenes:
        counts[scene.status] += 1
    scenes = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    speed = result.megapixels / result.seconds if result.seconds else 0.0
    of_scenes = [scene.counts for scene in result.scenes]
    capped, degenerate = sum(c.capped_tiles for c in of_scenes), sum(c.degenerate for c in of_scenes)
    lines = [f"{result.detections:,} detections in this run  (scenes: {scenes or 'none'})"]
    if result.total is not None:
        lines.append(f"{result.total:,} detections in {result.out}")
    if result.megapixels:
        lines.append(f"{result.megapixels:,.4g} Mpx in {result.seconds:.1f} s: {speed:.3g} Mpx/s")
    if degenerate:
        lines.append(f"{degenerate} degenerate boxes (no area, or values that are not finite) were left out")
    if capped:
        lines.append(f"{capped} tiles reached the model's limit of boxes a tile; objects there may be missing")
    if result.failures:
        count = len(result.failures)
        listed = ", listed in failures.parquet" if any(recorded(failure.error) for failure in result.failures) else ""
        lines.append(f"{count} failure{'s' if count > 1 else ''}{listed}")
    return "\n".join(lines)
