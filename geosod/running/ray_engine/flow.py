"""The driver: supplies readers, detectors and mergers with work, within bounds, passing on references only."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from geosod.errors import EngineError, GeosodError
from geosod.results import SceneResult
from geosod.running import events
from geosod.running.assemble import failed_result
from geosod.running.destination import Sink
from geosod.running.events import Emit
from geosod.running.job import Job
from geosod.running.planning import ScenePlan
from geosod.running.ray_engine import session, tasks
from geosod.running.ray_engine.batches import Batches
from geosod.running.ray_engine.detectors import PATIENCE, DetectorPool
from geosod.running.ray_engine.placement import reader_node
from geosod.running.ray_engine.progress import SceneInProgress, TilesInProgress, UnitInProgress
from geosod.running.stages import UnitSummary, failed_read, read_spec
from geosod.running.timer import Timer
from geosod.running.unit_queue import UnitQueue
from geosod.running.unit_store import take_up
from geosod.scenes.read import ReadSummary

#: Maximum number of units that one task reads.
MAX_COLUMN = 4
#: Seconds between two looks at the nodes of the cluster, and at what is queued.
GROW_SECONDS, QUEUED_SECONDS = 10.0, 1.0
#: What is counted then.
QUEUES = ("units", "readers", "tiles", "batches", "settling", "merging", "merged", "finishing")
#: Scenes committed at a time; each holds its table in memory meanwhile.
MAX_FINISHING = 2
#: Units that are kept at a time: by processes of the driver's node, or by those of all nodes.
KEEPERS_HERE, KEEPERS = 2, 64


class Flow:
    """One run. Every ``_end_…`` handles a reference that has become ready."""

    def __init__(self, job: Job, sink: Sink, emit: Emit, pool: DetectorPool) -> None:
        self._job, self._sink, self._emit, self._pool = job, sink, emit, pool
        self._reasons: set[str] = set()
        self._group_size = session.group_size(job, pool.execution)
        self._plans_left = True
        self._units: UnitQueue[UnitInProgress] = UnitQueue()
        self._readers: dict[Any, deque[UnitInProgress]] = {}
        #: Reader → what it said of the pixels that come next.
        self._announced: dict[Any, Any] = {}
        self._batches = Batches(pool, self._group_size, emit, self._settle_if_done, self._note_once)
        self._settling: dict[Any, UnitInProgress] = {}
        self._settled: deque[UnitInProgress] = deque()
        self._keeping: dict[Any, UnitInProgress] = {}
        self._merging: dict[Any, SceneInProgress] = {}
        self._merged: deque[SceneInProgress] = deque()
        self._finishing: dict[Any, SceneInProgress] = {}
        self._reader_nodes: dict[Any, str | None] = {}
        self._reader_cpus = 2 * session.TASK_CPUS if pool.claims.on_gpu else session.TASK_CPUS
        self._growing, self._counting = Timer(GROW_SECONDS), Timer(QUEUED_SECONDS)
        self._writing: dict[str, Any] = {}
        self._keepers = KEEPERS
        if not sink.shared or job.config.dem is not None:
            # The output folder, or the heights that pixels are placed with, are on the driver's node.
            here = ray.get_runtime_context().get_node_id()
            self._writing = {"scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False)}
            self._keepers = KEEPERS_HERE

    def run(self, plans: Iterator[ScenePlan]) -> Iterator[SceneResult]:
        """Results in the order scenes are finished."""
        answered = time.monotonic()
        while True:
            self._start_readers(plans)
            self._batches.start(more=bool(self._readers or self._units or self._plans_left))
            self._start_keeping()
            self._start_finishing()
            pending = self._pending()
            if not pending and not self._batches:
                return
            if self._growing.due():
                self._pool.grow()
            if self._counting.due():
                self._emit(events.Queued(self._lengths()))
            if ready := _ready(pending):
                answered = time.monotonic()
            elif time.monotonic() - answered > PATIENCE:
                answered = time.monotonic()
                self._emit(
                    events.Note(
                        f"no task has finished for {PATIENCE:.0f} s; {session.free_resources()}", important=True
                    )
                )
            for ref in ready:
                if ref in self._finishing:
                    yield self._end_finishing(ref)
                else:
                    self._end(ref)

    def _end(self, ref: Any) -> None:
        if ref in self._batches.running:
            self._batches.end(ref)
        elif ref in self._settling:
            self._end_settling(ref)
        elif ref in self._keeping:
            self._finish_unit(self._keeping.pop(ref))
        elif ref in self._merging:
            self._end_merging(ref)
        elif ref in self._readers:
            self._advance_reader(ref)
        else:
            self._pool.end_loading(ref)

    def _pending(self) -> list[Any]:
        """References to wait for, first those that free a detector; readers only while there is room for tiles."""
        refs = [*self._batches.running, *self._finishing, *self._settling, *self._keeping, *self._merging]
        if not self._batches.full:
            refs += self._readers
        return [*refs, *self._pool.loading()] if refs or self._batches else []

    def _lengths(self) -> dict[str, int]:
        at = self._batches
        settling = len(self._settling) + len(self._settled) + len(self._keeping)
        started = settling, len(self._merging), len(self._merged), len(self._finishing)
        counts = len(self._units), len(self._readers), len(at.waiting), len(at.running), *started
        return dict(zip(QUEUES, counts, strict=True))

    # --- reading

    def _start_readers(self, plans: Iterator[ScenePlan]) -> None:
        while len(self._readers) < self._pool.claims.readers:
            while not self._units and self._plans_left:
                self._add_scene(next(plans, None))
            first = self._units.take()
            if first is None:
                return
            units = self._column(first)
            plan = first.scene.plan
            node = reader_node(self._pool.claims.nodes, Counter(filter(None, self._reader_nodes.values())))
            options = {"num_cpus": self._reader_cpus, "_generator_backpressure_num_objects": session.READ_AHEAD}
            task = tasks.read.options(num_returns="streaming", **options, **session.prefer_node(node))
            scene = plan.level(first.unit).scene
            spec = read_spec(self._job, plan, scene, self._pool.execution.backend, self._group_size)
            for unit in units:
                unit.size = spec.tile
            reader = task.remote(scene, [unit.unit for unit in units], spec)
            self._readers[reader], self._reader_nodes[reader] = units, node

    def _column(self, first: UnitInProgress) -> deque[UnitInProgress]:
        """A unit and some of those below it, so that one task reads them with blocks across them decoded once."""
        units, share = deque([first]), 1 + len(self._units) // self._pool.claims.readers
        while len(units) < min(MAX_COLUMN, share) and (below := self._units.take_below(units[-1])) is not None:
            units.append(below)
        return units

    def _add_scene(self, plan: ScenePlan | None) -> None:
        if plan is None:
            self._plans_left = False
            return
        units, kept = take_up(self._sink.store, self._job, plan, self._pool.execution, self._emit)
        left = [unit for unit in plan.units if unit.id not in kept]
        scene = SceneInProgress(plan, units, len(left))
        for name, (settled, summary) in kept.items():
            scene.nodes[name] = ray.put(settled.final), ray.put(settled.pending)
            scene.summaries[name] = ray.put(summary)
        self._units.extend([UnitInProgress(scene, unit) for unit in left])
        if not plan.units:
            self._merged.append(scene)
        elif not left:
            self._merge(scene)

    def _advance_reader(self, reader: Any) -> None:
        """Take a reader's object that is ready: the windows of tiles, then their pixels; after a unit its summary."""
        units = self._readers[reader]
        unit = units[0]
        announced = self._announced.pop(reader, None)
        try:
            ref = next(reader)
            if announced is not None:
                node, windows, size = announced
                self._batches.waiting.append(TilesInProgress(unit, ref, windows, 0, len(windows), node=node))
                unit.tiles += len(windows)
                unit.outstanding += len(windows)
                self._emit(events.TilesRead(len(windows), size))
                return
            item = ray.get(ref)
            if not isinstance(item, ReadSummary):
                self._announced[reader] = item
                return
        except (RayError, StopIteration) as error:
            item = failed_read(
                unit.scene.plan.level(unit.unit).scene, unit.unit, EngineError(session.one_line(error)), unit.tiles
            )
            # Others below it may fare better.
            self._emit(events.Retried("read"))
            self._units.extend(list(units)[1:])
            units = deque([unit])
        units.popleft()
        if not units:
            del self._readers[reader], self._reader_nodes[reader]
        unit.summary = item
        self._settle_if_done(unit)

    # --- merging

    def _settle_if_done(self, unit: UnitInProgress) -> None:
        if unit.summary is None or unit.outstanding:
            return
        scene, plan = unit.scene, unit.scene.plan
        batches, places = [ref for ref, _ in unit.outcomes], [place for _, place in unit.outcomes]
        refs = tasks.settle.remote(self._job.rule, plan.level(unit.unit), unit.unit, unit.summary, places, *batches)
        settled, pending, summary = refs
        unit.outcomes = []
        scene.nodes[unit.unit.id] = settled, pending
        scene.summaries[unit.unit.id] = summary
        self._settling[summary] = unit

    def _end_settling(self, ref: Any) -> None:
        unit = self._settling.pop(ref)
        if unit.scene.units is None:
            self._finish_unit(unit)
        else:
            self._settled.append(unit)

    def _start_keeping(self) -> None:
        """Keep settled units, a few at a time: each takes a process on the driver's node, however many cores it has."""
        while self._settled and len(self._keeping) < self._keepers:
            unit = self._settled.popleft()
            scene, name = unit.scene, unit.unit.id
            keep = tasks.keep.options(**self._writing)
            kept = keep.remote(scene.units, name, *scene.nodes[name], scene.summaries[name])
            scene.kept.append(kept)
            self._keeping[kept] = unit

    def _finish_unit(self, unit: UnitInProgress) -> None:
        scene = unit.scene
        try:
            summary: UnitSummary = ray.get(scene.summaries[unit.unit.id], timeout=PATIENCE)  # its node may be lost
            self._emit(events.UnitSettled(scene.plan.scene.id, summary.tiles, summary.empty))
        except RayError:
            pass  # the scene's last task gets the same error, and reports it
        scene.waiting -= 1
        if scene.waiting == 0:
            self._merge(scene)

    def _merge(self, scene: SceneInProgress) -> None:
        for level in scene.plan.tree:
            for group in level:
                children = [ref for child in group.children for ref in scene.nodes.pop(child)]
                settled, pending = tasks.merge.remote(self._job.rule, group, *children)
                scene.nodes[group.id] = settled, pending
        # The tree ends in one node for each level, which has no pending boxes.
        self._merging |= {settled: scene for settled, _ in scene.nodes.values()}

    def _end_merging(self, ref: Any) -> None:
        scene = self._merging.pop(ref)
        if not any(self._merging.get(settled) is scene for settled, _ in scene.nodes.values()):
            self._merged.append(scene)

    # --- committing

    def _start_finishing(self) -> None:
        while self._merged and len(self._finishing) < MAX_FINISHING:
            scene = self._merged.popleft()
            summaries = [scene.summaries[unit.id] for unit in scene.plan.units]
            values = [*summaries, *(settled for settled, _ in scene.nodes.values()), *scene.kept]
            task = tasks.finish.options(**self._writing)
            ref = task.remote(self._job, scene.plan, self._pool.execution, self._sink, scene.units, *values)
            self._finishing[ref] = scene
            self._emit(events.Writing(scene.plan.scene.id))
            scene.nodes, scene.summaries, scene.kept = {}, {}, []

    def _end_finishing(self, ref: Any) -> SceneResult:
        scene = self._finishing.pop(ref).plan.scene
        try:
            result: SceneResult
            result, problem = ray.get(ref)
        except RayError as error:
            cause = session.cause_of(error)
            known = cause if isinstance(cause, GeosodError) else EngineError(session.one_line(error))
            return failed_result(scene, known)
        if problem is not None:
            self._note_once(problem)
        return result

    def _note_once(self, text: str) -> None:
        if text not in self._reasons:
            self._reasons.add(text)
            self._emit(events.Note(text, important=True))


def _ready(pending: list[Any]) -> list[Any]:
    """One of the references once it is ready, within seconds. There are none while no detector can be reached."""
    if not pending:
        time.sleep(1)
        return []
    return list(ray.wait(pending, num_returns=1, timeout=5, fetch_local=False)[0])
