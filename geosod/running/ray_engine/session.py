"""The connection to Ray, and the resources of a cluster."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from geosod.errors import ClusterError, ConfigError
from geosod.machine import usable_cpus
from geosod.results import Execution
from geosod.running.job import Job
from geosod.running.ray_engine.placement import Node

#: Batch groups in flight for each detector: one being processed, one waiting, one being fetched.
IN_FLIGHT = 3
#: Objects a reader may be ahead of the driver; a batch group is two, its windows and its pixels.
READ_AHEAD = 4
#: Bytes of pixels in one call: each call has a cost.
GROUP_BYTES = 12 << 20
#: Fraction of a core that readers and short tasks claim. They mostly wait for the detectors.
TASK_CPUS = 0.25
#: Bytes of the object store of an embedded Ray, in addition to the batches in flight.
STORE_BASE = 128 << 20

#: Seconds for a connection to a cluster's head, and for its answer.
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 20.0

_CHECK = "check RAY_ADDRESS or --ray-address, that the head runs (ray status), and `geosod doctor`"
_TOKEN = (
    "the cluster asks for its authentication token: set RAY_AUTH_MODE=token, and copy the head's ~/.ray/auth_token to "
    "this machine (or set RAY_AUTH_TOKEN)"
)
_OTHER_TOKEN = (
    "this machine has no authentication token, or another one than the head: copy the head's ~/.ray/auth_token to this "
    "machine (or set RAY_AUTH_TOKEN)"
)
#: Runs in several threads of a process take turns: they share one connection, and would wait for each other's cores.
_one_run = threading.Lock()
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@contextmanager
def session(address: str | None, store: int) -> Iterator[None]:
    """A connection to Ray: the one already open, a cluster by address, or a local Ray for the duration.

    Args:
        address: a cluster's address; None takes RAY_ADDRESS, else starts Ray on this machine.
        store: bytes of the object store of a Ray started here.

    Raises:
        ConfigError: the address is one of Ray Client, which cannot stream.
        ClusterError: Ray cannot be reached or started.
    """
    with _one_run:
        if ray.is_initialized():
            yield
            return
        _start(address, store)
        try:
            yield
        finally:
            ray.shutdown()


def _start(address: str | None, store: int) -> None:
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    if target.startswith("ray://"):
        raise ConfigError(
            f"Ray address {target!r}: Ray Client cannot stream tiles; submit the run as a job on the cluster "
            "(ray job submit), or give the address of its head as HOST:6379"
        )
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if target == "local":
        # Ray ends idle workers beyond this number, and a new one takes seconds of a core to start. One run needs a
        # few more than there are cores, since most of its tasks wait.
        keep = {"num_workers_soft_limit": 4 * usable_cpus()}
        quiet |= {"num_cpus": usable_cpus(), "object_store_memory": store}
        quiet |= {"include_dashboard": False, "_system_config": keep}
    else:
        _check_reachable(target)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(address=target, **quiet)
    except (RayError, ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"Ray at {target!r} cannot be reached or started: {one_line(error)}; {_remedy(str(error))}"
        ) from error


def _check_reachable(address: str) -> None:
    """Refuse the address of a head that does not answer; `ray.init` would wait for it without end.

    Raises:
        ClusterError: nobody listens there, or who does is not a healthy Ray head within `ANSWER_SECONDS`.
    """
    host, _, port = address.rpartition(":")
    given = bool(host and port.isdigit())
    if not given and address != "auto":
        return  # Ray itself refuses it
    where = f"Ray at {address!r} cannot be reached"
    if given:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ClusterError(f"{where}: {reason}; {_CHECK}") from error
    # Without an address it finds the head of this machine, as "auto" does.
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", *(["--address", address] if given else [])]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        who = f"port {port} is open, but no Ray head" if given else "no Ray head of this machine"
        message = f"{where}: {who} answered within {ANSWER_SECONDS:.0f} s; {_CHECK}"
        raise ClusterError(message) from error
    if asked.returncode:
        text = f"{asked.stdout} {asked.stderr}"
        remedy = _remedy(text)
        who = f"port {port} is open, but no healthy Ray head answers there" if given else "no Ray head runs here"
        problem = f"{who}; " if remedy == _CHECK else ""
        raise ClusterError(f"{where}: {problem}{remedy}")


def _remedy(text: str) -> str:
    if "AF_UNIX path" in text:
        return "set TMPDIR (or RAY_TMPDIR) to a folder with a shorter path"
    return token_remedy(text) or _CHECK


def token_remedy(text: str) -> str | None:
    """What to do about an error of Ray's, by its text, if it is about the cluster's authentication token."""
    if not re.search("token|unauthenticated|status code 40[13]", text, re.IGNORECASE):
        return None
    return _OTHER_TOKEN if os.environ.get("RAY_AUTH_MODE", "").lower() == "token" else _TOKEN


def store_bytes(job: Job) -> int:
    """Room for every batch that can be in flight on this machine."""
    workers = job.config.workers or usable_cpus()
    tile_bytes = job.tile[0] * job.tile[1] * len(job.model.card.bands) * np.dtype(job.model.card.dtype).itemsize
    each = max((job.config.batch or 1) * tile_bytes, GROUP_BYTES + tile_bytes)
    return int(STORE_BASE + workers * (IN_FLIGHT + READ_AHEAD + 2) * each)


def group_size(job: Job, execution: Execution) -> int:
    """Tiles in one object and one call of a detector: a few batches where those are small."""
    card = job.model.card
    batch_bytes = execution.batch * job.tile[0] * job.tile[1] * len(card.bands) * np.dtype(card.dtype).itemsize
    return execution.batch * max(1, min(4, GROUP_BYTES // batch_bytes))


def alive_nodes(device: str | None = None) -> list[Node]:
    """The nodes of the cluster, with their devices of a kind by Ray's name; None for those of a run on CPUs."""
    found = [(node, node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return [
        Node(node["NodeID"], node["NodeManagerAddress"], has.get("CPU", 0.0), has.get(device, 0.0) if device else 0.0)
        for node, has in found
    ]


def prefer_node(node: str | None) -> dict[str, Any]:
    """Ray's options for a task or an actor that is best placed on a node, and elsewhere where that is full or gone."""
    if node is None:
        return {}
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True, _spill_on_unavailable=True)}


