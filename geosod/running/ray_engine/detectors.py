"""The detector actors of a run: starting, loading and supplying them, and stopping those that only fail."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError

from geosod.errors import EngineError, GeosodError
from geosod.running.events import DetectorsStarted, Emit, Note, Ready, Retried
from geosod.running.job import Job
from geosod.running.ray_engine import tasks
from geosod.running.ray_engine.claims import Claims, claims, renewed, stranded
from geosod.running.ray_engine.placement import detector_nodes, explained
from geosod.running.ray_engine.session import IN_FLIGHT, cause_of, free_resources, one_line, prefer_node
from geosod.running.ray_engine.shared_bundles import share_bundles

#: Consecutive batches without a single processed tile after which an actor is restarted or stopped.
MAX_FAILED_BATCHES = 3
#: How often a detector is loaded whose process dies meanwhile, or that cannot be reached: Ray takes half a minute to
#: see that a node is lost, and fails calls to its actors until then.
LOADS, CALLS = 3, 8
#: Seconds until a detector that could not be reached is called again.
AGAIN = 10.0
#: Seconds without an answer after which free resources are reported.
PATIENCE = 60.0
#: Seconds without a node for detectors after which a run ends; until then one may join.
STRANDED = 1800.0


class DetectorPool:
    """Actors that all run with the execution that the first of them resolved for its machine.

    Attributes:
        execution: how every detector runs.
        claims: what the run claims of the cluster, as of the last call of `grow`.
    """

    def __init__(self, job: Job, emit: Emit, rank: int) -> None:
        self._job, self._emit, self._rank = job, emit, rank
        self._shared = share_bundles(job)
        self.claims = claims(job, rank=rank)
        self._nodes: dict[int, str | None] = {}
        self._actors: dict[int, Any] = {}
        self._shares: dict[int, float] = {}
        self._started = self._given_up = 0
        self._usable = time.monotonic()  # when there was a node for detectors last
        # All load at once, each with the execution for its own machine, which is the same on equal machines.
        self._start(self.claims.workers)
        loads = [actor.load.remote(None) for actor in self._actors.values()]
        self._first = loads[0]
        cores = int(sum(node.cpus for node in self.claims.nodes))
        self._prepared = [tasks.prepare.remote(job.rule) for _ in range(min(self.claims.readers, max(2, cores)) + 1)]
        self._busy = {0: 0}
        self._failed_batches: dict[int, int] = {}
        self._loading: dict[Any, int] = {}
        self._loads: dict[int, int] = {}
        self._unreached: set[int] = set()

    def load(self) -> None:
        """Wait until the first detector is loaded, and make the others run as it does.

        Raises:
            GeosodError: what loading raised.
            EngineError: it cannot be started.
        """
        self._emit(DetectorsStarted(0, len(self._actors)))
        self._explain()
        for attempt in range(1, CALLS + 1):
            while not ray.wait([self._first], timeout=PATIENCE)[0]:
                self._emit(Note(f"waiting for a detector to start; {free_resources()}", important=True))
                self._renewed()
            try:
                self.execution, line, self._nodes[0] = ray.get(self._first)
                break
            except RayError as error:
                cause = cause_of(error)
                if isinstance(cause, GeosodError):
                    raise cause from None
                if attempt >= _most_loads(error):
                    message = f"the detector cannot be loaded: {one_line(error)}; see `geosod doctor`"
                    raise EngineError(message) from error
                # The actor died while it loaded, and Ray restarts it.
                self._emit(Note(f"a detector was lost while it loaded ({one_line(error)}); it is loaded again"))
                self._emit(Retried("load"))
                if isinstance(error, ActorUnavailableError):
                    time.sleep(AGAIN)
                self._first = self._actors[0].load.remote(None)
        self._emit_started()
        self._emit(Ready(self.execution, line, len(self._actors)))
        self._load([i for i in self._actors if i != 0])

    def loading(self) -> list[Any]:
        """References that are ready when a detector is loaded, or has failed to load."""
        return list(self._loading)

    def end_loading(self, ref: Any) -> None:
        """Use a loaded detector; one that cannot be loaded is stopped and reported.

        Raises:
            EngineError: it was the last one.
        """
        i = self._loading.pop(ref)
        if i not in self._actors:
            return  # stopped meanwhile
        try:
            _, _, self._nodes[i] = ray.get(ref)
            self._busy[i] = 0
            self._loads.pop(i, None)
            self._emit_started()
        except RayError as error:
            self._loads[i] = self._loads.get(i, 0) + 1
            if self._loads[i] < _most_loads(error):
                self._emit(Retried("load"))
                if isinstance(error, ActorUnavailableError):
                    self._unreached.add(i)
                else:
                    self._load([i])
                return
            self._emit(Note(f"one detector of {len(self._actors)} cannot be loaded: {one_line(error)}", important=True))
            self._give_up(i)

    def free(self) -> int | None:
        """The loaded detector with the fewest calls in flight, or None where all have enough, or none is loaded."""
        i = min(self._busy, key=self._busy.__getitem__, default=None)
        return i if i is not None and self._busy[i] < IN_FLIGHT else None

    def node_of(self, i: int) -> str | None:
        """The node of a detector."""
        return self._nodes[i]

    @property
    def ready(self) -> int:
        """How many detectors are loaded."""
        return len(self._busy)

    def grow(self) -> None:
        """Use nodes that have joined, and give up detectors of lost nodes for which there is no room elsewhere.

        Raises:
            EngineError: no node for detectors is left, and none has joined for a while.
        """
        before = {node.id for node in self.claims.nodes}
        self.claims = self._renewed()
        alive = {node.id for node in self.claims.nodes}
        changed = before != alive
        if changed:
            self._leave_lost(alive)
        self._load([i for i in self._unreached if i in self._actors])
        self._unreached.clear()
        missing = self.claims.workers - len(self._actors) - self._given_up
        if missing > 0:
            self._load(self._start(missing))
            self._emit_started()
        if changed:
            self._explain()

    def _renewed(self) -> Claims:
        """The claims on the cluster as it is now; an EngineError where it has had no node for detectors for long."""
        found, now = renewed(self._job, self.claims, rank=self._rank), time.monotonic()
        if not stranded(found):
            self._usable = now
        elif now - self._usable > STRANDED:
            raise EngineError(
                f"all nodes with {found.device}s are lost, and none has joined for {STRANDED / 60:.0f} min; add nodes "
                "and run the same command again: what is finished is kept"
            )
        return found

    def _leave_lost(self, alive: set[str]) -> None:
        """Stop detectors whose node is lost where no device is free: their batches would wait for a new node."""
        if not self.claims.on_gpu:
            self._make_room(alive)
            return
        room = sum(node.room(self.claims.share) for node in self.claims.nodes)
        for i in [i for i in self._busy if self._nodes[i] not in alive]:
            if len(self._actors) > room and len(self._busy) > 1:
                self._emit(Note("the node of a detector is lost; the others take its tiles", important=True))
                self._stop(i)

    def _make_room(self, alive: set[str]) -> None:
        """Stop detectors that would take the cores that readers need, now that nodes are lost; `grow` replaces them.

        What a detector claims was fixed when it was started, for more cores than there are now.
        """
        room = 0.5 * sum(node.cpus for node in self.claims.nodes)
        for i in sorted(self._actors, key=lambda i: self._nodes.get(i) in alive):
            if room > 0 and sum(self._shares[i] for i in self._actors) > room and set(self._busy) != {i}:
                self._stop(i)

    def submit(self, i: int, cuts: list[tuple[int, int]], pixels: list[Any]) -> tuple[Any, Any]:
        """Send slices of batches to a detector; references to the outcomes and to the counts."""
        self._busy[i] += 1
        outcomes, counts = self._actors[i].detect.remote(self.execution, cuts, *pixels)
        return outcomes, counts

    def ended(self, i: int, *, failed: bool, node: str | None = None) -> None:
        """A detector has finished a batch on a node; it `failed` where no tile of it was processed."""
        if i not in self._busy:
            return
        self._nodes[i] = node or self._nodes[i]
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

    def returned(self, i: int) -> None:
        """A detector has died before it came to a batch."""
        if i in self._busy:
            self._busy[i] -= 1

    def unreached(self, i: int) -> None:
        """A detector could not be reached; `grow` loads it again, which restarts it where its node is lost."""
        if i in self._busy:
            del self._busy[i]
            self._unreached.add(i)
            self._emit_started()

    def close(self) -> None:
        """Stop all detectors."""
        for i in list(self._actors):
            self._stop(i)

    def _start(self, number: int) -> list[int]:
        """Start more detectors, each on the node that suits it; their keys."""
        remote: Any = tasks.DetectorActor
        taken = Counter(node for node in self._nodes.values() if node is not None)
        new = list(range(self._started, self._started + number))
        self._started += number
        for i, node in zip(new, detector_nodes(self.claims.nodes, number, self.claims.share, taken), strict=True):
            self._nodes[i] = node
            options = {**self.claims.options, "max_task_retries": tasks.DETECT_RETRIES, **prefer_node(node)}
            self._shares[i] = float(self.claims.options.get("num_cpus", 0))
            self._actors[i] = remote.options(**options).remote(self._job, self._shared)
        return new

    def _load(self, detectors: list[int]) -> None:
        self._loading |= {self._actors[i].load.remote(self.execution): i for i in detectors}

    def _stop(self, i: int) -> None:
        self._busy.pop(i, None)
        self._nodes.pop(i, None)
        ray.kill(self._actors.pop(i))

    def _give_up(self, i: int) -> None:
        self._stop(i)
        self._given_up += 1
        self._emit_started()
        if not self._actors:
            raise EngineError("all detectors are lost; run the same command again: what is finished is kept")

    def _explain(self) -> None:
        """Say where detectors and readers go, where there is a choice."""
        c = self.claims
        if len(c.nodes) > 1:
            self._emit(Note(explained(c.nodes, self._nodes.values(), c.readers, c.device)))

    def _emit_started(self) -> None:
        self._emit(DetectorsStarted(len(self._busy), len(self._actors)))


def _most_loads(error: RayError) -> int:
    """How often a detector is loaded of which loading raised this."""
    if isinstance(error, ActorUnavailableError):
        return CALLS
    return LOADS if isinstance(error, RayActorError) else 1


@contextmanager
def detectors(job: Job, emit: Emit, *, rank: int = 1) -> Iterator[DetectorPool]:
    """Detectors for a run; they are stopped at its end.

    Args:
        job: of the run.
        emit: takes events.
        rank: see `geosod.running.ray_engine.claims.claims`.

    Raises:
        ConfigError: the cluster cannot hold them.
        EngineError: no detector can be started.
        GeosodError: what loading a detector raised.
    """
    pool = DetectorPool(job, emit, rank)
    try:
        pool.load()
        yield pool
    finally:
        pool.close()
