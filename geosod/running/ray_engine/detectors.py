"""The detector actors of a run: starting, loading and supplying them, and stopping those that only fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from geosod.device import detectors_per_device
from geosod.errors import ConfigError, EngineError, GeosodError
from geosod.running.events import DetectorsStarted, Emit, Note, Ready
from geosod.running.job import Job
from geosod.running.ray_engine.session import (
    IN_FLIGHT,
    TASK_CPUS,
    cause_of,
    free_resources,
    one_line,
    resources,
    total_of,
)
from geosod.running.ray_engine.tasks import DetectorActor, prepare

#: Readers that supply one GPU, where there are as many cores.
READERS_PER_GPU = 8
#: Kind of device → Ray's name of the resource.
_RAY_NAMES = {"cuda": "GPU", "xpu": "GPU", "npu": "NPU"}
#: Consecutive batches without a single processed tile after which an actor is restarted or stopped.
MAX_FAILED_BATCHES = 3
#: How often a detector is loaded whose process dies meanwhile.
LOADS = 3
#: Seconds without an answer after which free resources are reported.
PATIENCE = 60.0


class DetectorPool:
    """Actors that all run with the execution that the first of them resolved for its machine.

    Attributes:
        execution: how every detector runs.
        on_gpu: whether each has a GPU.
        workers: how many were started.
        readers: how many readers can keep them busy.
    """

    def __init__(self, job: Job, emit: Emit) -> None:
        self._job, self._emit = job, emit
        self._options, self.workers, self.on_gpu = _shape(job)
        # A GPU takes tiles faster than one core decodes them.
        cores = int(resources()[0])
        self.readers = max(2, min(cores, READERS_PER_GPU * self.workers) if self.on_gpu else self.workers)
        # All load at once, each with the execution for its own machine, which is the same on equal machines.
        self._actors = {i: self._start() for i in range(self.workers)}
        loads = [actor.load.remote(None) for actor in self._actors.values()]
        self._first = loads[0]
        self._prepared = [prepare.remote(job.rule) for _ in range(self.readers + 1)]
        self._busy = {0: 0}
        self._failed_batches: dict[int, int] = {}
        self._loading: dict[Any, int] = {}
        self._loads: dict[int, int] = {}

    def load(self) -> None:
        """Wait until the first detector is loaded, and make the others run as it does.

        Raises:
            GeosodError: what loading raised.
            EngineError: it cannot be started.
        """
        self._emit(DetectorsStarted(0, self.workers))
        for attempt in range(LOADS):
            while not ray.wait([self._first], timeout=PATIENCE)[0]:
                self._emit(Note(f"waiting for a detector to start; {free_resources()}", important=True))
            try:
                self.execution, line = ray.get(self._first)
                break
            except RayError as error:
                cause = cause_of(error)
                if isinstance(cause, GeosodError):
                    raise cause from None
                if not isinstance(error, RayActorError) or attempt + 1 == LOADS:
                    message = f"the detector cannot be loaded: {one_line(error)}; see `geosod doctor`"
                    raise EngineError(message) from error
                # The actor died while it loaded, and Ray restarts it.
                self._emit(Note(f"a detector was lost while it loaded ({one_line(error)}); it is loaded again"))
                self._first = self._actors[0].load.remote(None)
        self._emit_started()
        self._emit(Ready(self.execution, line, self.workers))
        self._loading = {self._actors[i].load.remote(self.execution): i for i in range(1, self.workers)}

    def loading(self) -> list[Any]:
        """References that are ready when a detector is loaded, or has failed to load."""
        return list(self._loading)

    def end_loading(self, ref: Any) -> None:
        """Use a loaded detector; one that cannot be loaded is stopped and reported."""
        i = self._loading.pop(ref)
        try:
            ray.get(ref)
            self._busy[i] = 0
            self._emit_started()
        except RayError as error:
            self._loads[i] = self._loads.get(i, 0) + 1
            if isinstance(error, RayActorError) and self._loads[i] < LOADS:
                self._loading[self._actors[i].load.remote(self.execution)] = i
                return
            self._emit(Note(f"one detector of {self.workers} cannot be loaded: {one_line(error)}", important=True))
            self._give_up(i)

    def free(self) -> int | None:
        """The loaded detector with the fewest calls in flight, or None where all have enough."""
        i = min(self._busy, key=self._busy.__getitem__)
        return i if self._busy[i] < IN_FLIGHT else None

    def submit(self, i: int, cuts: list[tuple[int, int]], pixels: list[Any]) -> tuple[Any, Any]:
        """Send slices of batches to a detector; references to the outcomes and to the counts."""
        self._busy[i] += 1
        outcomes, counts = self._actors[i].detect.remote(self.execution, cuts, *pixels)
        return outcomes, counts

    def ended(self, i: int, *, failed: bool) -> None:
        """A detector has finished a batch; it `failed` where no tile of it was processed."""
        if i not in self._busy:
            return
        self._busy[i] -= 1
        self._failed_batches[i] = self._failed_batches.get(i, 0) + 1 if failed else 0
        if self._failed_batches[i] < MAX_FAILED_BATCHES:
            return
        self._failed_batches[i] = 0
        if len(self._busy) > 1:
            self._emit(Note("one detector only fails and is stopped; the others continue", important=True))
            self._give_up(i)
        else:
            # The last one may be stuck in a bad state of its device; a new process starts clean.
            ray.kill(self._actors[i], no_restart=False)

    def close(self) -> None:
        """Stop all detectors."""
        for i in list(self._actors):
            self._stop(i)

    def _start(self) -> Any:
        remote: Any = DetectorActor
        return remote.options(**self._options).remote(self._job)

    def _stop(self, i: int) -> None:
        self._busy.pop(i, None)
        ray.kill(self._actors.pop(i))

    def _give_up(self, i: int) -> None:
        self._stop(i)
        self._emit_started()

    def _emit_started(self) -> None:
        self._emit(DetectorsStarted(len(self._busy), len(self._actors)))


@contextmanager
def detectors(job: Job, emit: Emit) -> Iterator[DetectorPool]:
    """Detectors for a run; they are stopped at its end.

    Raises:
        ConfigError: the cluster cannot hold them.
        EngineError: no detector can be started.
        GeosodError: what loading a detector raised.
    """
    pool = DetectorPool(job, emit)
    try:
        pool.load()
        yield pool
    finally:
        pool.close()


def _shape(job: Job) -> tuple[dict[str, Any], int, bool]:
    """Resources of an actor, the number of actors, and whether each has a GPU.

    They leave room for a reader on every node: on CPUs half a core per thread, less where actors are many.
    """
    cpus, gpus, largest = resources()
    kind = ("cuda" if gpus >= 1 else "cpu") if job.config.device == "auto" else job.device.kind
    if kind != "cpu":
        options, workers = _on_devices(job, kind)
        return options | {"num_cpus": _claim(min(TASK_CPUS, 0.5 * cpus / workers))}, workers, True
    workers = job.config.workers or max(1, int(cpus // job.config.threads))
    share = min(0.5 * job.config.threads, 0.5 * cpus / workers, 0.5 * largest)
    return {"num_cpus": _claim(share)}, workers, False


def check_devices(job: Job) -> None:
    """Refuse, before a run, devices that Ray does not know, or of which the session that is open has too few.

    Raises:
        ConfigError: they are.
    """
    _ray_name(job.device.kind)
    if ray.is_initialized():
        _shape(job)


def _ray_name(kind: str) -> str:
    if kind not in _RAY_NAMES:
        raise ConfigError(f"device {kind!r}: Ray does not schedule such devices; use --engine local")
    return _RAY_NAMES[kind]


def _on_devices(job: Job, kind: str) -> tuple[dict[str, Any], int]:
    """The share of a device that an actor claims, and the number of actors: as many as fit, unless a number is given.

    Raises:
        ConfigError: Ray does not know the kind of device, or has too few.
    """
    name = _ray_name(kind)
    share = job.config.gpus_per_detector or 1.0
    found = int(total_of(name))
    most = found * detectors_per_device(job.config.gpus_per_detector)
    workers = job.config.workers or max(1, most)
    if workers > most:
        each = "a" if share == 1 else f"{share:g} of a"
        raise ConfigError(
            f"{workers} detectors need {each} {name} each, but Ray has {found}; lower --workers, add nodes, or use "
            "--device cpu"
        )
    return {"num_gpus": share} if name == "GPU" else {"resources": {name: share}}, workers


def _claim(share: float) -> float:
    """Ray counts resources in ten-thousandths; rounded down, claims never add up to more than there is."""
    return max(1, int(share * 10_000)) / 10_000