def joinable() -> list[tuple[int, dict[str, float]]]:
    """Kinds of nodes that the autoscaler may start: how many of each at most, and the resources of one."""
    try:
        config = ray._private.state.state.get_cluster_config()
    except AttributeError:
        return []  # versions of Ray whose autoscaler does not say
    if config is None:
        return []
    return [
        (1 << 16 if group.max_count < 0 else group.max_count, {k: float(v) for k, v in group.resources.items()})
        for group in config.node_group_configs
    ]


def free_resources() -> str:
    """Free resources, in words, for a run that waits."""
    total, free = ray.cluster_resources(), ray.available_resources()
    return ", ".join(f"{free.get(name, 0):g} of {total.get(name, 0):g} {name}s free" for name in ("CPU", "GPU"))


def describe() -> str:
    """Start Ray (or join the open session), run one task, and describe its resources.

    Raises:
        ClusterError: it cannot be reached or started.
    """
    with session(None, STORE_BASE):
        nodes = alive_nodes("GPU")
        ray.get(_nothing.remote(), timeout=60)
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.devices for node in nodes)
        return f"yes: {len(nodes)} node(s), {cpus:g} CPUs, {gpus:g} GPUs"


def cause_of(error: BaseException) -> BaseException:
    """The exception that a task raised, which Ray wraps."""
    cause = getattr(error, "cause", None) if isinstance(error, RayTaskError) else None
    return cause if isinstance(cause, BaseException) else error


def one_line(error: BaseException) -> str:
    """An error in one line; the end of it where it is long, since tracebacks end with the cause."""
    text = " ".join(_ANSI.sub("", str(cause_of(error))).split()) or type(error).__name__
    return text if len(text) <= 400 else f"… {text[-400:]}"


@ray.remote(num_cpus=TASK_CPUS)
def _nothing() -> None:
    """Checks that tasks run."""
