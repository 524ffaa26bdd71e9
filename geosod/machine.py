"""What of this machine may be used, and when freed memory is given back to it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CGROUPS = Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def usable_cpus() -> int:
    """Number of CPUs that this process may use: its affinity, and the quota of its container, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quota = cgroup_quota()
    return max(1, cpus if quota is None else min(cpus, int(quota)))


def cgroup_quota(root: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float | None:
    """The CPU quota of this process's control group in CPUs, the lowest up the tree; None where there is none.

    Args:
        root: where control groups are mounted.
        own: the file that names this process's groups.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, colon, name = rest.partition(":")
        if not colon:
            continue
        if controllers == "":
            found += _quotas(root, name, _version_2)
        elif "cpu" in controllers.split(","):
            found += _quotas(root / "cpu", name, _version_1)
    return min(found, default=None)


def _quotas(mount: Path, name: str, read: Callable[[Path], float | None]) -> list[float]:
    """Quotas of a group and of those above it; in a container the group's own name may not be mounted."""
    group = mount / name.strip("/")
    groups = [group, *(parent for parent in group.parents if parent.is_relative_to(mount))]
    return [quota for folder in {*groups, mount} if (quota := read(folder)) is not None]


def _version_2(folder: Path) -> float | None:
    try:
        limit, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) / int(period)


def _version_1(folder: Path) -> float | None:
    try:
        limit = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return None if limit <= 0 or period <= 0 else limit / period


def keep_freed_memory() -> None:
    """Let the C library keep the buffers of a forward pass for the next one.

    By default glibc gives large blocks back to the system and takes the same again for every tile, and each time the
    system clears every page of them: a fifth of the time of a small network on a CPU. So no block is mapped by itself,
    and all threads share the heap of the main one, since those of other threads are given back whatever the threshold
    says. See mallopt(3).
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_ARENA_MAX, 1)


def give_back_memory() -> None:
    """Return freed memory that the C library keeps to the system, so that an idle worker keeps no strips."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Any:
    """A function of glibc; None where there is none."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
