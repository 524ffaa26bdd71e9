"""The local engine in several processes, for many small scenes.

A small scene is mostly Python's work: its header, its tables, its files. Threads of one process do that one after the
other, since they share the interpreter's lock, and hand it over hundreds of times a scene. Here each of several
processes has a share of the cores and runs the local engine on it. This process plans scenes, gives each to the process
that asks next, and yields what they return. Scenes of several units are left to the local engine at the end, with all
cores.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Any

from geosod.errors import EngineError
from geosod.machine import usable_cpus
from geosod.results import Execution, Failure, SceneResult
from geosod.running.destination import Sink
from geosod.running.events import DetectorsStarted, Emit, Note, Ready
from geosod.running.job import Job
from geosod.running.plan_ahead import failed
from geosod.running.planning import ScenePlan
from geosod.running.scene_process import AHEAD, Ended, Order, SceneProcess, Wants

#: Seconds in which nothing is said, after which a note says so.
PATIENCE = 60.0
#: Scenes of several units that are put aside; after these, all that follow are left to the local engine.
MAX_ASIDE = 64
#: Processes that may be lost one after the other without a scene that ends in between.
MAX_LOST = 10


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
        GeosodError: what loading a detector raised.
        EngineError: one process after the other was lost.
    """
    left = iter(plans)
    crew = _Crew(job, left, sink, emit, processes, scenes)
    try:
        yield from crew.run()
    finally:
        crew.close()
    rest = chain(crew.aside, left)
    first = next(rest, None)
    if first is not None:
        from geosod.running import local_engine  # imports torch, which nothing else here needs

        yield from local_engine.run(_as(job, crew.execution), chain([first], rest), sink, emit)


