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


def interpreter() -> str | None:
    """The Python that can be started as another process; None where this one is a part of another program."""
    from multiprocessing.spawn import get_executable

    found = os.fsdecode(get_executable() or "")
    frozen = getattr(sys, "frozen", False)
    return found if Path(found).stem.lower().startswith("python") and not frozen else None


def cgroup_quota(root: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float | None:
    """The CPU quota of this process's control group in CPUs, the lowest up the tree; None where there is none.

    Args:
        root: where control groups are mounted.
        own: the file that names this process's groups.
    """
    return min(_of_groups(root, own, "cpu", _cpus_2, _cpus_1), default=None)


def available_memory(root: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes of memory that are available to this process: to the machine, and within the limits of its container."""
    import psutil

    limits = _of_groups(root, own, "memory", _memory_2, _memory_1)
    return max(0, int(min([psutil.virtual_memory().available, *limits])))


def _of_groups(
    root: Path, own: Path, controller: str, version_2: Callable[[Path], float | None], version_1: Callable[..., Any]
) -> list[float]:
    """What the control groups of this process say, up the tree."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, colon, name = rest.partition(":")
        if not colon:
            continue
        if controllers == "":
            found += _up_the_tree(root, name, version_2)
        elif controller in controllers.split(","):
            found += _up_the_tree(root / controller, name, version_1)
    return found


def _up_the_tree(mount: Path, name: str, read: Callable[[Path], float | None]) -> list[float]:
    """Values of a group and of those above it; in a container the group's own name may not be mounted."""
    group = mount / name.strip("/")
    groups = [group, *(parent for parent in group.parents if parent.is_relative_to(mount))]
    return [value for folder in {*groups, mount} if (value := read(folder)) is not None]


def _cpus_2(folder: Path) -> float | None:
    try:
        limit, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) / int(period)


def _cpus_1(folder: Path) -> float | None:
    limit, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return None if limit is None or period is None or limit <= 0 or period <= 0 else limit / period


def _memory_2(folder: Path) -> float | None:
    return _left(_number(folder / "memory.max"), _number(folder / "memory.current"), folder, "inactive_file")


def _memory_1(folder: Path) -> float | None:
    limit, used = _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.usage_in_bytes")
    return _left(limit, used, folder, "total_inactive_file")


def _left(limit: int | None, used: int | None, folder: Path, cached: str) -> float | None:
    """Bytes that a group has left, of which those that only cache files are given up when they are needed."""
    if limit is None or used is None:
        return None
    try:
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return limit - used + int(statistics.get(cached, 0))
    except (OSError, ValueError):
        return limit - used


def _number(file: Path) -> int | None:
    """What a file holds; None where there is no such file, or no number in it."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


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
