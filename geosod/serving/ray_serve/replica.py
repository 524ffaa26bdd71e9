"""What runs in a replica: a worker, whose answers and refusals travel as values."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from geosod.errors import GeosodError, one_line, printable
from geosod.machine import keep_freed_memory
from geosod.running.job import Job
from geosod.running.ray_engine.shared_bundles import SharedBundles, with_local_bundles
from geosod.serving.budget import Budget, Share
from geosod.serving.options import ServeOptions
from geosod.serving.refused import RefusedError, refusal_of
from geosod.serving.worker import LocalWorker

#: Batches of which a reply brings word; the replies to clients that have gone bring it to nobody.
_RECENT = 64


@dataclass(frozen=True, slots=True)
class Reply:
    """What a replica answers.

    Attributes:
        content: of the answer; empty where the request is refused.
        status: 200, or that of the refusal.
        message: why it is refused.
        headers: of the refusal.
        replica: that answers.
        batches: number, images and seconds of its last batches.
    """

    replica: str
    content: bytes = b""
    status: int = 200
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    batches: tuple[tuple[int, int, float], ...] = ()


class Replica:
    """A model in a process of Ray Serve. Images that arrive while a batch is computed share the next one.

    Args:
        job: model and settings.
        shared: the model's files, for machines that cannot read its folder.
        options: how the service runs.
    """

    def __init__(self, job: Job, shared: SharedBundles, options: ServeOptions) -> None:
        keep_freed_memory()
        self._id, self._budget = str(uuid.uuid4()), Budget(options.limits)
        self._count, self._batches = 0, deque[tuple[int, int, float]](maxlen=_RECENT)
        self._worker, self._problem = None, ""
        try:
            local = with_local_bundles(job, shared)
            self._worker = LocalWorker(local, options, on_batch=self._on_batch)
        except GeosodError as error:
            # Ray Serve would start it again and again; whoever started the service gets the error instead.
            self._problem = printable(one_line(error))

    def about(self) -> tuple[dict[str, Any], str]:
        """What `/models` says of the model, and why it could not be loaded."""
        return ({} if self._worker is None else self._worker.about), self._problem

    def check_health(self) -> None:
        """Raise where no image can be detected in; Ray Serve asks, and replaces the replica."""
        if self._worker is not None and not self._worker.model.batcher.alive:
            raise RuntimeError("the detector has ended")

    async def infer(self, body: bytes, log_id: str) -> Reply:
        """See `Worker.infer`."""
        return await self._reply(lambda worker, share: worker.infer(body, share, log_id))

    async def detect(self, body: bytes, threshold: float | None, wanted: str) -> Reply:
        """See `Worker.detect`."""
        return await self._reply(lambda worker, _: worker.detect(body, threshold, wanted))

    async def _reply(self, work: Callable[[LocalWorker, Share], Awaitable[bytes]]) -> Reply:
        try:
            if self._worker is None:
                raise RefusedError(503, self._problem)
            with self._budget.request() as share:
                content = await work(self._worker, share)
        except (GeosodError, MemoryError) as error:
            refusal = refusal_of(error)
            assert refusal is not None
            message = str(refusal)
            return Reply(self._id, b"", refusal.status, message, refusal.headers, tuple(self._batches.copy()))
        return Reply(self._id, content, batches=tuple(self._batches.copy()))

    def _on_batch(self, images: int, seconds: float) -> None:
        self._count += 1
        self._batches.append((self._count, images, seconds))
