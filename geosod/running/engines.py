"""Which engine runs a job. Engines differ in where and when the stages run, never in what comes out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Protocol

from geosod.detectors.models import ObjectModel
from geosod.errors import ConfigError
from geosod.machine import usable_cpus
from geosod.results import SceneResult
from geosod.running.destination import Sink
from geosod.running.events import Emit
from geosod.running.job import Job
from geosod.running.planning import ScenePlan

#: From so many cores on, several processes are faster than the threads of one, which share the interpreter's lock.
MAX_LOCAL_CPUS = 32


class Engine(Protocol):
    """Detects on planned scenes."""

    def __call__(self, job: Job, plans: Iterable[ScenePlan], sink: Sink, emit: Emit) -> Iterator[SceneResult]:
        """Detect on every scene of `plans`, hand its outputs to `sink`, and yield what that returns.

        Units that an earlier run has finished are taken from the sink's store, and finished ones are kept there.

        `plans` is advanced and `emit` is called in the calling thread only. A scene that fails is a result of its own.
        """
        ...


def check_engine(job: Job, *, in_process: bool) -> None:
    """Refuse an engine that cannot do what was asked for.

    Args:
        job: what the run's scenes share.
        in_process: whether scenes or results are objects of this process.

    Raises:
        ConfigError: Ray was asked for; or this machine, where detectors will run, lacks the device.
    """
    if job.config.engine == "ray" and in_process:
        raise ConfigError(
            "engine 'ray' reads scenes from files and writes results to files; for arrays, or results in memory "
            "(out=None), leave the engine out or use engine='local'"
        )
    if job.device.is_accelerator and not isinstance(job.model, ObjectModel):
        _check_device(job, in_process=in_process)


def engine_of(job: Job, *, in_process: bool) -> Engine:
    """The engine of a job, checked before; "auto" is Ray on a cluster or a large machine, else this process."""
    name = engine_name(job, in_process=in_process)
    if name == "serial":
        from geosod.running import serial

        return serial.run
    if name == "local":
        from geosod.running import local_engine

        return local_engine.run
    from geosod.running import ray_engine

    return ray_engine.run


def engine_name(job: Job, *, in_process: bool) -> str:
    """ "local", "ray" or "serial"; "auto" is Ray on a cluster or a large machine, else this process."""
    if job.config.engine != "auto":
        return job.config.engine
    here = in_process or isinstance(job.model, ObjectModel)
    # Single GPUs of this machine are none of Ray's business.
    large = not job.device.indices and not here and _large()
    return "ray" if not here and (_on_cluster(job) or large) else "local"


def _check_device(job: Job, *, in_process: bool) -> None:
    device = job.device
    if engine_name(job, in_process=in_process) == "ray":
        if device.indices:
            raise ConfigError(
                f"device {str(device)!r}: Ray chooses the devices of its detectors; use --device {device.kind} with "
                "--workers, or --engine local"
            )
        from geosod.running.ray_engine import check_devices

        check_devices(job)
        if _on_cluster(job):
            return  # other machines may have what this one lacks
    from geosod.detectors.devices import check_device

    check_device(device)


def _on_cluster(job: Job) -> bool:
    """Whether a cluster is named, or a session of Ray is open; a Ray job's script has RAY_ADDRESS."""
    ray = sys.modules.get("ray")
    return bool(job.config.ray_address or os.environ.get("RAY_ADDRESS") or (ray and ray.is_initialized()))


def _large() -> bool:
    from geosod.detectors.execution import gpu_names

    return usable_cpus() > MAX_LOCAL_CPUS or len(gpu_names()) > 1
