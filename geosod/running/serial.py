"""The serial engine: every stage in this process, one scene after the other. The oracle of the Ray engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from geosod.detections import Detections
from geosod.detectors import Detector
from geosod.merging.components import Settled, merge_group
from geosod.output.commit import OutputFolder
from geosod.results import SceneResult
from geosod.running.events import Emit, Ready, TilesDetected, UnitSettled
from geosod.running.finish import finish_scene
from geosod.running.job import Job, load_fitting
from geosod.running.planning import ScenePlan
from geosod.running.stages import (
    TileOutcome,
    UnitSummary,
    detect_tiles,
    failed_result,
    read_spec,
    read_tiles,
    settle_unit,
)
from geosod.scene import Unit
from geosod.scenes.read import ReadSummary


def run(job: Job, plans: Iterable[ScenePlan], out: OutputFolder, emit: Emit) -> Iterator[SceneResult]:
    """Detect on every planned scene in turn, and commit each."""
    detector, line = load_fitting(job)
    emit(Ready(detector.execution, line, 1))
    for plan in plans:
        try:
            result = run_scene(job, plan, detector, out, emit)
        except Exception as error:
            # Whatever goes wrong with one scene, the others go on.
            result = failed_result(plan.scene, error)
        yield result


def run_scene(job: Job, plan: ScenePlan, detector: Detector, out: OutputFolder, emit: Emit) -> SceneResult:
    """One scene from plan to commit."""
    nodes: dict[str, Settled] = {}
    summaries = []
    for unit in plan.units:
        nodes[unit.id], summary = run_unit(job, plan, unit, detector, emit)
        summaries.append(summary)
        emit(UnitSettled(plan.scene.id, summary.tiles, summary.empty))
    settled = [node.final for node in nodes.values()]
    for level in plan.tree:
        for group in level:
            open_boxes = [nodes.pop(child).pending for child in group.children]
            nodes[group.id] = merge_group(open_boxes, group.core, job.rule, whole=group.whole)
            settled.append(nodes[group.id].final)
    return finish_scene(job, plan, detector.execution, Detections.concat(settled), summaries, out)


def run_unit(job: Job, plan: ScenePlan, unit: Unit, detector: Detector, emit: Emit) -> tuple[Settled, UnitSummary]:
    """Read, detect and settle one unit."""
    outcomes: list[TileOutcome] = []
    level = plan.level(unit)
    for item in read_tiles(level.scene, unit, read_spec(job, plan, detector.execution.batch)):
        if isinstance(item, ReadSummary):
            return settle_unit(job.rule, level, unit, item, outcomes)
        outcomes += detect_tiles(detector, [item])
        emit(TilesDetected(len(item), len(outcomes[-1].detections)))
    raise AssertionError("read_tiles ends with its summary")
