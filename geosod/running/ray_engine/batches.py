"""Batches at the detectors: submitting them, and trying those again whose detector died."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError

from geosod.errors import EngineError
from geosod.running import events
from geosod.running.events import Emit
from geosod.running.ray_engine import session, tasks
from geosod.running.ray_engine.detectors import MAX_FAILED_BATCHES, DetectorPool
from geosod.running.ray_engine.progress import BatchInProgress, TilesInProgress, UnitInProgress, halves
from geosod.running.stages import failed_outcome
from geosod.running.tile_queue import TileQueue

#: How often tiles are given to detectors that die or cannot be loaded before they count as failed: once more than a
#: single such detector gets before it is stopped.
ATTEMPTS = MAX_FAILED_BATCHES + 1
#: From so many failures on a batch is halved, to find the tile that kills detectors; one may be the loss of a node.
BISECT = 2


class Batches:
    """The tiles that wait for a detector, and the batches that detectors have.

    Args:
        pool: the detectors.
        group: tiles in a batch.
        emit: takes events.
        on_answer: called with each unit of a batch that is answered.
        on_reason: called with the reason why some of its tiles failed.
    """

    def __init__(
        self,
        pool: DetectorPool,
        group: int,
        emit: Emit,
        on_answer: Callable[[UnitInProgress], None],
        on_reason: Callable[[str], None],
    ) -> None:
        self._pool, self._group, self._emit = pool, group, emit
        self._on_answer, self._on_reason = on_answer, on_reason
        self.waiting: TileQueue[TilesInProgress] = TileQueue(group)
        #: Reference to the counts → batch.
        self.running: dict[Any, BatchInProgress] = {}
        #: Batches that killed a detector, and halves of such; they are not filled up with other tiles.
        self._again: deque[list[TilesInProgress]] = deque()
        #: How many batches were submitted in all, and when each detector died last.
        self._submitted, self._deaths = 0, dict[int, int]()

    @property
    def full(self) -> bool:
        """Whether so many tiles wait that no more need to be read."""
        return len(self.waiting) >= 2 * self._group * max(1, self._pool.ready)

    def __bool__(self) -> bool:
        """Whether tiles wait for a detector or are at one."""
        return bool(self.running or self._again or len(self.waiting))

    def start(self, *, more: bool) -> None:
        """Give the detectors what they have room for.

        Args:
            more: whether more tiles will come.
        """
        while (detector := self._pool.free()) is not None:
            again = self._again.popleft() if self._again else None
            parts = again or self.waiting.batch(more=more, prefer=self._preference(detector))
            if parts is None:
                return
            cuts = [(part.start, part.stop) for part in parts]
            outcomes, counts = self._pool.submit(detector, cuts, [part.pixels for part in parts])
            self._submitted += 1
            self.running[counts] = BatchInProgress(detector, outcomes, parts, self._submitted)

    def _preference(self, detector: int) -> Callable[[TilesInProgress], bool] | None:
        """Which tiles a detector takes first: those of its node, which need not travel."""
        if len(self._pool.claims.nodes) < 2:
            return None
        node = self._pool.node_of(detector)
        return lambda tiles: tiles.node == node

    def end(self, ref: Any) -> None:
        """Take the answer to a batch."""
        batch = self.running.pop(ref)
        outcomes = batch.outcomes
        try:
            report: tasks.BatchReport = ray.get(ref)
        except RayError as error:
            if isinstance(error, ActorUnavailableError):
                self._pool.unreached(batch.detector)
            if isinstance(error, RayActorError) and self._was_waiting(batch):
                self._pool.returned(batch.detector)
                self._repeat(batch.parts)
                return
            self._pool.ended(batch.detector, failed=True)
            if self._try_again(batch):
                return
            cause = EngineError(f"the detector failed {ATTEMPTS} times on this tile: {session.one_line(error)}")
            lost = [failed_outcome(part.windows[part.start : part.stop], cause) for part in batch.parts]
            outcomes, boxes = ray.put(lost), 0
        else:
            boxes, reason = report.boxes, report.reason
            self._pool.ended(batch.detector, failed=report.failed == len(batch), node=report.node)
            self._emit(events.BatchEnded(len(batch), self._group, report.seconds))
            if reason is not None:
                self._on_reason(reason)
        by_scene: Counter[str] = Counter()
        for part in batch.parts:
            by_scene[part.unit.scene.plan.scene.id] += len(part)
        self._emit(events.TilesDetected(by_scene, boxes))
        for place, part in enumerate(batch.parts):
            part.unit.outcomes.append((outcomes, place))
            part.unit.outstanding -= len(part)
            self._on_answer(part.unit)

    def _was_waiting(self, batch: BatchInProgress) -> bool:
        """Whether a batch whose detector died was behind another one, which may be to blame; notes its death otherwise.

        A detector works on batches in order, and all that it was given fail when it dies.
        """
        earlier = [ref for ref, b in self.running.items() if b.detector == batch.detector and b.number < batch.number]
        if earlier:
            ended, waiting = ray.wait(earlier, num_returns=len(earlier), timeout=0, fetch_local=False)
            for ref in ended:
                self.end(ref)
            if waiting:
                return True
        if batch.number <= self._deaths.get(batch.detector, 0):
            return True
        self._deaths[batch.detector] = self._submitted
        return False

    def _try_again(self, batch: BatchInProgress) -> bool:
        """Try a batch again whose detector died; False where it is one tile that was tried often enough."""
        parts = [replace(part, attempts=part.attempts + 1) for part in batch.parts]
        attempts, tiles = parts[0].attempts, len(batch)
        if attempts >= BISECT and tiles > 1:
            self._repeat(*halves(parts))
        elif attempts < ATTEMPTS:
            self._repeat(parts)
        else:
            return False
        return True

    def _repeat(self, *batches: list[TilesInProgress]) -> None:
        self._again.extend(batches)
        self._emit(events.Retried("detect"))
