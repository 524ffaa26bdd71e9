"""The stages of a scene as functions of values. An engine decides only where and when each is called.

plan_scene (in `planning`) → read_tiles → detect_tiles → settle_unit → merge_group … → assemble_scene (in `assemble`)

No stage changes its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from geosod.arrays import FloatArray, IntArray
from geosod.detections import EXCLUDED, SIDES, Detections
from geosod.errors import ChangedError, GeosodError, one_line
from geosod.merging.components import Settled, merge_group, settle
from geosod.merging.rule import MergeRule
from geosod.results import FAILED, Coverage, Failure
from geosod.running.job import Job
from geosod.running.planning import Level, ScenePlan
from geosod.scene import Scene, TileBatch, Unit, Window
from geosod.scenes.read import ReadSpec, ReadSummary, UnitReader
from geosod.tile_size import STRIDE, TileSize

if TYPE_CHECKING:
    from geosod.detectors.detector import Detector
    from geosod.detectors.postprocess import BatchDetections

#: Side of a coverage cell in pixels.
COVERAGE_CELL = 32
#: Characters of a foreign error that are kept.
_MAX_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class TileOutcome:
    """What a detector found in some tiles of one unit.

    Attributes:
        detections: raw boxes, scene frame.
        capped: tiles that reached the model's `top_k`.
        degenerate: boxes without area, or with a coordinate or score that is not finite; left out.
        reduced: tiles that went through the network in smaller batches, since memory did not hold one.
        failed: windows the detector could not process, each with the error's class and message.
    """

    detections: Detections
    capped: int = 0
    degenerate: int = 0
    reduced: int = 0
    failed: tuple[tuple[Window, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class UnitSummary:
    """What became of a unit, without its boxes.

    Attributes:
        tiles: tiles planned, of which `empty` held no valid pixel.
        raw: boxes before merging, of which `pending` are not final.
        capped: tiles that reached the model's `top_k`.
        degenerate: boxes that were left out.
        reduced: tiles that went through the network in smaller batches.
        coverage: of the unit's ground.
        failures: what could not be read or processed.
    """

    tiles: int
    empty: int
    raw: int
    pending: int
    capped: int
    degenerate: int
    reduced: int
    coverage: Coverage
    failures: tuple[Failure, ...]


def input_size(job: Job, scene: Scene, backend: str) -> TileSize:
    """(width, height) in pixels of the network's input for tiles of a scene, a level of the scene that was given.

    Along an axis where the scene is smaller than a tile, the next multiple of 32, if the network takes any size, and is
    not compiled for one. It depends on nothing else, so what is found does not either.
    """
    if not job.model.any_size or backend == "compile":
        return job.tile
    sides = zip(job.tile, (scene.width, scene.height), strict=True)
    width, height = (min(tile, -(-side // STRIDE) * STRIDE) for tile, side in sides)
    return width, height


def read_spec(job: Job, plan: ScenePlan, scene: Scene, backend: str, chunk: int) -> ReadSpec:
    """How to read the units of a level of a scene, in batches of at most `chunk` tiles."""
    c, tile = job.config, input_size(job, scene, backend)
    return ReadSpec(plan.bands, tile, chunk, COVERAGE_CELL, c.read_threads, c.cache_mb, limits=plan.limits)


def read_tiles(scene: Scene, units: Iterable[Unit], spec: ReadSpec) -> Generator[TileBatch | ReadSummary, None, None]:
    """The batches and the summary of each unit in turn; blocks across a unit and the next one below are decoded once.

    A file that fails altogether is reported in the summary instead of raised.
    """
    reader = UnitReader(scene, spec)
    try:
        for unit in units:
            read = 0
            try:
                for item in reader.read(unit):
                    read += len(item) if isinstance(item, TileBatch) else 0
                    yield item
            except GeosodError as error:
                reader.close()
                reader = UnitReader(scene, spec)
                yield failed_read(scene, unit, error, read)
    finally:
        reader.close()


def failed_read(scene: Scene, unit: Unit, error: Exception, tiles: int) -> ReadSummary:
    """The summary of a unit whose reading failed after `tiles` tiles: all its ground counts as failed."""
    failure = Failure(scene.id, scene.ref.uri, unit.read_window, "read", type(error).__name__, one_line(error))
    coverage = Coverage.of_window(unit.read_window, COVERAGE_CELL)
    for window in unit.windows:
        coverage.update(Coverage.of_window(window, COVERAGE_CELL, FAILED))
    return ReadSummary(tiles, 0, coverage, (failure,))


def detect_tiles(detector: Detector, parts: Sequence[TileBatch]) -> tuple[list[TileOutcome], str | None]:
    """Detect on several units' tiles at once.

    When a batch fails its tiles are tried one by one, so that one bad tile costs only its own ground. Where the device
    has no memory for a batch, smaller ones are tried.

    Returns:
        One outcome for each part, in order; and why the batch failed, or None.
    """
    try:
        found = detector.detect_batch(TileBatch.concat(parts))
    except MemoryError as error:
        text = f"memory does not hold a batch of {detector.execution.batch} tiles"
        smaller = detector.with_half_the_batch()
        if smaller is None:
            cause = MemoryError(f"{text} ({one_line(error)[:_MAX_MESSAGE]}); use a smaller --batch or --tile")
            return [failed_outcome(part.windows, cause) for part in parts], str(cause)
        outcomes, reason = detect_tiles(smaller, parts)
        reduced = [replace(o, reduced=len(part)) for o, part in zip(outcomes, parts, strict=True)]
        return reduced, reason or f"{text}; smaller ones are tried"
    except Exception as error:
        tiles = sum(map(len, parts))
        reason = f"a batch of {tiles} tiles failed ({type(error).__name__}: {one_line(error)[:_MAX_MESSAGE]})"
        return [_one_by_one(detector, part) for part in parts], f"{reason}; its tiles are tried one by one"
    ends = np.cumsum([len(part) for part in parts])
    return [_outcome(found, int(end) - len(part), int(end)) for part, end in zip(parts, ends, strict=True)], None


def failed_outcome(windows: IntArray, error: Exception) -> TileOutcome:
    """The outcome of tiles that no detector could process."""
    message = one_line(error)[:_MAX_MESSAGE]
    failed = tuple((Window(*map(int, row)), type(error).__name__, message) for row in windows)
    return TileOutcome(Detections.empty(), failed=failed)


def settle_unit(
    rule: MergeRule, level: Level, unit: Unit, read: ReadSummary, outcomes: Sequence[TileOutcome]
) -> tuple[Settled, UnitSummary]:
    """Merge the boxes that no other unit can affect, and summarise the unit; all in the frame of its level."""
    scene = level.scene
    # Boxes found in pixels of two versions of a file are wrong.
    changed = any(failure.error == ChangedError.__name__ for failure in read.failures)
    found = Detections.concat([] if changed else [outcome.detections for outcome in outcomes])
    raw = _of_level(found, level, borders=rule.borders)
    settled = settle(raw, unit.core, rule)
    failures, coverage = list(read.failures), read.coverage.copy()
    for outcome in outcomes:
        for window, error, message in outcome.failed:
            failures.append(Failure(scene.id, scene.ref.uri, window, "detect", error, message))
            coverage.update(Coverage.of_window(window, coverage.cell, FAILED))
    summary = UnitSummary(
        tiles=len(unit.windows),
        empty=read.empty,
        raw=len(raw),
        pending=len(settled.pending),
        capped=sum(outcome.capped for outcome in outcomes),
        degenerate=sum(outcome.degenerate for outcome in outcomes),
        reduced=sum(outcome.reduced for outcome in outcomes),
        coverage=coverage,
        failures=tuple(replace(failure, window=_in_file(failure.window, scene)) for failure in failures),
    )
    return settled, summary


def merge_units(plan: ScenePlan, rule: MergeRule, units: Mapping[str, Settled]) -> Detections:
    """The final boxes of a scene, whose pending boxes are merged up the plan's tree.

    Args:
        plan: the scene.
        rule: how to merge.
        units: what each unit settled to, by its id.

    Returns:
        The boxes in the frames of their levels, in no particular order.
    """
    nodes, final = dict(units), [unit.final for unit in units.values()]
    for level in plan.tree:
        for group in level:
            pending = [nodes.pop(child).pending for child in group.children]
            nodes[group.id] = merge_group(pending, group.core, rule, whole=group.whole)
            final.append(nodes[group.id].final)
    return Detections.concat(final)


def box_sides(detections: Detections) -> FloatArray:
    """(N,) float64, √area in pixels."""
    width, height = (detections.boxes[:, 2:] - detections.boxes[:, :2]).T
    return np.asarray(np.sqrt(width * height))


def scaled_window(window: Window, pixels: Sequence[float]) -> Window:
    """The smallest window that holds another one of a frame, one pixel of which is `pixels` along x and y."""
    # Rounding must not move an edge that falls on a pixel's edge into the next pixel.
    left, top = (math.floor(v / s + 1e-6) for v, s in zip((window.col, window.row), pixels, strict=True))
    right, bottom = (math.ceil(v / s - 1e-6) for v, s in zip((window.right, window.bottom), pixels, strict=True))
    return Window(left, top, max(1, right - left), max(1, bottom - top))


def _of_level(raw: Detections, level: Level, *, borders: bool) -> Detections:
    """The boxes of sizes that a level may report, and those needed to stitch fragments; with the level's scale."""
    fits, (low, high) = raw, level.sizes
    if level.sizes != (0, math.inf):
        fragment, side = raw.fragment & SIDES > 0, box_sides(raw)
        if borders:
            # A larger object is reported by another level; its fragments here are not objects of this one.
            excluded = (side > high) & ~fragment
            raw = raw.with_columns(fragment=np.where(excluded, np.uint8(EXCLUDED), raw.fragment))
            fits = raw[np.flatnonzero((side >= low) | fragment)]
        else:
            fits = raw[np.flatnonzero((side >= low) & (side <= high))]
    return fits.with_columns(level=np.full(len(fits), level.scale, np.float32))


def _in_file(window: Window | None, scene: Scene) -> Window | None:
    """A window of a resampled scene in the pixels of its file."""
    return window if window is None or scene.scale == (1, 1) else scaled_window(window, scene.scale)


def _one_by_one(detector: Detector, part: TileBatch) -> TileOutcome:
    outcomes = []
    for i in range(len(part)):
        tile = part[i : i + 1]
        try:
            outcomes.append(_outcome(detector.detect_batch(tile), 0, 1))
        except Exception as error:
            outcomes.append(failed_outcome(tile.windows, error))
    return TileOutcome(
        Detections.concat(o.detections for o in outcomes),
        sum(o.capped for o in outcomes),
        sum(o.degenerate for o in outcomes),
        failed=tuple(failed for o in outcomes for failed in o.failed),
    )


def _outcome(found: BatchDetections, start: int, stop: int) -> TileOutcome:
    """The outcome of tiles ``[start, stop)`` of a batch."""
    first, count = int(found.counts[:start].sum()), int(found.counts[start:stop].sum())
    capped, degenerate = int(found.capped[start:stop].sum()), int(found.degenerate[start:stop].sum())
    return TileOutcome(found.detections[first : first + count], capped, degenerate)
