"""The Ray engine: the stages of many scenes at once, on all cores of a machine or on a cluster.

Readers (streaming tasks) cut tiles, detectors (actors) take them in full batches filled across units and
scenes, settle and merge tasks follow each unit, and a last task on the driver's node commits a scene as
soon as its tree is merged. The driver only passes references on; pixels and boxes never come to it.
This is the only module that imports ray.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from geosod.detectors import Detector, load_detector
from geosod.errors import ConfigError, EngineError, GeosodError
from geosod.merging.components import Settled, merge_group
from geosod.merging.rule import MergeRule
from geosod.output.commit import OutputFolder
from geosod.running.events import Emit, Ready, TilesDetected, UnitSettled
from geosod.running.stages import (
    Job,
    ScenePlan,
    TileOutcome,
    UnitAccount,
    detect_tiles,
    failed_outcome,
    lost_unit,
    read_spec,
    read_tiles,
    resolve_execution,
    settle_unit,
)
from geosod.scenes.read import ReadAccount, ReadSpec
from geosod.tiling.units import Group
from geosod.types import Detections, Execution, Failure, IntArray, Scene, SceneResult, TileBatch, Unit

#: Batches on their way to or in each detector: one at work, one waiting, one being fetched.
IN_FLIGHT = 3
#: Objects a reader may be ahead of the driver; a batch is two, its windows and its pixels.
READ_AHEAD = 4
#: Share of a core that readers and the short tasks claim. They mostly wait for the detectors.
TASK_CPUS = 0.25
RETRIES = 3
#: A call to a detector on a lost node is tried several times before the node is known to be lost.
DETECT_RETRIES = 10
#: Bytes of the object store of an embedded Ray besides the batches under way.
STORE_BASE = 256 << 20


@contextmanager
def session(address: str | None, store_bytes: int) -> Iterator[None]:
    """A connection to Ray: the one already open, a cluster by address, or one of our own for the while.

    Args:
        address: a cluster's address; None takes RAY_ADDRESS, else starts Ray on this machine.
        store_bytes: object store of a Ray started here.

    Raises:
        EngineError: Ray cannot be reached or started.
    """
    if ray.is_initialized():
        yield
        return
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    own = {} if target != "local" else {"object_store_memory": store_bytes, "include_dashboard": False}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(address=target, **quiet, **own)
    except (RayError, ConnectionError, OSError, RuntimeError, ValueError) as error:
        line = " ".join(str(error).split())[:300]
        raise EngineError(f"Ray at {target!r} cannot be reached or started: {line}; see `geosod doctor`") from error
    try:
        yield
    finally:
        ray.shutdown()


def run(job: Job, plans: Iterable[ScenePlan], out: OutputFolder, emit: Emit) -> Iterator[SceneResult]:
    """Detect on every planned scene, several at a time, and yield each result when it is committed.

    Raises:
        EngineError: Ray cannot be reached, or no detector can be started.
        GeosodError: what a detector raised while it was loaded.
    """
    with session(job.config.ray_address, store_bytes(job)), _detectors(job, emit) as (execution, actors):
        yield from _Flow(job, out, emit, execution, actors).run(iter(plans))


def store_bytes(job: Job) -> int:
    """Room for every batch that can be under way at once on this machine."""
    workers = job.config.workers or len(os.sched_getaffinity(0))
    batch_pixels = max((job.config.batch or 1) * job.tile**2, 4 << 20)
    bytes_each = batch_pixels * len(job.bundle.card.bands) * np.dtype(job.bundle.card.dtype).itemsize
    return int(STORE_BASE + workers * (IN_FLIGHT + READ_AHEAD + 2) * bytes_each)


# --- what runs on the driver --------------------------------------------------------------------------


@contextmanager
def _detectors(job: Job, emit: Emit) -> Iterator[tuple[Execution, list[Any]]]:
    """Detector actors, all with the execution that the first one resolves; killed at the end."""
    total = ray.cluster_resources()
    cpus, gpus = total.get("CPU", 0), total.get("GPU", 0)
    on_gpu = job.config.device == "cuda" or (job.config.device == "auto" and gpus >= 1)
    workers = job.config.workers or max(1, int(gpus if on_gpu else cpus // job.config.threads))
    if on_gpu and workers > gpus:
        raise ConfigError(f"{workers} detectors need a GPU each, but Ray has {gpus:g}; lower --workers or add nodes")
    share = int(min(0.5 * job.config.threads, 0.5 * cpus / workers) * 1e4) / 1e4
    options = {"num_gpus": 1, "num_cpus": 1} if on_gpu else {"num_cpus": share}
    actors = [_actor(options).remote(job, None)]
    try:
        execution, line = _loaded(actors[0])
        emit(Ready(execution, line, workers))
        actors += [_actor(options).remote(job, execution) for _ in range(workers - 1)]
        yield execution, actors
    finally:
        for actor in actors:
            ray.kill(actor)


def _actor(options: dict[str, Any]) -> Any:
    remote: Any = _DetectorActor
    return remote.options(**options)


def _loaded(actor: Any) -> tuple[Execution, str]:
    try:
        result: tuple[Execution, str] = ray.get(actor.load.remote())
    except RayTaskError as error:
        if isinstance(error.cause, GeosodError):
            raise error.cause from None
        raise EngineError(f"the detector cannot be loaded: {_line(error.cause or error)}") from error
    except RayError as error:
        raise EngineError(f"no detector could be started: {_line(error)}; see `geosod doctor`") from error
    return result


@dataclass(slots=True, eq=False)
class _Scene:
    """A scene under way: references to the accounts of its units, and to the settled and open boxes of each node."""

    plan: ScenePlan
    waiting: int
    accounts: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, tuple[Any, Any]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Unit:
    """A unit under way. It is done when its account has come and no tile is outstanding."""

    scene: _Scene
    unit: Unit
    account: ReadAccount | None = None
    tiles: int = 0
    outstanding: int = 0
    outcomes: list[tuple[Any, int]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Chunk:
    """Tiles a reader handed on; those from `start` wait for a detector."""

    unit: _Unit
    pixels: Any
    windows: IntArray
    start: int = 0


@dataclass(slots=True, eq=False)
class _Batch:
    """Slices of chunks that one detector works on."""

    actor: int
    outcomes: Any
    cuts: list[tuple[_Unit, IntArray]]


class _Flow:
    """Keeps readers, detectors and mergers busy, within bounds."""

    def __init__(self, job: Job, out: OutputFolder, emit: Emit, execution: Execution, actors: list[Any]) -> None:
        self._job, self._out, self._emit = job, out, emit
        self._execution, self._actors = execution, actors
        self._busy = [0] * len(actors)
        self._units: deque[_Unit] = deque()
        self._readers: dict[Any, _Unit] = {}
        self._chunks: deque[_Chunk] = deque()
        self._tiles_waiting = 0
        self._batches: dict[Any, _Batch] = {}
        self._settling: dict[Any, _Unit] = {}
        self._finishing: dict[Any, _Scene] = {}
        self._plans_left = True
        on_gpu = execution.device == "cuda"
        cpus = int(ray.cluster_resources().get("CPU", 1))
        self._max_readers = max(2, min(cpus, 8 * len(actors)) if on_gpu else len(actors))
        self._reader_cpus = 1 if on_gpu else TASK_CPUS
        here = ray.get_runtime_context().get_node_id()
        self._here = NodeAffinitySchedulingStrategy(here, soft=False)

    def run(self, plans: Iterator[ScenePlan]) -> Iterator[SceneResult]:
        """Results in the order scenes are finished."""
        while True:
            self._start_readers(plans)
            self._start_batches()
            pending = self._pending()
            if not pending:
                return
            ready, _ = ray.wait(pending, num_returns=1, timeout=5, fetch_local=False)
            for ref in ready:
                if ref in self._batches:
                    self._end_batch(ref)
                elif ref in self._settling:
                    self._end_settling(ref)
                elif ref in self._finishing:
                    yield self._end_scene(ref)
                else:
                    self._advance_reader(ref)

    def _pending(self) -> list[Any]:
        """What to wait for, what frees a detector first; readers only while there is room for their tiles."""
        refs = [*self._batches, *self._finishing, *self._settling]
        if self._tiles_waiting < 2 * self._execution.batch * len(self._actors):
            refs += self._readers
        return refs

    def _start_readers(self, plans: Iterator[ScenePlan]) -> None:
        while len(self._readers) < self._max_readers:
            while not self._units and self._plans_left:
                self._add_scene(next(plans, None))
            if not self._units:
                return
            unit = self._units.popleft()
            spec = read_spec(self._job, unit.scene.plan, self._execution.batch)
            options = {"num_cpus": self._reader_cpus, "_generator_backpressure_num_objects": READ_AHEAD}
            reader = _read.options(num_returns="streaming", **options)
            self._readers[reader.remote(unit.scene.plan.scene, unit.unit, spec)] = unit

    def _add_scene(self, plan: ScenePlan | None) -> None:
        if plan is None:
            self._plans_left = False
            return
        scene = _Scene(plan, len(plan.units))
        self._units.extend(_Unit(scene, unit) for unit in plan.units)
        if not plan.units:
            self._merge_and_finish(scene)

    def _advance_reader(self, reader: Any) -> None:
        unit = self._readers[reader]
        try:
            item = ray.get(next(reader))
            if not isinstance(item, ReadAccount):
                self._chunks.append(_Chunk(unit, next(reader), item))
                unit.tiles += len(item)
                unit.outstanding += len(item)
                self._tiles_waiting += len(item)
                return
        except (RayError, StopIteration) as error:
            item = lost_unit(unit.scene.plan.scene, unit.unit, EngineError(_line(error)), unit.tiles)
        del self._readers[reader]
        unit.account = item
        self._settle_if_done(unit)

    def _start_batches(self) -> None:
        reading = bool(self._readers or self._units or self._plans_left)
        while self._chunks and (self._tiles_waiting >= self._execution.batch or not reading):
            actor = min(range(len(self._actors)), key=self._busy.__getitem__)
            if self._busy[actor] >= IN_FLIGHT:
                return
            self._start_batch(actor)

    def _start_batch(self, actor: int) -> None:
        """Fill one batch from the chunks that wait, across units and scenes, and send it."""
        room = self._execution.batch
        cuts, pixels, parts = [], [], []
        while room and self._chunks:
            chunk = self._chunks[0]
            stop = min(len(chunk.windows), chunk.start + room)
            cuts.append((chunk.start, stop))
            pixels.append(chunk.pixels)
            parts.append((chunk.unit, chunk.windows[chunk.start : stop]))
            room -= stop - chunk.start
            chunk.start = stop
            if stop == len(chunk.windows):
                self._chunks.popleft()
        self._tiles_waiting -= self._execution.batch - room
        outcomes, boxes = self._actors[actor].detect.remote(cuts, *pixels)
        self._batches[boxes] = _Batch(actor, outcomes, parts)
        self._busy[actor] += 1

    def _end_batch(self, ref: Any) -> None:
        batch = self._batches.pop(ref)
        self._busy[batch.actor] -= 1
        outcomes = batch.outcomes
        try:
            boxes = ray.get(ref)
        except RayError as error:
            # Retries are spent, so these tiles are given up; the others go on.
            cause = EngineError(f"a detector was lost: {_line(error)}")
            outcomes, boxes = ray.put([failed_outcome(windows, cause) for _, windows in batch.cuts]), 0
        self._emit(TilesDetected(sum(len(windows) for _, windows in batch.cuts), boxes))
        for place, (unit, windows) in enumerate(batch.cuts):
            unit.outcomes.append((outcomes, place))
            unit.outstanding -= len(windows)
            self._settle_if_done(unit)

    def _settle_if_done(self, unit: _Unit) -> None:
        if unit.account is None or unit.outstanding:
            return
        scene, plan = unit.scene, unit.scene.plan
        batches, places = [ref for ref, _ in unit.outcomes], [place for _, place in unit.outcomes]
        settled, open_, account = _settle.remote(self._job.rule, plan.scene, unit.unit, unit.account, places, *batches)
        unit.outcomes = []
        scene.nodes[unit.unit.id] = settled, open_
        scene.accounts[unit.unit.id] = account
        self._settling[account] = unit
        scene.waiting -= 1
        if scene.waiting == 0:
            self._merge_and_finish(scene)

    def _end_settling(self, ref: Any) -> None:
        unit = self._settling.pop(ref)
        try:
            account: UnitAccount = ray.get(ref)
        except RayError:
            return  # the scene's last task meets the same error, and reports it
        self._emit(UnitSettled(unit.scene.plan.scene.id, account.tiles, account.empty))

    def _merge_and_finish(self, scene: _Scene) -> None:
        for level in scene.plan.tree:
            for group in level:
                children = [ref for child in group.children for ref in scene.nodes.pop(child)]
                settled, open_ = _merge.remote(self._job.rule, group, *children)
                scene.nodes[group.id] = settled, open_
        accounts = [scene.accounts[unit.id] for unit in scene.plan.units]
        # The tree has come down to one node, whose open boxes are none.
        whole = [settled for settled, _ in scene.nodes.values()]
        finish = _finish.options(scheduling_strategy=self._here)
        ref = finish.remote(self._job, scene.plan, self._execution, self._out, len(accounts), *accounts, *whole)
        self._finishing[ref] = scene
        scene.nodes, scene.accounts = {}, {}

    def _end_scene(self, ref: Any) -> SceneResult:
        scene = self._finishing.pop(ref).plan.scene
        try:
            result: SceneResult = ray.get(ref)
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else None
            known = cause if isinstance(cause, GeosodError) else EngineError(_line(cause or error))
            failure = Failure(scene.id, scene.ref.uri, None, "write", type(known).__name__, _line(known))
            return SceneResult(scene.id, scene.ref.uri, "failed", failures=(failure,), megapixels=scene.megapixels)
        return result


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


# --- what runs on the workers -------------------------------------------------------------------------


@ray.remote(num_cpus=TASK_CPUS, max_retries=RETRIES)
def _read(scene: Scene, unit: Unit, spec: ReadSpec) -> Iterator[IntArray | TileBatch | ReadAccount]:
    """Yield windows and pixels of each batch in turn, then the account."""
    for item in read_tiles(scene, unit, spec):
        if isinstance(item, TileBatch):
            yield item.windows
        yield item


@ray.remote(num_cpus=TASK_CPUS, max_retries=RETRIES, num_returns=3)
def _settle(
    rule: MergeRule, scene: Scene, unit: Unit, read: ReadAccount, places: list[int], *batches: list[TileOutcome]
) -> tuple[Detections, Detections, UnitAccount]:
    outcomes = [batch[place] for batch, place in zip(batches, places, strict=True)]
    node, account = settle_unit(rule, scene, unit, _writable(read), outcomes)
    return node.settled, node.open, account


@ray.remote(num_cpus=TASK_CPUS, max_retries=RETRIES, num_returns=2)
def _merge(rule: MergeRule, group: Group, *children: Detections) -> tuple[Detections, Detections]:
    """`children` are the settled and the open boxes of each child in turn; settled boxes are gathered on the way up."""
    node: Settled = merge_group(children[1::2], group.core, rule)
    return Detections.concat([*children[::2], node.settled]), node.open


@ray.remote(num_cpus=0, max_retries=RETRIES)
def _finish(
    job: Job, plan: ScenePlan, execution: Execution, out: OutputFolder, units: int, *values: Any
) -> SceneResult:
    """`values` are the accounts of all units, then the settled boxes of the tree's root."""
    from geosod.running.finish import finish_scene

    return finish_scene(job, plan, execution, Detections.concat(values[units:]), values[:units], out)