class _Crew:
    """The processes of one run, and what they are doing.

    Attributes:
        execution: how detectors run, as the first one was loaded; None before.
        aside: scenes of several units, which are left.
    """

    def __init__(
        self, job: Job, plans: Iterator[ScenePlan], sink: Sink, emit: Emit, processes: int, scenes: int
    ) -> None:
        self._job, self._plans, self._sink, self._emit = _of_share(job, processes), plans, sink, emit
        self._count, self._scenes = processes, scenes // processes
        self._workers = processes * (self._job.config.workers or 1)
        self._more, self._lost = True, 0
        self._said: SimpleQueue[tuple[SceneProcess, Any]] = SimpleQueue()
        self._cpus = _shares(processes)
        #: Processes with the numbers of their shares of the CPUs.
        self._running: dict[SceneProcess, int] = {}
        #: They wait until the first detector is loaded, so that all are loaded alike.
        self._waiting: list[SceneProcess] = []
        self._again: list[list[ScenePlan]] = []
        self._notes: set[str] = set()
        self.execution: Execution | None = None
        self.aside: list[ScenePlan] = []

    def run(self) -> Iterator[SceneResult]:
        """Results in the order in which scenes are finished."""
        self._emit(DetectorsStarted(0, self._workers))
        self._start()
        while self._running:
            try:
                process, message = self._said.get(timeout=PATIENCE)
            except Empty:
                text = f"nothing has finished for {PATIENCE:.0f} s; still waiting"
                self._emit(Note(text, important=True))
                continue
            result = self._handle(process, message) if process in self._running else None
            if result is not None:
                yield result

    def close(self) -> None:
        """Stop; what processes are doing is ended first."""
        for process in self._running:
            process.stop()
        for process in self._running:
            process.wait()

    def _handle(self, process: SceneProcess, message: Any) -> SceneResult | None:
        match message:
            case Wants():
                process.give(self._next(process))
            case SceneResult():
                self._lost = 0
                process.end(message.scene_id, message.uri)
                return message
            case Ended():
                if message.error is not None:
                    raise message.error
                process.wait()
                self._replace(process)
            case None:
                return self._end_lost(process)
            case Ready():
                self._begin_others(message)
            case DetectorsStarted():
                if message.ready:
                    process.ready = message.ready
                    self._emit(DetectorsStarted(sum(one.ready for one in self._running), self._workers))
            case Note() if message.text in self._notes:
                pass  # another process has said so
            case _:
                if isinstance(message, Note):
                    self._notes.add(message.text)
                self._emit(message)
        return None

    def _start(self) -> None:
        """Start the processes that are not running, as long as there is something to do."""
        while len(self._running) < self._count and (self._again or self._more):
            share = next(i for i in range(self._count) if i not in self._running.values())
            process = SceneProcess(self._cpus[share], self._said, self._again.pop() if self._again else None)
            self._running[process] = share
            if self.execution is None and len(self._running) > 1:
                self._waiting.append(process)
            else:
                self._begin(process)

    def _begin(self, process: SceneProcess) -> None:
        """Give a process its order and its first scenes."""
        job, scenes = _as(self._job, self.execution), self._scenes if self.execution is None else None
        process.tell(Order(job, self._sink, scenes))
        for _ in range(AHEAD):
            process.give(self._next(process))

    def _begin_others(self, message: Ready) -> None:
        if self.execution is None:
            self.execution = message.execution
            self._emit(replace(message, workers=self._workers))
        for process in self._waiting:
            self._begin(process)
        self._waiting = []

    def _next(self, process: SceneProcess) -> ScenePlan | None:
        """The next scene for a process; None for no more."""
        if process.again is not None:
            return process.again.pop() if process.again else None
        while self._more:
            plan = next(self._plans, None)
            if plan is None:
                self._more = False
            elif len(plan.units) <= 1:
                return plan
            else:
                self.aside.append(plan)
                self._more = len(self.aside) < MAX_ASIDE
        return None

    def _end_lost(self, process: SceneProcess) -> SceneResult | None:
        """Let others try the scenes of a process that is dead, half of them each; one that was alone fails."""
        how, plans = process.wait(), [*process.given.values(), *(process.again or ())]
        self._lost += 1
        if self._lost > MAX_LOST:
            raise EngineError(
                f"{self._lost} processes were lost one after the other, the last with {how}; see whether memory is "
                "short, and run again with --processes 1"
            )
        failure = None
        if len(plans) == 1 and process.again is not None:
            failure = self._failure(plans[0], how)
        else:
            about = f"{len(plans)} scene(s) in progress are tried again" if plans else "another is started"
            self._emit(Note(f"a process that detects was lost ({how}); {about}", important=True))
            self._again += [half for half in (plans[::2], plans[1::2]) if half]
        self._replace(process)
        return failure

    def _replace(self, process: SceneProcess) -> None:
        """Go on without a process that is gone."""
        del self._running[process]
        if process in self._waiting:
            self._waiting.remove(process)
        elif self._waiting and self.execution is None:
            self._begin(self._waiting.pop(0))  # the first one had no scene, or was lost before its detector was loaded
        self._start()

    def _failure(self, plan: ScenePlan, how: str) -> SceneResult:
        ref = plan.scene.ref
        message = (
            f"{ref.uri}: the process that worked on this scene alone was lost ({how}); the file may be damaged: see "
            "whether GDAL can read it (gdalinfo -checksum)"
        )
        return failed(Failure(plan.scene.id, ref.uri, None, "detect", EngineError.__name__, message))


def _of_share(job: Job, processes: int) -> Job:
    """The job of one process, which has as many detectors as its share of the cores has room for."""
    config = job.config
    workers = config.workers or usable_cpus() // config.threads
    settings = {"engine": "local", "processes": 1, "workers": max(1, workers // processes)}
    return replace(job, config=config.model_copy(update=settings))


def _as(job: Job, execution: Execution | None) -> Job:
    """The job whose detectors run as the first one does."""
    if execution is None:
        return job
    same = {name: getattr(execution, name) for name in ("backend", "precision", "batch")}
    return replace(job, config=job.config.model_copy(update=same))


def _shares(processes: int) -> list[list[int]]:
    """The CPUs of each process; none where processes are not bound to CPUs.

    Threads of one process wake each other many times a scene, which takes much longer from one core to another.
    """
    if not sys.platform.startswith("linux"):
        return [[]] * processes
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) != usable_cpus() or len(cpus) < processes:
        return [[]] * processes  # a quota of some, which are nobody's own
    return [cpus[i::processes] for i in range(processes)]
