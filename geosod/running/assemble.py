"""The last stage of a scene: from final boxes and the summaries of its units to its outputs. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from geosod.detections import Detections
from geosod.errors import one_line
from geosod.merging.components import merge_group
from geosod.merging.order import in_order
from geosod.merging.rule import MergeRule
from geosod.output.scene_outputs import SceneOutputs
from geosod.output.table import with_ground_position
from geosod.results import FAILED, Counts, Coverage, Execution, Failure, SceneResult
from geosod.running.job import Job
from geosod.running.planning import ScenePlan
from geosod.running.stages import COVERAGE_CELL, UnitSummary, box_sides, scaled_window
from geosod.scene import Scene, Window


def assemble_scene(
    job: Job, plan: ScenePlan, execution: Execution, final: Detections, summaries: Sequence[UnitSummary]
) -> SceneOutputs:
    """The outputs of a scene.

    Args:
        job: what the run's scenes share.
        plan: the scene.
        execution: how the detector ran.
        final: the final boxes of all units and groups, in any order, each in the frame of its level.
        summaries: of all units, in their order.

    Raises:
        SceneError: no part of the scene has a position on the ground.
    """
    found = inside_area(plan, merge_levels(plan, final, job.level_rule))
    # One order, however the scene was divided into units.
    placed = in_order(with_ground_position(plan.scene, found))
    names = ("tiles", "empty", "raw", "pending", "degenerate", "reduced")
    sums = {name: sum(getattr(summary, name) for summary in summaries) for name in names}
    capped = sum(summary.capped for summary in summaries)
    return SceneOutputs(
        plan.scene,
        placed,
        scene_coverage(plan, summaries),
        tuple(failure for summary in summaries for failure in summary.failures),
        Counts(**sums, capped_tiles=capped, unplaced=len(found) - len(placed)),
        job.provenance(execution),
        job.config.crs,
        plan.aoi,
        plan.masks,
    )


def failed_result(scene: Scene, error: Exception) -> SceneResult:
    """The result of a scene that was worked through, but could not be merged or written."""
    message = one_line(error)
    failure = Failure(scene.id, scene.ref.uri, None, "write", type(error).__name__, message)
    return SceneResult(scene.id, scene.ref.uri, "failed", failures=(failure,), megapixels=scene.megapixels)


def merge_levels(plan: ScenePlan, detections: Detections, rule: MergeRule) -> Detections:
    """The merged boxes of every level, brought to the scene frame and merged with each other.

    Args:
        plan: the scene.
        detections: merged boxes of all levels, each in the frame of the level that the column `level` names.
        rule: how to merge boxes of different levels.
    """
    fits, boxes = np.ones(len(detections), np.bool_), detections.boxes.copy()
    scales = np.array([level.scale for level in plan.levels])
    of = np.abs(detections.level[:, None] - scales).argmin(axis=1)
    side = box_sides(detections)
    for k, level in enumerate(plan.levels):
        # The size of an object is known only once its fragments are stitched.
        low, high = level.sizes
        fits &= (of != k) | ((side >= low) & (side <= high))
        boxes[of == k] /= np.tile(plan.frame(level), 2)
    some = detections if fits.all() else detections[np.flatnonzero(fits)]
    if len(plan.levels) == 1:
        return some
    return merge_group([some.with_columns(boxes=boxes[fits])], plan.scene.window, rule, whole=True).final


def scene_coverage(plan: ScenePlan, summaries: Iterable[UnitSummary]) -> Coverage:
    """The coverage of a whole scene.

    The finest level decides; where a coarser one failed, large objects were not searched for, so that counts too.

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
            lost = scaled_window(cell, plan.frame(plan.level(unit)).tolist()).intersection(plan.scene.window)
            if lost is not None:
                coverage.update(Coverage.of_window(lost, COVERAGE_CELL, FAILED))
    return coverage


def inside_area(plan: ScenePlan, detections: Detections) -> Detections:
    """Only the boxes whose centre lies in the AOI, so that AOIs which share an edge share no box."""
    if plan.area is None or not len(detections):
        return detections
    import shapely

    shapely.prepare(plan.area)
    x0, y0, x1, y1 = detections.boxes.T
    return detections[np.flatnonzero(shapely.intersects_xy(plan.area, (x0 + x1) / 2, (y0 + y1) / 2))]
