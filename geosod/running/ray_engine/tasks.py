"""The tasks and actors that run on Ray's workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from geosod.arrays import IntArray
from geosod.detections import Detections
from geosod.machine import give_back_memory, keep_freed_memory
from geosod.merging.components import Settled, load_kernels, merge_group
from geosod.merging.rule import MergeRule
from geosod.results import Execution, SceneResult
from geosod.running.destination import Sink
from geosod.running.job import Job, load_fitting
from geosod.running.planning import Level, ScenePlan
from geosod.running.ray_engine.session import TASK_CPUS
from geosod.running.ray_engine.shared_bundles import SharedBundles, with_local_bundles
from geosod.running.stages import TileOutcome, UnitSummary, detect_tiles, read_tiles, settle_unit
from geosod.running.unit_store import SceneUnits
from geosod.scene import Scene, TileBatch, Unit
from geosod.scenes.read import ReadSpec, ReadSummary
from geosod.tiling.units import Group

if TYPE_CHECKING:
    from geosod.detectors.detector import Detector

RETRIES = 3
#: A call to a detector on a lost node is tried several times before Ray knows that the node is lost.
DETECT_RETRIES = 4


@ray.remote(num_cpus=TASK_CPUS, max_retries=RETRIES)
def read(
    scene: Scene, units: list[Unit], spec: ReadSpec
) -> Iterator[tuple[str, IntArray, int] | TileBatch | ReadSummary]:
    """Yield for each unit a label and the pixels of each batch in turn, then the summary.

    The label has the node that the pixels are on, their windows, and their number of bytes.
    """
    node = ray.get_runtime_context().get_node_id()
    for item in read_tiles(scene, units, spec):
        if isinstance(item, TileBatch):
            yield node, item.windows, item.pixels.nbytes
        yield item
    del item
    give_back_memory()


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What a detector reports of a batch.

    Attributes:
        boxes: how many it found.
        failed: tiles that failed.
        reason: why the batch failed at first, or None.
        seconds: how long it computed.
        node: where.
    """

    boxes: int
    failed: int
    reason: str | None
    seconds: float
    node: str


@ray.remote(max_restarts=-1)
class DetectorActor:
    """Holds one detector. It is loaded at first use, so that errors of loading reach the driver unchanged."""

    def __init__(self, job: Job, shared: SharedBundles) -> None:
        self._job, self._shared = job, shared
        self._detector: Detector | None = None
        self._line = ""

    @ray.method(max_task_retries=0)
    def load(self, execution: Execution | None) -> tuple[Execution, str, str]:
        """Load the detector; without an execution, with the one for this machine.

        Returns:
            The execution, a line that explains it, and the node that this is.
        """
        if self._detector is None or execution not in (None, self._detector.execution):
            keep_freed_memory()
            self._detector, self._line = load_fitting(with_local_bundles(self._job, self._shared), execution)
        return self._detector.execution, self._line, ray.get_runtime_context().get_node_id()

    @ray.method(num_returns=2)
    def detect(
        self, execution: Execution, cuts: list[tuple[int, int]], *batches: TileBatch
    ) -> tuple[list[TileOutcome], BatchReport]:
        """Detect on slices of several batches.

        Returns:
            One outcome per slice, and a report for the driver.

        The execution comes with every call, since the actor may have been restarted on another machine.
        """
        _, _, node = self.load(execution)
        assert self._detector is not None
        started = time.perf_counter()
        parts = [batch[start:stop] for batch, (start, stop) in zip(batches, cuts, strict=True)]
        outcomes, reason = detect_tiles(self._detector, parts)
        boxes, failed = sum(len(o.detections) for o in outcomes), sum(len(o.failed) for o in outcomes)
        return outcomes, BatchReport(boxes, failed, reason, time.perf_counter() - started, node)


@ray.remote(num_cpus=TASK_CPUS, max_retries=RETRIES, num_returns=3)
def settle(
    rule: MergeRule, level: Level, unit: Unit, read: ReadSummary, places: list[int], *batches: list[TileOutcome]
) -> tuple[Detections, Detections, UnitSummary]:
    """Final boxes, pending boxes and summary of a unit, whose outcomes are at `places` of `batches`."""
    outcomes = [batch[place] for batch, place in zip(batches, places, strict=True)]
    node, summary = settle_unit(rule, level, unit, read, outcomes)
    return node.final, node.pending, summary


@ray.remote(num_cpus=TASK_CPUS, max_retries=RETRIES, num_returns=2)
def merge(rule: MergeRule, group: Group, *children: Detections) -> tuple[Detections, Detections]:
    """`children` are the final and the pending boxes of each child in turn; final boxes are gathered on the way up."""
    node = merge_group(children[1::2], group.core, rule, whole=group.whole)
    return Detections.concat([*children[::2], node.final]), node.pending


@ray.remote(num_cpus=TASK_CPUS)
def prepare(rule: MergeRule) -> None:
    """Start a worker and load its modules and compiled code, before there is work for it."""
    import geosod.running.assemble  # noqa: F401

    load_kernels(rule)


@ray.remote(num_cpus=0, max_retries=RETRIES)
def keep(units: SceneUnits, unit_id: str, final: Detections, pending: Detections, summary: UnitSummary) -> str | None:
    """Make a finished unit durable; why that was not possible, or None."""
    return units.keep(unit_id, Settled(final, pending), summary)


@ray.remote(num_cpus=0, max_retries=RETRIES)
def finish(
    job: Job, plan: ScenePlan, execution: Execution, sink: Sink, units: SceneUnits | None, *values: Any
) -> tuple[SceneResult, str | None]:
    """Assemble and write a scene.

    Args:
        job, plan, execution: of the scene.
        sink: where it goes.
        units: where its units are kept.
        *values: the summaries of all units, the final boxes of the roots of the tree, then what `keep` returned.

    Returns:
        How the scene ended, and why a unit could not be kept, or None.
    """
    from geosod.running.assemble import assemble_scene

    summaries, rest = values[: len(plan.units)], values[len(plan.units) :]
    final = [value for value in rest if isinstance(value, Detections)]
    result = sink.finish(assemble_scene(job, plan, execution, Detections.concat(final), summaries), units)
    return result, next((value for value in rest if isinstance(value, str)), None)
