"""The local engine: the stages of several scenes at once, in threads of this process.

Readers cut tiles, detectors take them in full batches, filled across units and scenes, and other threads merge and
write finished scenes. GDAL, torch and the merging kernels release the interpreter's lock. The calling thread keeps the
books: it alone starts work and handles what has ended, and it never reads, detects or merges.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from queue import SimpleQueue

from geosod.detectors.detector import Detector
from geosod.detectors.devices import local_devices
from geosod.detectors.execution import MAX_BATCHES_AT_ONCE, batches_at_once, own_stream
from geosod.detectors.models import ObjectModel
from geosod.device import detectors_per_device, kind_of
from geosod.errors import EngineError
from geosod.machine import give_back_memory, keep_freed_memory, usable_cpus
from geosod.merging.components import load_kernels
from geosod.results import Execution, SceneResult
from geosod.running.destination import Sink
from geosod.running.events import DetectorsStarted, Emit, Note, Ready, TilesDetected
from geosod.running.job import Job, load_fitting, resolve_execution
from geosod.running.local_finishing import Finisher
from geosod.running.local_progress import BatchInProgress, SceneInProgress, TilesInProgress, UnitInProgress
from geosod.running.planning import ScenePlan
from geosod.running.readers import Readers, Room
from geosod.running.stages import (
    TileOutcome,
    detect_tiles,
    failed_outcome,
    failed_read,
    read_spec,
)
from geosod.running.threads import Threads
from geosod.running.tile_queue import TileQueue
from geosod.running.timer import Timer
from geosod.running.unit_store import take_up
from geosod.scene import TileBatch
from geosod.scenes.read import ReadSpec, ReadSummary

#: A reader supplies so many detectors on CPUs, at first.
DETECTORS_PER_READER = 4
#: Another reader begins after so many batches, at the end of which a detector had nothing to do.
HUNGRY = 2
#: Threads that settle units, and merge and write scenes: at most so many, and one on two cores.
OTHERS = 2
#: Threads that do so for scenes of one unit, where most of the time goes to waiting until files are on the disk.
SMALL = 8
#: No other scene is begun while so many are in progress, and two batches of scenes with one tile.
MAX_SCENES = 32
#: Seconds after which memory is given back that lies between blocks in use: it grew by a tenth in a minute. That takes
#: some hundredths of a second.
TIDYING = 15.0
#: Seconds in which nothing ends, after which a note says so.
PATIENCE = 60.0
#: Seconds for which what is still being done is waited for at the end of a run that fails.
CLOSING = 20.0


def run(job: Job, plans: Iterable[ScenePlan], sink: Sink, emit: Emit) -> Iterator[SceneResult]:
    """Detect on every planned scene, several at a time, and hand the outputs to `sink`; results as they come.

    Raises:
        GeosodError: what loading a detector raised.
    """
    keep_freed_memory()
    engine = _Engine(job, sink, emit)
    try:
        yield from engine.run(iter(plans))
    finally:
        engine.close()


class _Engine:
    """One run: work in progress, and the threads that do it."""

    def __init__(self, job: Job, sink: Sink, emit: Emit) -> None:
        self._job, self._sink, self._emit = job, sink, emit
        self._batches: set[BatchInProgress] = set()
        self._plans_left = True
        self._planned = self._execution = _execution(job)
        self._group = self._execution.batch
        self._tiles: TileQueue[TilesInProgress] = TileQueue(self._group)
        kind = kind_of(self._execution.device)
        on_gpu = kind != "cpu"
        self._devices = _devices(job)
        self._workers = _workers(job, self._devices)
        self._most_readers = most = max(1, usable_cpus())
        self._most_reading = most if on_gpu else min(most, -(-self._workers // DETECTORS_PER_READER))
        self._hungry = 0
        self._detect_threads = self._workers * (MAX_BATCHES_AT_ONCE if kind == "cuda" else 1)
        # With fewer, tiles could wait for others that never come.
        self._most_scenes = MAX_SCENES + 2 * self._group * self._detect_threads
        others = max(1, min(OTHERS, most - 1))
        self._threads: Threads[SceneResult | None] = Threads(
            read=most, detect=self._detect_threads, other=others, small=SMALL
        )
        self._room = Room(2 * self._group * self._detect_threads)
        self._readers: Readers[UnitInProgress] = Readers(
            self._threads, self._room, spec=self._read_spec, on_batch=self._end_batch_reading, on_unit=self._end_reading
        )
        #: A detector is in it once for every batch that it could begin with.
        self._free: SimpleQueue[Detector | None] = SimpleQueue()
        self._loaded, self._places = 0, 0
        self._tidying = Timer(TIDYING)
        self._finisher = Finisher(job, sink, emit, self._threads)

    def run(self, plans: Iterator[ScenePlan]) -> Iterator[SceneResult]:
        """Results in the order in which scenes are finished."""
        self._emit(DetectorsStarted(0, self._workers))
        self._threads.start("detect", partial(load_fitting, self._job), self._end_first_load)
        while True:
            self._start_reading(plans)
            self._start_detecting()
            if self._tidying.due():
                self._threads.start("other", give_back_memory, lambda _: None)
            if not self._finisher.scenes and not self._plans_left:
                return
            patience = min(PATIENCE, self._job.config.batch_timeout)
            handle = self._threads.next(patience)
            if handle is None:
                self._emit(Note(f"nothing has finished for {patience:.0f} s; still waiting", important=True))
            elif (result := handle()) is not None:
                yield result
            self._give_up_late()

    def close(self) -> None:
        """Stop; what is being done in threads is ended first, and nothing new is started."""
        self._room.close()
        for _ in range(self._detect_threads):
            self._free.put(None)
        self._threads.close(CLOSING)

    # --- detectors

    def _end_first_load(self, loaded: tuple[Detector, str] | Exception) -> None:
        if isinstance(loaded, Exception):
            raise loaded
        detector, line = loaded
        self._execution = detector.execution
        self._use(detector)
        self._emit(Ready(detector.execution, line, self._workers))
        # Not before: imports hold the interpreter's lock, which the first detector needed to load.
        self._threads.start("other", self._prepare, lambda _: None)
        self._finisher.begin(detector.execution)
        for i in range(1, self._workers):
            execution = replace(detector.execution, device=self._devices[i % len(self._devices)])
            self._threads.start("detect", partial(load_fitting, self._job, execution), self._end_load)

    def _prepare(self) -> None:
        """Load what settling and writing need, while detectors work."""
        load_kernels(self._job.rule)
        if len(self._job.config.levels) > 1 or self._job.config.levels[0].scale == "auto":
            load_kernels(self._job.level_rule)
        # pyarrow imports it when it is given the first array.
        import_module("pandas")

    def _end_load(self, loaded: tuple[Detector, str] | Exception) -> None:
        if isinstance(loaded, Exception):
            self._emit(Note(f"one detector of {self._workers} cannot be loaded: {loaded}", important=True))
        else:
            self._use(loaded[0])

    def _use(self, detector: Detector) -> None:
        self._loaded += 1
        at_once = 1 if isinstance(self._job.model, ObjectModel) else batches_at_once(detector.execution.device)
        self._places += at_once
        for _ in range(at_once):
            self._free.put(detector)
        self._emit(DetectorsStarted(self._loaded, self._workers))

    # --- reading

    def _start_reading(self, plans: Iterator[ScenePlan]) -> None:
        while self._readers.running < self._most_reading:
            while not self._readers.units and self._plans_left and self._finisher.scenes < self._most_scenes:
                self._add_scene(next(plans, None))
            if not self._readers.start():
                return

    def _add_scene(self, plan: ScenePlan | None) -> None:
        if plan is None:
            self._plans_left = False
            return
        units, kept = take_up(self._sink.store, self._job, plan, self._planned, self._emit)
        left = [unit for unit in plan.units if unit.id not in kept]
        scene = SceneInProgress(plan, units, len(left), records=kept)
        self._readers.units.extend([UnitInProgress(scene, unit) for unit in left])
        self._finisher.add(scene)

    def _read_spec(self, unit: UnitInProgress) -> ReadSpec:
        return read_spec(self._job, unit.scene.plan, unit.level_scene, self._execution.backend, self._group)

    def _end_batch_reading(self, unit: UnitInProgress, batch: TileBatch) -> None:
        self._tiles.append(TilesInProgress(unit, batch))
        unit.tiles += len(batch)
        unit.outstanding += len(batch)

    def _end_reading(self, unit: UnitInProgress, summary: ReadSummary | Exception) -> None:
        if isinstance(summary, Exception):
            summary = failed_read(unit.level_scene, unit.unit, summary, unit.tiles)
        unit.summary = summary
        self._finisher.settle_if_done(unit)

    # --- detecting

    def _start_detecting(self) -> None:
        """Give every detector the batches it works on at once, and one more to begin with when one is finished."""
        more = bool(self._readers.running or self._readers.units or self._plans_left)
        while len(self._batches) < self._places + self._loaded:
            parts = self._tiles.batch(more=more)
            if parts is None:
                return
            batch = BatchInProgress(parts)
            self._batches.add(batch)
            self._threads.start("detect", partial(self._detect, batch), partial(self._end_detecting, batch))

    def _detect(self, batch: BatchInProgress) -> tuple[list[TileOutcome], str | None]:
        self._room.remove(sum(map(len, batch.parts)))
        detector = self._free.get()
        if detector is None:
            raise EngineError("the run was stopped")
        try:
            batch.began = time.monotonic()
            with own_stream(detector.execution.device):
                return detect_tiles(detector, [part.batch for part in batch.parts])
        finally:
            self._free.put(detector)

    def _end_detecting(self, batch: BatchInProgress, found: tuple[list[TileOutcome], str | None] | Exception) -> None:
        if isinstance(found, Exception):
            raise found
        if batch not in self._batches:  # given up, and now finished after all
            self._places += 1
            return
        self._end_batch(batch, *found)
        # Before this one ended there was nothing else to do, and readers are slower than the detectors.
        self._hungry += len(self._batches) < self._places and not self._tiles and bool(self._readers.units)
        if self._hungry >= HUNGRY and self._most_reading < self._most_readers:
            self._most_reading, self._hungry = self._most_reading + 1, 0

    def _give_up_late(self) -> None:
        """Give up detectors that have not finished their batch in time; its ground counts as failed."""
        limit = self._job.config.batch_timeout
        late = [b for b in self._batches if b.began is not None and time.monotonic() - b.began > limit]
        for batch in late:
            error = EngineError(f"a detector has not finished its batch within {limit:g} s (batch_timeout)")
            outcomes = [failed_outcome(part.batch.windows, error) for part in batch.parts]
            self._places -= 1
            self._end_batch(batch, outcomes, f"{error}; it is given up")
        if late and not self._places:
            raise EngineError(
                f"no detector is left: each hangs, or needs more than {limit:g} s for a batch; raise --batch-timeout, "
                "or lower --batch or --tile"
            )

    def _end_batch(self, batch: BatchInProgress, outcomes: list[TileOutcome], reason: str | None) -> None:
        self._batches.remove(batch)
        parts = batch.parts
        if reason is not None:
            self._finisher.note_once(reason)
        tiles: Counter[str] = Counter()
        for part, outcome in zip(parts, outcomes, strict=True):
            part.unit.outcomes.append(outcome)
            part.unit.outstanding -= len(part.batch)
            tiles[part.unit.scene.plan.scene.id] += len(part.batch)
        self._emit(TilesDetected(tiles, sum(len(outcome.detections) for outcome in outcomes)))
        for part in parts:
            self._finisher.settle_if_done(part.unit)


def _execution(job: Job) -> Execution:
    """How detectors will run, as far as that is known before one is loaded."""
    return job.model.detector.execution if isinstance(job.model, ObjectModel) else resolve_execution(job)[0]


def _devices(job: Job) -> tuple[str, ...]:
    """The devices of the detectors, which take turns."""
    return (job.model.detector.execution.device,) if isinstance(job.model, ObjectModel) else local_devices(job.device)


def _workers(job: Job, devices: tuple[str, ...]) -> int:
    """Number of detectors; an object of the user's is one, and may not be used by two threads at once."""
    if isinstance(job.model, ObjectModel):
        return 1
    if devices == ("cpu",):
        return job.config.workers or max(1, usable_cpus() // job.config.threads)
    return job.config.workers or len(devices) * detectors_per_device(job.config.gpus_per_detector)
