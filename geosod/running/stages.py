"""The stages of a scene as functions of values. An engine decides only where and when each is called.

plan_scene (in `planning`) → read_tiles → detect_tiles → settle_unit → merge_group … → finish_scene (in `finish`)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from geosod.arrays import FloatArray, IntArray
from geosod.detections import EXCLUDED, SIDES, Detections
from geosod.errors import ChangedError, GeosodError
from geosod.merging.components import Settled, merge_group, settle
from geosod.merging.rule import MergeRule
from geosod.results import FAILED, Coverage, Failure, SceneResult
from geosod.running.job import Job
from geosod.running.planning import Level, ScenePlan
from geosod.scene import Scene, TileBatch, Unit, Window
from geosod.scenes.read import ReadSpec, ReadSummary, read_unit

if TYPE_CHECKING:
    from geosod.detectors.base import Detector

#: Side of a coverage cell in pixels.
COVERAGE_CELL = 32


@dataclass(frozen=True, slots=True)
class TileOutcome:
    """What a detector made of some tiles of one unit.

    Attributes:
        detections: raw boxes, scene frame.
        capped: tiles that reached the model's `top_k`.
        degenerate: boxes without area or with coordinates or scores that are not finite, which are left out.
        failed: windows the detector could not process, each with the error's class and message.
    """

    detections: Detections
    capped: int = 0
    degenerate: int = 0
    failed: tuple[tuple[Window, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class UnitSummary:
    """What became of a unit, without its boxes."""

    tiles: int
    empty: int
    raw: int
    pending: int
    capped: int
    degenerate: int
    coverage: Coverage
    failures: tuple[Failure, ...]


def read_spec(job: Job, plan: ScenePlan, chunk: int) -> ReadSpec:
    """How to read the units of a scene, in batches of at most `chunk` tiles."""
    c = job.config
    return ReadSpec(plan.bands, job.tile, chunk, COVERAGE_CELL, c.read_threads, c.cache_mb, limits=plan.limits)


def read_tiles(scene: Scene, unit: Unit, spec: ReadSpec) -> Iterator[TileBatch | ReadSummary]:
    """`read_unit`, with a file that fails altogether told in the summary instead of raised."""
    handed_on = 0
    try:
        for item in read_unit(scene, unit, spec):
            handed_on += len(item) if isinstance(item, TileBatch) else 0
            yield item
    except GeosodError as error:
        yield lost_unit(scene, unit, error, handed_on)


def lost_unit(scene: Scene, unit: Unit, error: Exception, tiles: int) -> ReadSummary:
    """The summary of a unit whose reading broke off after `tiles` tiles: all its ground counts as failed."""
    line = " ".join(str(error).split())
    failure = Failure(scene.id, scene.ref.uri, unit.read_window, "read", type(error).__name__, line)
    coverage = Coverage.of_window(unit.read_window, COVERAGE_CELL)
    for window in unit.windows:
        coverage.update(Coverage.of_window(window, COVERAGE_CELL, FAILED))
    return ReadSummary(tiles, 0, coverage, (failure,))


def detect_tiles(detector: Detector, parts: Sequence[TileBatch]) -> list[TileOutcome]:
    """Detect on several units' tiles in one go; one outcome for each part, in order.

    Boxes that nothing can be made of are left out and counted.
    When a batch fails its tiles are tried one by one, so that one bad tile costs only its own ground.
    """
    try:
        found = detector.detect(TileBatch.concat(parts))
    except Exception:
        return [_one_by_one(detector, part) for part in parts]
    ends = np.cumsum([len(part) for part in parts])
    tiles = [found[end - len(part) : end] for part, end in zip(parts, ends, strict=True)]
    return [_outcome(detector, t) for t in tiles]


def failed_outcome(windows: IntArray, error: Exception) -> TileOutcome:
    """The outcome of tiles whose detector was lost for good."""
    line = " ".join(str(error).split())[:500]
    lost = tuple((_window(row), type(error).__name__, line) for row in windows)
    return TileOutcome(Detections.empty(), failed=lost)


def settle_unit(
    rule: MergeRule, level: Level, unit: Unit, read: ReadSummary, outcomes: Sequence[TileOutcome]
) -> tuple[Settled, UnitSummary]:
    """Merge what no other unit can touch, and add up what became of the unit; all in the frame of its level."""
    scene = level.scene
    # What was found in pixels of two files at once is nothing.
    mixed = any(failure.error == ChangedError.__name__ for failure in read.failures)
    raw = _of_level(
        Detections.concat([] if mixed else [outcome.detections for outcome in outcomes]), level, borders=rule.borders
    )
    settled = settle(raw, unit.core, rule)
    failures = list(read.failures)
    for outcome in outcomes:
        for window, error, message in outcome.failed:
            failures.append(Failure(scene.id, scene.ref.uri, window, "detect", error, message))
            read.coverage.update(Coverage.of_window(window, read.coverage.cell, FAILED))
    capped, degenerate = sum(outcome.capped for outcome in outcomes), sum(outcome.degenerate for outcome in outcomes)
    told = tuple(replace(failure, window=_in_file(failure.window, scene)) for failure in failures)
    counts = len(unit.windows), read.empty, len(raw), len(settled.pending), capped, degenerate
    summary = UnitSummary(*counts, read.coverage, told)
    return settled, summary


def _of_level(raw: Detections, level: Level, *, borders: bool) -> Detections:
    """The boxes of sizes that a level may report, and what it takes to put pieces together; its scale beside them."""
    fits, (low, high) = raw, level.sizes
    if level.sizes != (0, math.inf):
        piece, side = raw.fragment & SIDES > 0, _sides(raw)
        if borders:
            # A larger object is another level's, but what is a piece of it is not an object of this one.
            raw = raw.with_columns(fragment=np.where((side > high) & ~piece, np.uint8(EXCLUDED), raw.fragment))
            fits = raw[np.flatnonzero((side >= low) | piece)]
        else:
            fits = raw[np.flatnonzero((side >= low) & (side <= high))]
    return fits.with_columns(level=np.full(len(fits), level.scale, np.float32))


def _sides(detections: Detections) -> FloatArray:
    """(N,) float64, √area."""
    width, height = (detections.boxes[:, 2:] - detections.boxes[:, :2]).T
    return np.asarray(np.sqrt(width * height))


def _in_file(window: Window | None, scene: Scene) -> Window | None:
    """A window of a resampled scene in the pixels of its file."""
    if window is None or scene.scale == (1, 1):
        return window
    return _scaled(window, scene.scale)


def _scaled(window: Window, pixels: Sequence[float]) -> Window:
    """The least window of a frame of which one pixel is `pixels` along x and y that holds a window."""
    # Rounding must not push an edge that falls on a pixel's into the next.
    left, top = (math.floor(v / s + 1e-6) for v, s in zip((window.col, window.row), pixels, strict=True))
    right, bottom = (math.ceil(v / s - 1e-6) for v, s in zip((window.right, window.bottom), pixels, strict=True))
    return Window(left, top, max(1, right - left), max(1, bottom - top))


def merge_levels(plan: ScenePlan, detections: Detections, rule: MergeRule) -> Detections:
    """The merged boxes of every level, brought to the scene frame and merged with each other.

    Args:
        plan: the scene.
        detections: merged boxes of all levels, each in the frame of its own, which the column `level` tells.
        rule: how to merge. Scores that soft_nms lowered inside a level are not lowered again: between levels it is
            plain suppression.
    """
    fits, boxes = np.ones(len(detections), np.bool_), detections.boxes.copy()
    scales = np.array([level.scale for level in plan.levels])
    of = np.abs(detections.level[:, None] - scales).argmin(axis=1)
    side = _sides(detections)
    for k, level in enumerate(plan.levels):
        # What pieces came to has a size only now.
        low, high = level.sizes
        fits &= (of != k) | ((side >= low) & (side <= high))
        boxes[of == k] /= np.tile(plan.frame(level), 2)
    some = detections if fits.all() else detections[np.flatnonzero(fits)]
    if len(plan.levels) == 1:
        return some
    rule = replace(rule, method="nms") if rule.method == "soft_nms" else rule
    return merge_group([some.with_columns(boxes=boxes[fits])], plan.scene.window, rule, whole=True).final


def failed_result(scene: Scene, error: Exception) -> SceneResult:
    """The result of a scene that was worked through, but could not be merged or written."""
    message = " ".join(str(error).split())
    failure = Failure(scene.id, scene.ref.uri, None, "write", type(error).__name__, message)
    return SceneResult(scene.id, scene.ref.uri, "failed", failures=(failure,), megapixels=scene.megapixels)


def scene_coverage(plan: ScenePlan, summaries: Iterable[UnitSummary]) -> Coverage:
    """What became of the ground of a whole scene.

    The finest level tells; where a coarser one failed, large objects were not looked for, so that counts too.

    Args:
        plan: the scene.
        summaries: those of its units, in their order.
    """
    coverage = Coverage.of_window(plan.scene.window, COVERAGE_CELL)
    for unit, summary in zip(plan.units, summaries, strict=True):
        if unit.level == 1:
            coverage.update(summary.coverage)
            continue
        part = summary.coverage
        for row, col in np.argwhere(part.codes == FAILED).tolist():
            cell = Window((part.col + col) * part.cell, (part.row + row) * part.cell, part.cell, part.cell)
            lost = _scaled(cell, plan.frame(plan.level(unit)).tolist()).intersection(plan.scene.window)
            if lost is not None:
                coverage.update(Coverage.of_window(lost, COVERAGE_CELL, FAILED))
    return coverage


def inside_area(plan: ScenePlan, detections: Detections) -> Detections:
    """Only the boxes whose centre lies in the AOI, so that AOIs which share an edge share out the boxes."""
    if plan.area is None or not len(detections):
        return detections
    import shapely

    shapely.prepare(plan.area)
    x0, y0, x1, y1 = detections.boxes.T
    return detections[np.flatnonzero(shapely.intersects_xy(plan.area, (x0 + x1) / 2, (y0 + y1) / 2))]


def _one_by_one(detector: Detector, part: TileBatch) -> TileOutcome:
    outcomes = []
    for i in range(len(part)):
        tile = part[i : i + 1]
        try:
            found = detector.detect(tile)
            outcomes.append(_outcome(detector, found))
        except Exception as error:
            outcomes.append(failed_outcome(tile.windows, error))
    return TileOutcome(
        Detections.concat(o.detections for o in outcomes),
        sum(o.capped for o in outcomes),
        sum(o.degenerate for o in outcomes),
        tuple(lost for o in outcomes for lost in o.failed),
    )


def _outcome(detector: Detector, tiles: Sequence[Detections]) -> TileOutcome:
    found = Detections.concat(tiles)
    usable = np.isfinite(found.boxes).all(axis=1) & np.isfinite(found.scores)
    usable &= (found.boxes[:, 2:] > found.boxes[:, :2]).all(axis=1)
    ends = np.cumsum([len(tile) for tile in tiles])
    capped = sum(int(part.sum()) >= detector.card.top_k for part in np.split(usable, ends[:-1]))
    kept = found if usable.all() else found[np.flatnonzero(usable)]
    return TileOutcome(kept, capped, len(found) - len(kept))


def _window(row: IntArray) -> Window:
    col, top, width, height = (int(v) for v in row)
    return Window(col, top, width, height)
