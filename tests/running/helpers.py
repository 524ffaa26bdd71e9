"""What the tests of both engines share."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil

import geosod
from geosod.running.result import Result

#: One resolved execution, so that results can be compared byte for byte.
PLAIN = {"precision": "fp32", "backend": "eager", "batch": 4, "device": "cpu"}
#: Ray may end idle workers beyond the number of its cores, of which tests state one or two, and start others for the
#: next run, which takes seconds of a core each.
WORKERS: dict[str, Any] = {"num_workers_soft_limit": 8, "prestart_worker_first_driver": False}
#: A Ray on this machine, for `ray.init`.
RAY: dict[str, Any] = {
    "address": "local",
    "num_cpus": 1,
    "object_store_memory": 300 << 20,
    "include_dashboard": False,
    "log_to_driver": False,
    "_system_config": WORKERS,
}
#: A head where no task runs, for `ray.cluster_utils.Cluster`. Nodes that are slow are not taken for lost; of those that
#: are killed connections break at once.
HEAD: dict[str, Any] = {
    "num_cpus": 0,
    "object_store_memory": 150 << 20,
    "_system_config": WORKERS | {"health_check_timeout_ms": 120_000},
}


def detect(scenes: Any, model: Path, out: Path, **settings: Any) -> Result:
    """Run with the plain execution, which settings may replace; in Ray with one detector, as each is slow to start."""
    settings = PLAIN | {"engine": "serial"} | settings
    if settings["engine"] == "ray":
        settings = {"workers": 1} | settings
    return geosod.detect(scenes, model=model, out=out, **settings)


def start_ray() -> None:
    """Start Ray on this machine unless it runs; runs join the session that is open."""
    import ray

    if not ray.is_initialized():
        ray.init(**RAY | {"object_store_memory": 400 << 20})


def tables(out: Path) -> dict[str, bytes]:
    """Every parquet file below a folder, by its relative path."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


def files(out: Path) -> set[str]:
    """Every file below a folder but the lock."""
    return {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file() and p.name != ".lock"}


def kill_a_worker(name: str) -> bool:
    """Kill one of this process's Ray workers that runs an actor or a task of a name; whether there was one."""
    for process in ray_workers(name):
        os.kill(process.pid, signal.SIGKILL)
        return True
    return False


def ray_workers(name: str) -> list[psutil.Process]:
    """The Ray workers of this process whose title, such as ``ray::read``, has a name in it."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline()).strip()
        except psutil.Error:
            continue
        if title.startswith("ray::") and name in title:
            found.append(process)
    return found
