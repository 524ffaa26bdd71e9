"""The local engine in several processes, for many small scenes.

A small scene is mostly Python's work: its header, its tables, its files. Threads of one process do that one after the
other, since they share the interpreter's lock, and hand it over hundreds of times a scene. Here each of several
processes has a share of the cores and runs the local engine on it. This process plans scenes, gives each to the process
that asks next, and yields what they return. Scenes of several units are put aside for the local engine, with all cores.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

from geosod.errors import EngineError, one_line
from geosod.machine import usable_cpus
from geosod.results import Execution, Failure, SceneResult
from geosod.running.destination import Sink
from geosod.running.events import DetectorsStarted, Emit, Event, Note, Ready
from geosod.running.job import Job
from geosod.running.plan_ahead import failed
from geosod.running.planning import ScenePlan
from geosod.running.scene_process import AHEAD, CLOSING, Ended, Order, SceneProcess, Wants

#: Seconds in which nothing is said, after which a note says so.
PATIENCE = 60.0
#: Scenes of several units that are put aside before the local engine takes them.
MAX_ASIDE = 64
#: Processes that may be lost one after the other without a scene that ends in between.
MAX_LOST = 16
#: ... and without one that has loaded a detector.
MAX_NOT_READY = 3
#: Seconds until a process that says nothing more is killed.
_DYING = 10.0


def run(
    job: Job, plans: Iterable[ScenePlan], sink: Sink, emit: Emit, *, processes: int, scenes: int
) -> Iterator[SceneResult]:
    """Detect on every planned scene, and hand the outputs to `sink`; results as they come.

    Args:
        job: what the scenes share; its model is a bundle.
        plans: of the scenes.
        sink: can be pickled.
        emit: takes events.
        processes: how many.
        scenes: about how many there are.

    Raises:
        GeosodError: what loading the first detector raised.
        EngineError: one process after the other was lost.
    """
    left, execution = iter(plans), None

    def emit_once(event: Event) -> None:
        """How detectors run is said once, although those of the local engine are loaded anew."""
        if execution is None or not isinstance(event, Ready):
            emit(event)

    while True:
        crew = _Crew(job, left, sink, emit_once, processes, scenes, execution)
        try:
            yield from crew.run()
        finally:
            crew.close()
        execution = crew.execution
        if crew.aside:
            from geosod.running import local_engine  # imports torch, which nothing else here needs

            yield from local_engine.run(_as(job, execution), crew.aside, sink, emit_once)
        if len(crew.aside) < MAX_ASIDE:
            return


class _Crew:
    """The processes of one run, and what they are doing.

    Attributes:
        execution: how detectors run, as the first one was loaded; None before.
        aside: scenes of several units, which are left.
    """

    def __init__(
        self, job: Job, plans: Iterator[ScenePlan], sink: Sink, emit: Emit, processes: int, scenes: int,
        execution: Execution | None,
    ) -> None:  # fmt: skip
        self._job, self._plans, self._sink, self._emit = job, plans, sink, emit
        self._scenes, self._count = scenes, processes
        self._workers = _workers(job, processes)
        self._cpus = _shares(processes, job.config.threads)
        self._lost, self._was_ready = 0, False
        self._said: SimpleQueue[tuple[SceneProcess, Any]] = SimpleQueue()
        #: Processes with the numbers of their shares of the CPUs.
        self._running: dict[SceneProcess, int] = {}
        #: They wait until the first detector is loaded, so that all are loaded alike.
        self._waiting: list[SceneProcess] = []
        #: Scenes with which a process was lost, in lists that are tried by others.
        self._again: list[list[ScenePlan]] = []
        #: Scenes that are next.
        self._next_ones: deque[ScenePlan] = deque()
        self._more = True
        self._notes: set[str] = set()
        self.execution = execution
        self.aside: list[ScenePlan] = []

    def run(self) -> Iterator[SceneResult]:
        """Results in the order in which scenes are finished."""
        first = self._small()
        if first is None:
            return
        self._next_ones.append(first)
        self._emit(DetectorsStarted(0, sum(self._workers)))
        self._start()
        while self._running:
            try:
                process, message = self._said.get(timeout=PATIENCE)
            except Empty:
                text = f"nothing has finished for {PATIENCE:.0f} s; still waiting"
                self._emit(Note(text, important=True))
                continue
            if process in self._running:
                yield from self._handle(process, message)

    def close(self) -> None:
        """Stop; what processes are doing is ended first."""
        for process in self._running:
            process.stop()
        deadline = time.monotonic() + CLOSING
        for process in self._running:
            process.wait(max(0.0, deadline - time.monotonic()))

    def _handle(self, process: SceneProcess, message: Any) -> Iterator[SceneResult]:
        match message:
            case Wants():
                process.begin()
                process.give(self._next(process))
            case SceneResult():
                self._lost = 0
                process.end(message.scene_id, message.uri)
                yield message
            case Ended(error=None) if not process.begun and not process.waiting and not process.again:
                process.wait(_DYING)
                self._replace(process)
            case Ended() | None:
                yield from self._end(process, None if message is None else message.error)
            case Ready():
                self._begin_others(message)
            case DetectorsStarted():
                self._was_ready |= message.ready > 0
                if message.ready > process.ready:
                    process.ready = message.ready
                    ready = sum(one.ready for one in self._running)
                    self._emit(DetectorsStarted(ready, sum(self._workers)))
            case Note() if message.text in self._notes:
                pass  # another process has said so
            case _:
                if isinstance(message, Note):
                    self._notes.add(message.text)
                self._emit(message)

    # --- processes

    def _start(self) -> None:
        """Start the processes that are not running, as long as there is something to do."""
        while len(self._running) < self._count and (self._again or self._next_ones or self._more):
            share = next(i for i in range(len(self._cpus)) if i not in self._running.values())
            process = SceneProcess(self._cpus[share], self._said, self._again.pop() if self._again else None)
            self._running[process] = share  # before it is started: an interrupt must find it
            process.start()
            if self.execution is None and len(self._running) > 1:
                self._waiting.append(process)
            else:
                self._begin(process)

    def _begin(self, process: SceneProcess) -> None:
        """Give a process its order and its first scenes."""
        settings = {"engine": "local", "processes": 1, "workers": self._workers[self._running[process]]}
        mine = replace(self._job, config=self._job.config.model_copy(update=settings))
        measure = (self._job, self._scenes) if self.execution is None else None
        process.send(Order(_as(mine, self.execution), self._sink, measure))
        for _ in range(AHEAD):
            process.give(self._next(process))

    def _begin_others(self, message: Ready) -> None:
        if self.execution is None:
            self._emit(replace(message, workers=sum(self._workers)))
            self.execution = message.execution
        waiting, self._waiting = self._waiting, []
        for process in waiting:
            self._begin(process)

    def _end(self, process: SceneProcess, error: Exception | None) -> Iterator[SceneResult]:
        """Go on without a process that was lost, or could not go on.

        Others try the scenes that it was working on, half of them each; one that was alone fails.
        """
        how = process.wait(_DYING) if error is None else one_line(error)
        self._check(error, how)
        begun = []
        for plan in process.begun.values():
            # It may have been committed just before.
            done = self._sink.committed(self._job, plan.scene.ref)
            if done is None:
                begun.append(plan)
            else:
                yield done
        self._next_ones.extend([*process.waiting, *(process.again or ())])
        if len(begun) == 1 and process.again is not None:
            yield _failure(begun[0], error, how)
        else:
            about = f"{len(begun)} scene(s) are tried again" if begun else "the others go on"
            self._emit(Note(f"a process that detects was lost ({how}); {about}", important=True))
            self._again += [half for half in (begun[::2], begun[1::2]) if half]
        if not process.ready and self._was_ready:
            self._count = max(1, self._count - 1)  # there may not be memory for so many
        self._replace(process)

    def _replace(self, process: SceneProcess) -> None:
        """Let others take the place of a process that is gone."""
        del self._running[process]
        if process in self._waiting:
            self._waiting.remove(process)
        elif self._waiting and self.execution is None:
            self._begin(self._waiting.pop(0))  # the first one had no scene, or was lost before its detector was loaded
        self._start()

    def _check(self, error: Exception | None, how: str) -> None:
        """Refuse to go on where that makes no sense.

        Raises:
            GeosodError: what the first detector raised as it was loaded.
            EngineError: too many processes were lost.
        """
        if error is not None and self.execution is None:
            raise error
        self._lost += 1
        if self._lost >= MAX_NOT_READY and not self._was_ready:
            raise EngineError(
                f"{self._lost} processes were lost before they had loaded a detector, the last with {how}; see what "
                "they have printed, and run again with --processes 1"
            )
        if self._lost > MAX_LOST:
            raise EngineError(
                f"{self._lost} processes were lost one after the other, the last with {how}; see whether memory is "
                "short, and run again with --processes 1"
            ) from error

    # --- scenes

    def _next(self, process: SceneProcess) -> ScenePlan | None:
        """The next scene for a process; None for no more."""
        if process.again is not None:
            return process.again.pop() if process.again else None
        return self._next_ones.popleft() if self._next_ones else self._small()

    def _small(self) -> ScenePlan | None:
        """The next plan of one unit; others are put aside."""
        while self._more:
            plan = next(self._plans, None)
            if plan is not None and len(plan.units) <= 1:
                return plan
            if plan is not None:
                self.aside.append(plan)
            self._more = plan is not None and len(self.aside) < MAX_ASIDE
        return None


def _failure(plan: ScenePlan, error: Exception | None, how: str) -> SceneResult:
    """The result of a scene with which two processes were lost, the second one by this scene alone."""
    ref = plan.scene.ref
    cause = error or EngineError(
        f"{ref.uri}: the process that worked on this scene alone was lost ({how}); the file may be damaged: see "
        "whether GDAL can read it (gdalinfo -checksum)"
    )
    return failed(Failure(plan.scene.id, ref.uri, None, "detect", type(cause).__name__, one_line(cause)))


def _as(job: Job, execution: Execution | None) -> Job:
    """The job whose detectors run as the first one does."""
    if execution is None:
        return job
    same = {name: getattr(execution, name) for name in ("backend", "precision", "batch")}
    return replace(job, config=job.config.model_copy(update=same))


def _workers(job: Job, processes: int) -> list[int]:
    """Number of detectors of each process: as many as were asked for, or as the cores have room for, at least one."""
    config = job.config
    total = config.workers or usable_cpus() // config.threads
    return [max(1, total // processes + (i < total % processes)) for i in range(processes)]


def _shares(processes: int, threads: int) -> list[list[int]]:
    """The CPUs of each process; none where processes are not bound to CPUs.

    Threads of one process wake each other many times a scene, which takes much longer from one core to another.
    """
    if not sys.platform.startswith("linux"):
        return [[]] * processes
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) != usable_cpus() or len(cpus) < processes * threads:
        return [[]] * processes  # a quota of some, which are nobody's own; or not enough for each
    return [cpus[i::processes] for i in range(processes)]
