"""Which engine runs a job. Engines differ in where and when the stages run, never in what comes out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from geosod.detectors.models import BundleModel, ObjectModel
from geosod.errors import ConfigError
from geosod.machine import available_memory, interpreter, usable_cpus
from geosod.results import SceneResult
from geosod.running.destination import Sink
from geosod.running.events import Emit
from geosod.running.job import Job
from geosod.running.planning import ScenePlan

#: From so many cores on, several processes are faster than the threads of one, which share the interpreter's lock.
MAX_LOCAL_CPUS = 32
#: From so many scenes on, several processes are worth the seconds of a core in which each starts.
MANY_SCENES = 200
#: More processes would wait for the one that plans their scenes.
MAX_PROCESSES = 6
#: Memory that a process of many small scenes has to find.
PROCESS_BYTES = 1 << 30
#: Files by which Linux offers a GPU: NVIDIA's driver, AMD's, and that of Windows to Linux in it.
_GPU_DEVICES = ("nvidia[0-9]*", "kfd", "dxg")


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
    if (job.config.processes or 1) > 1:
        _check_processes(job, in_process=in_process)
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


def process_count(job: Job, first: ScenePlan, scenes: int, *, in_process: bool) -> int:
    """In how many processes the local engine runs: several where so many small scenes are to be done on a CPU.

    Args:
        job: what the run's scenes share, checked before.
        first: the plan of the first scene; others may differ.
        scenes: number of scenes.
        in_process: whether scenes or results are objects of this process.
    """
    if engine_name(job, in_process=in_process) != "local":
        return 1
    if job.config.processes is not None:
        return min(job.config.processes, scenes)
    small = len(first.units) <= 1 and scenes >= MANY_SCENES
    if not small or job.config.workers or _why_one_process(job, in_process=in_process):
        return 1
    return max(1, min(MAX_PROCESSES, usable_cpus() // job.config.threads, available_memory() // PROCESS_BYTES))


def gpu_count() -> int:
    """Number of CUDA GPUs that torch sees; without a GPU's driver torch is not asked, whose import takes seconds."""
    if sys.platform.startswith("linux") and not any(any(Path("/dev").glob(name)) for name in _GPU_DEVICES):
        return 0
    from geosod.detectors.execution import gpu_names

    return len(gpu_names())


def engine_name(job: Job, *, in_process: bool) -> str:
    """ "local", "ray" or "serial"; "auto" is Ray on a cluster or a large machine, else this process."""
    if job.config.engine != "auto":
        return job.config.engine
    if (job.config.processes or 1) > 1:
        return "local"
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
    return usable_cpus() > MAX_LOCAL_CPUS or gpu_count() > 1


def _check_processes(job: Job, *, in_process: bool) -> None:
    asked = f"processes = {job.config.processes}"
    if job.config.engine in ("ray", "serial"):
        raise ConfigError(f"{asked}: is for the local engine; leave it out, or use --engine local")
    if why := _why_one_process(job, in_process=in_process):
        raise ConfigError(f"{asked}: {why}")
    if job.config.workers is not None and job.config.workers < (job.config.processes or 1):
        raise ConfigError(f"{asked}: each needs a detector, and workers = {job.config.workers}; leave --workers out")


def _why_one_process(job: Job, *, in_process: bool) -> str | None:
    """Why the local engine cannot run in several processes, and what to do; None where it can."""
    if in_process or not isinstance(job.model, BundleModel):
        return "other processes take scenes and outputs that are files, and models that are bundles, only; leave it out"
    if os.name != "posix" or interpreter() is None:
        return "other processes cannot be started here; leave it out"
    if job.device.is_accelerator or (job.device.kind == "auto" and gpu_count()):
        return "is for detectors on the CPU; leave it out, or add --device cpu"
    return None
