"""What detectors and readers claim of a cluster, and how many of them it holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import ray

from geosod.device import detectors_per_device
from geosod.errors import ConfigError
from geosod.running.job import Job
from geosod.running.ray_engine.placement import Node
from geosod.running.ray_engine.session import TASK_CPUS, alive_nodes, joinable

#: Readers that supply one GPU, where there are as many cores.
READERS_PER_GPU = 8
#: Detectors of a run, at most.
MAX_DETECTORS = 10_000
#: Kind of device → Ray's name of the resource.
_RAY_NAMES = {"cuda": "GPU", "xpu": "GPU", "npu": "NPU"}


@dataclass(frozen=True, slots=True)
class Claims:
    """What a run claims of a cluster as it is now, with the nodes that its autoscaler may add.

    Attributes:
        options: resources of a detector, as Ray's options.
        workers: detectors.
        readers: readers that can keep them busy, as far as there are cores.
        share: of a device that a detector takes; 0 for detectors on CPUs.
        device: Ray's name of the devices, or "CPU".
        nodes: those that are alive.
    """

    options: dict[str, Any]
    workers: int
    readers: int
    share: float
    device: str
    nodes: list[Node]

    @property
    def on_gpu(self) -> bool:
        """Whether each detector has a device."""
        return self.share > 0


def claims(job: Job, *, rank: int = 1) -> Claims:
    """What a run claims. Detectors leave room for a reader on every node: on CPUs half a core per thread, less if many.

    The detectors of each further run claim half as much of the cores, so that those of all runs together never take
    the cores that their readers need.

    Args:
        job: of the run.
        rank: number of runs that there were on the cluster when it began, itself included.

    Raises:
        ConfigError: no node has a CPU, Ray does not know the kind of device, or it has too few.
    """
    groups = joinable()
    cpus = max(sum(node.cpus for node in alive_nodes()), _joinable(groups, "CPU"))
    if cpus <= 0:
        raise ConfigError("Ray has no CPUs; add a node that has some, or start the head with --num-cpus")
    kind = job.device.kind
    if job.config.device == "auto":
        kind = "cuda" if _most(groups, "GPU") >= 1 else "cpu"
    if kind == "cpu":
        return _on_cpus(job, groups, cpus, rank)
    name = _ray_name(kind)
    share = job.config.gpus_per_detector or 1.0
    workers = _on_devices(job, name, share, _most(groups, name))
    options: dict[str, Any] = {"num_gpus": share} if name == "GPU" else {"resources": {name: share}}
    options["num_cpus"] = _claim(min(TASK_CPUS, 0.5 * cpus / workers) / 2 ** (rank - 1))
    # A GPU takes tiles faster than one core decodes them.
    readers = max(2, min(int(cpus), READERS_PER_GPU * workers))
    return Claims(options, workers, readers, share, name, alive_nodes(name))


def renewed(job: Job, before: Claims, *, rank: int = 1) -> Claims:
    """The claims of a run that goes on, on the cluster as it is now; the kind of device stays."""
    try:
        now = claims(job, rank=rank)
    except ConfigError:
        now = None  # nodes are lost that were there when the run started
    if now is not None and now.device == before.device:
        return now
    return replace(before, nodes=alive_nodes(before.device if before.on_gpu else None))


def stranded(now: Claims) -> bool:
    """Whether no node is left that can hold a detector, and the autoscaler says of none that it may join."""
    here = any(node.room(now.share) if now.on_gpu else node.cpus for node in now.nodes)
    return not here and not _joinable(joinable(), now.device)


def check_devices(job: Job) -> None:
    """Refuse, before a run, devices that Ray does not know, or of which the session that is open has too few.

    Raises:
        ConfigError: they are.
    """
    _ray_name(job.device.kind)
    if ray.is_initialized():
        claims(job)


def _on_cpus(job: Job, groups: list[tuple[int, dict[str, float]]], cpus: float, rank: int) -> Claims:
    nodes = alive_nodes()
    largest = max([*(node.cpus for node in nodes), *(has.get("CPU", 0.0) for count, has in groups if count)])
    workers = job.config.workers or max(1, min(MAX_DETECTORS, int(cpus // job.config.threads)))
    share = min(0.5 * job.config.threads, 0.5 * cpus / workers, 0.5 * largest)
    return Claims({"num_cpus": _claim(share / 2 ** (rank - 1))}, workers, max(2, workers), 0.0, "CPU", nodes)


def _on_devices(job: Job, name: str, share: float, found: int) -> int:
    """The number of detectors: as many as fit, unless a number is given."""
    most = found * detectors_per_device(job.config.gpus_per_detector)
    workers = job.config.workers or max(1, min(MAX_DETECTORS, most))
    if workers > most:
        each = "a" if share == 1 else f"{share:g} of a"
        raise ConfigError(
            f"{workers} detectors need {each} {name} each, but Ray has {found}; lower --workers, add nodes, or use "
            "--device cpu"
        )
    return workers


def _ray_name(kind: str) -> str:
    if kind not in _RAY_NAMES:
        raise ConfigError(f"device {kind!r}: Ray does not schedule such devices; use --engine local")
    return _RAY_NAMES[kind]


def _most(groups: list[tuple[int, dict[str, float]]], name: str) -> int:
    """How much of a resource the nodes have, those included that may join."""
    return max(int(sum(node.devices for node in alive_nodes(name))), int(_joinable(groups, name)))


def _joinable(groups: list[tuple[int, dict[str, float]]], name: str) -> float:
    return sum(count * has.get(name, 0.0) for count, has in groups)


def _claim(share: float) -> float:
    """Ray counts resources in ten-thousandths; rounded down, claims never add up to more than there is."""
    return max(1, int(share * 10_000)) / 10_000