@ray.remote(max_restarts=-1, max_task_retries=DETECT_RETRIES)
class _DetectorActor:
    """Holds one detector, loaded at first use so that what loading raises reaches the driver as it was."""

    def __init__(self, job: Job, execution: Execution | None) -> None:
        self._job, self._execution, self._line = job, execution, ""
        self._detector: Detector | None = None

    def load(self) -> tuple[Execution, str]:
        """Load the detector; without an execution given, resolve it for this machine."""
        if self._execution is None:
            self._execution, self._line = resolve_execution(self._job)
        if self._detector is None:
            self._detector = load_detector(self._job.bundle, self._execution, threshold=self._job.threshold)
        return self._execution, self._line

    @ray.method(num_returns=2)
    def detect(self, cuts: list[tuple[int, int]], *batches: TileBatch) -> tuple[list[TileOutcome], int]:
        """Detect on slices of several batches; one outcome a slice, and how many boxes came of all."""
        self.load()
        assert self._detector is not None
        parts = [batch[start:stop] for batch, (start, stop) in zip(batches, cuts, strict=True)]
        outcomes = detect_tiles(self._detector, parts)
        return outcomes, sum(len(outcome.detections) for outcome in outcomes)


@ray.remote(num_cpus=TASK_CPUS)
def _nothing() -> None:
    """A task to see that tasks run."""


def _writable(read: ReadAccount) -> ReadAccount:
    """Arrays that arrive through the object store are read-only."""
    return replace(read, coverage=replace(read.coverage, codes=read.coverage.codes.copy()))


def describe() -> str:
    """Start Ray (or join the session that is open) and say what it has; one task is run to see that it can.

    Raises:
        EngineError: it cannot be started.
    """
    with session(None, STORE_BASE):
        have = ray.cluster_resources()
        ray.get(_nothing.remote(), timeout=60)
        nodes = len([node for node in ray.nodes() if node["Alive"]])
        return f"yes: {nodes} node(s), {have.get('CPU', 0):g} CPUs, {have.get('GPU', 0):g} GPUs"
