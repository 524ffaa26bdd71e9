"""Which of the runs on one cluster works on a scene, so that runs with the same scenes do each of them once.

The cluster's head keeps a few bytes for each scene that is worked on: who does. They are written on the condition that
there are none. Nobody has to renew them, and no clock is compared: the head itself knows which drivers are alive, and
what a dead one has left counts no more.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.experimental import internal_kv

from geosod.output.stac_item import source_href
from geosod.results import SceneResult
from geosod.running.destination import Sink
from geosod.running.events import Emit, Note
from geosod.running.job import Job
from geosod.running.plan_ahead import failed, plan_failure
from geosod.running.planning import ScenePlan

#: Seconds between two looks at scenes of other runs, and between two notes about them.
POLL, PATIENCE = 1.0, 60.0
_NAMESPACE = b"geosod"


class Ownership:
    """The scenes of one output that a run works on, among those of all runs on the cluster.

    A scene's keys are ``SCENE:0``, ``SCENE:1``, …: the last one counts, and another is added where its run is dead. So
    of several runs that see that at the same time, one gets the scene.

    Attributes:
        rank: number of runs on the cluster when this one began, into whatever output; 1 where it was alone.
    """

    def __init__(self, output: str) -> None:
        """Join the runs on the cluster.

        Args:
            output: what identifies the output on the whole cluster.
        """
        self._output = _digest(output)
        self._job = str(ray.get_runtime_context().get_job_id())
        # Runs of one process take turns, so another one of its runs is over.
        self._me = f"{self._job} {secrets.token_hex(8)}".encode()
        self._held: dict[str, list[bytes]] = {}
        self._dead: dict[str, bool] = {}
        self._looked = -POLL
        # First it is known, and then it counts: of several that begin at once, each sees those that have come before.
        _put(f"run {self._output} {self._me.decode()}".encode(), self._me)
        living = {key for key in _keys("run ") if self._alive(_get(key))}
        self._over = frozenset(key for key in self._runs() if key not in living)
        self._alone = True
        self.rank = len(living)

    @property
    def alone(self) -> bool:
        """Whether no other run into the output has been on the cluster since this one began."""
        if self._alone:
            self._alone = all(key in self._over or self._me in key for key in self._runs())
        return self._alone

    def take(self, source: str) -> bool:
        """Take a scene that no living run works on; whether this run has it now."""
        prefix = f"scene {self._output} {_digest(source)}:"
        while True:
            keys = _keys(prefix)
            if keys:
                holder = _get(keys[-1])
                if holder is None:
                    continue  # it has just been released
                if self._alive(holder):
                    return holder == self._me
            number = int(keys[-1].rpartition(b":")[2]) + 1 if keys else 0
            mine = f"{prefix}{number}".encode()
            if not _put(mine, self._me):
                continue  # another run was faster
            self._held[source] = [*keys, mine]
            return True

    def release(self, source: str) -> None:
        """Give up a scene, which is committed or has failed."""
        for key in self._held.pop(source, ()):
            internal_kv._internal_kv_del(key, namespace=_NAMESPACE)

    def close(self) -> None:
        """Give up everything; that this run was there is remembered, for those that are."""
        for source in list(self._held):
            self.release(source)
        for key in self._over:
            internal_kv._internal_kv_del(key, namespace=_NAMESPACE)

    def _runs(self) -> list[bytes]:
        return _keys(f"run {self._output} ")

    def _alive(self, holder: bytes | None) -> bool:
        if holder is None or holder == self._me:
            return holder is not None
        job = holder.decode().split()[0]
        if job not in self._dead or time.monotonic() - self._looked >= POLL:
            self._dead = {one["JobID"]: bool(one["IsDead"]) for one in ray._private.state.jobs()}
            self._looked = time.monotonic()
        return job != self._job and not self._dead.get(job, True)


class Shares:
    """Divides the scenes of a run into those that it works on and those that another run works on at this moment."""

    def __init__(self, job: Job, sink: Sink, emit: Emit, output: str) -> None:
        self._job, self._sink, self._emit = job, sink, emit
        self._ownership = Ownership(output)
        self._others: list[ScenePlan] = []
        self._sources: dict[str, str] = {}
        self._ended: list[SceneResult] = []

    def own(self, plans: Iterable[ScenePlan]) -> Iterator[ScenePlan]:
        """Those of some scenes that this run takes; the others are left for `wait`."""
        for plan in plans:
            source = source_href(plan.scene.ref.uri)
            if not self._ownership.take(source):
                self._others.append(plan)
                continue
            self._sources[plan.scene.id] = source
            if self._ownership.alone or (done := self._committed(plan)) is None:
                yield plan
            else:
                self._ended.append(self.end(done))

    def end(self, result: SceneResult) -> SceneResult:
        """Give up a scene that has ended."""
        source = self._sources.pop(result.scene_id, None)
        if source is not None:
            self._ownership.release(source)
        return result

    def ended(self) -> Iterator[SceneResult]:
        """Scenes that other runs have committed before this one could begin with them."""
        while self._ended:
            yield self._ended.pop(0)

    def wait(self) -> Iterator[ScenePlan]:
        """Some of the scenes that were left, as soon as the other runs give them up without committing them."""
        noted = -PATIENCE
        while self._others:
            waiting, self._others = self._others, []
            taken = False
            for plan in self.own(waiting):
                taken = True
                yield plan
            if taken or self._ended or not self._others:
                return
            if time.monotonic() - noted >= PATIENCE:
                noted = time.monotonic()
                self._emit(Note(f"waiting for {len(self._others)} scene(s) that another run works on"))
            time.sleep(POLL)

    @property
    def rank(self) -> int:
        """See `Ownership`."""
        return self._ownership.rank

    @property
    def left(self) -> bool:
        """Whether `wait` may give something."""
        return bool(self._others or self._ended)

    def close(self) -> None:
        """Give up all scenes."""
        self._ownership.close()

    def _committed(self, plan: ScenePlan) -> SceneResult | None:
        try:
            return self._sink.committed(self._job, plan.scene.ref)
        except Exception as error:
            return failed(plan_failure(plan.scene.ref, error))


@contextmanager
def shares(job: Job, sink: Sink, emit: Emit) -> Iterator[Shares]:
    """The run's part of the scenes of an output; all are given up at the end."""
    # A folder of this machine is another one elsewhere; without an output there is nothing to share.
    output = secrets.token_hex(8)
    if sink.store is not None:
        place, name = sink.store.folder.place, sink.store.folder.name or ""
        output = f"{'' if place.shared else socket.gethostname()} {place.address} {name}"
    found = Shares(job, sink, emit, output)
    try:
        yield found
    finally:
        found.close()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _keys(prefix: str) -> list[bytes]:
    """Keys that begin with a text, by the number at their end."""
    found: list[bytes] = internal_kv._internal_kv_list(prefix.encode(), namespace=_NAMESPACE)
    return sorted(found, key=lambda key: (len(key), key))


def _get(key: bytes) -> bytes | None:
    found: Any = internal_kv._internal_kv_get(key, namespace=_NAMESPACE)
    return None if found is None else bytes(found)


def _put(key: bytes, value: bytes) -> bool:
    """Write a value where there is none; whether it was written."""
    return not internal_kv._internal_kv_put(key, value, overwrite=False, namespace=_NAMESPACE)
