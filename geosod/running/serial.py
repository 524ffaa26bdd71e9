"""The serial engine: every stage in this process, one scene after the other. The oracle of the Ray engine."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import TypeVar

from geosod.detectors.detector import Detector
from geosod.machine import keep_freed_memory
from geosod.merging.components import Settled
from geosod.output.scene_outputs import SceneOutputs
from geosod.results import SceneResult
from geosod.running.assemble import assemble_scene, failed_result
from geosod.running.destination import Sink
from geosod.running.events import DetectorsStarted, Emit, Note, Ready, TilesDetected, UnitSettled, Writing
from geosod.running.job import Job, load_fitting
from geosod.running.planning import ScenePlan
from geosod.running.stages import (
    TileOutcome,
    UnitSummary,
    detect_tiles,
    merge_units,
    read_spec,
    read_tiles,
    settle_unit,
)
from geosod.running.unit_store import SceneUnits, UnitRecord, take_up
from geosod.scene import Unit
from geosod.scenes.read import ReadSummary

T = TypeVar("T")


def run(job: Job, plans: Iterable[ScenePlan], sink: Sink, emit: Emit) -> Iterator[SceneResult]:
    """Detect on one planned scene after the other, and hand the outputs to `sink`."""
    keep_freed_memory()
    emit(DetectorsStarted(0, 1))
    detector, line = load_fitting(job)
    emit(DetectorsStarted(1, 1))
    emit(Ready(detector.execution, line, 1))
    for plan in plans:
        try:
            units, kept = take_up(sink.store, job, plan, detector.execution, emit)
            outputs = detect_scene(job, plan, detector, emit, units, kept)
            emit(Writing(plan.scene.id))
            result = sink.finish(outputs, units)
        except Exception as error:
            # Whatever goes wrong with one scene, the others go on.
            result = failed_result(plan.scene, error)
        yield result


def detect_scene(
    job: Job,
    plan: ScenePlan,
    detector: Detector,
    emit: Emit = lambda _: None,
    units: SceneUnits | None = None,
    kept: Mapping[str, UnitRecord] = MappingProxyType({}),
) -> SceneOutputs:
    """One scene from plan to outputs; a function of its first three arguments alone.

    Args:
        job: settings and model.
        plan: from `geosod.running.planning.plan_scene`.
        detector: from `geosod.running.job.load_fitting`.
        emit: called with each event.
        units: where finished units are kept; None where they are not.
        kept: units that an earlier run has finished.
    """
    records = dict(kept)
    for unit in plan.units:
        if unit.id in records:
            continue
        settled, summary = records[unit.id] = detect_unit(job, plan, unit, detector, emit)
        if units is not None and (problem := units.keep(unit.id, settled, summary)):
            emit(Note(f"{plan.scene.id}: {problem}", important=True))
        emit(UnitSettled(plan.scene.id, summary.tiles, summary.empty))
    merged = merge_units(plan, job.rule, {name: settled for name, (settled, _) in records.items()})
    return assemble_scene(job, plan, detector.execution, merged, [records[unit.id][1] for unit in plan.units])


def detect_unit(job: Job, plan: ScenePlan, unit: Unit, detector: Detector, emit: Emit) -> tuple[Settled, UnitSummary]:
    """Read, detect and settle one unit."""
    outcomes: list[TileOutcome] = []
    level = plan.level(unit)
    spec = read_spec(job, plan, level.scene, detector.execution.backend, detector.execution.batch)
    for item in _ahead(read_tiles(level.scene, [unit], spec)):
        if isinstance(item, ReadSummary):
            return settle_unit(job.rule, level, unit, item, outcomes)
        found, failed = detect_tiles(detector, [item])
        if failed is not None:
            emit(Note(f"{plan.scene.id}: {failed}", important=True))
        outcomes += found
        emit(TilesDetected({plan.scene.id: len(item)}, len(found[0].detections)))
    raise AssertionError("read_tiles ends with its summary")


def _ahead(items: Generator[T, None, None]) -> Iterator[T]:
    """The items of a generator, each of which is made in a thread while the one before is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="read") as thread:
        try:
            upcoming = thread.submit(next, items, None)
            while (item := upcoming.result()) is not None:
                upcoming = thread.submit(next, items, None)
                yield item
        finally:
            # What the generator has open belongs to its thread.
            thread.submit(items.close)
