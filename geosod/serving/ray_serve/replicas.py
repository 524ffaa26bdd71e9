"""Replicas of the model in Ray Serve, as a worker of the service: the listener and its limits stay in this process."""

from __future__ import annotations

import asyncio
import logging
import uuid
from contextlib import ExitStack, suppress
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from geosod.errors import ClusterError, ConfigError
from geosod.machine import usable_cpus
from geosod.running.detect import make_job
from geosod.running.ray_engine.claims import claims
from geosod.running.ray_engine.session import one_line, session
from geosod.running.ray_engine.shared_bundles import share_bundles
from geosod.serving.batching import OnBatch
from geosod.serving.budget import Share
from geosod.serving.options import ServeOptions
from geosod.serving.ray_serve.replica import Replica, Reply
from geosod.serving.refused import RefusedError

log = logging.getLogger("geosod.serving")
DEPLOYMENT = "Replica"
_LOGGING: dict[str, Any] = {"log_level": "WARNING", "enable_access_log": False}
#: Bytes of the object store of a Ray that is started here; bodies and answers pass through it.
_STORE = 512 << 20
#: Replicas that are tried for a request whose replica is lost.
_TRIES = 2
#: Seconds between two questions of Ray Serve whether a replica lives.
_HEALTH_SECONDS = 2.0
#: Seconds of a look at the replicas for `/readyz`.
_READY_SECONDS = 10.0


class Replicas:
    """Sends requests to replicas, each to one that has few.

    Args:
        options: how the service runs.
        settings: of `RunConfig`, those that were given.
        on_batch: called for every batch, once an answer reports it.

    Raises:
        ClusterError: Ray cannot be reached or started, or the replicas do not start.
        UsageError: the model cannot be loaded.
    """

    def __init__(self, options: ServeOptions, settings: dict[str, Any], *, on_batch: OnBatch) -> None:
        self._options, self._on_batch = options, on_batch
        self._name, self.waiting = f"geosod-{uuid.uuid4()}", 0
        self._counted: dict[str, int] = {}
        self._ending = ExitStack()
        try:
            self._ending.enter_context(session(options.ray_address, _STORE))
            self._deploy(settings)
        except BaseException:
            self._ending.close()
            raise

    def _deploy(self, settings: dict[str, Any]) -> None:
        number = self._options.replicas or None
        threads = {"threads": max(1, usable_cpus() // number)} if number else {}
        job = make_job(self._options.model, engine="ray", workers=number, **(threads | settings))
        claimed = claims(job)
        self.replicas = claimed.workers
        deployment = serve.deployment(
            Replica,
            name=DEPLOYMENT,
            num_replicas=self.replicas,
            ray_actor_options=claimed.options,
            max_ongoing_requests=self._options.limits.requests,
            graceful_shutdown_timeout_s=self._options.limits.seconds,
            graceful_shutdown_wait_loop_s=0.1,
            health_check_period_s=_HEALTH_SECONDS,
            health_check_timeout_s=30.0,
        )
        application = deployment.bind(job, share_bundles(job), self._options)
        try:
            # Nobody but this process reaches the replicas: Ray Serve's own listener has none of the limits.
            serve.start(proxy_location="Disabled", logging_config=_LOGGING)
            logging.getLogger("ray.serve").setLevel(logging.WARNING)
            self._ending.callback(self._delete)
            self._handle = serve.run(application, name=self._name, route_prefix=None, logging_config=_LOGGING)
            self.about, problem = self._handle.about.remote().result(timeout_s=60)
        except (RayError, RayServeException, RuntimeError, TimeoutError) as error:
            raise ClusterError(f"the replicas do not start: {one_line(error)}; see `geosod doctor`") from error
        if problem:
            raise ConfigError(problem)

    async def ready(self) -> bool:
        """Whether a replica runs."""
        try:
            return await asyncio.wait_for(asyncio.to_thread(self._running), _READY_SECONDS) > 0
        except (RayError, RayServeException, TimeoutError):
            return False

    def _running(self) -> int:
        found = serve.status().applications.get(self._name)
        if found is None:
            return 0
        states = found.deployments[DEPLOYMENT].replica_states
        return sum(count for state, count in states.items() if state == "RUNNING")

    def close(self) -> None:
        """Let the replicas finish what has begun, and end them; a Ray that was started here ends, too."""
        self._ending.close()

    def _delete(self) -> None:
        with suppress(RayError, RayServeException):
            serve.delete(self._name)
            if not serve.status().applications:
                serve.shutdown()

    async def infer(self, body: bytes, share: Share, log_id: str) -> bytes:  # noqa: ARG002
        """See `Worker.infer`; the bytes of a decoded image are counted where it is decoded."""
        return await self._asked("infer", body, log_id)

    async def detect(self, body: bytes, threshold: float | None, wanted: str) -> bytes:
        """See `Worker.detect`."""
        return await self._asked("detect", body, threshold, wanted)

    async def _asked(self, method: str, *arguments: Any) -> bytes:
        self.waiting += 1
        try:
            reply = await self._reply(method, *arguments)
        finally:
            self.waiting -= 1
        self._count(reply)
        if reply.status != 200:
            raise RefusedError(reply.status, reply.message, reply.headers)
        return reply.content

    def _count(self, reply: Reply) -> None:
        """Count the batches of a replica of which no reply has brought word before."""
        for number, images, seconds in reply.batches:
            if number > self._counted.get(reply.replica, 0):
                self._counted[reply.replica] = number
                self._on_batch(images, seconds)

    async def _reply(self, method: str, *arguments: Any) -> Reply:
        """The reply of a replica; one that is lost in the middle takes no request with it."""
        for left in reversed(range(_TRIES)):
            response = getattr(self._handle, method).remote(*arguments)
            try:
                reply: Reply = await response
                return reply
            except asyncio.CancelledError:
                response.cancel()
                raise
            except RayTaskError:
                raise  # a bug
            except (RayActorError, RayServeException) as error:
                log.warning("a replica is lost: %s", one_line(error))
                if not left:
                    message = "the replicas of the model are lost, and are started again; try again"
                    raise RefusedError(503, message, {"Retry-After": "5"}) from error
        raise AssertionError("the last try returns or raises")
