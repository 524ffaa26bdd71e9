"""CPUs and memory that may be used: affinity, and the limits of containers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from geosod.machine import available_memory, cgroup_quota, usable_cpus


def group(root: Path, name: str, **files: str) -> None:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file.replace("__", ".")).write_text(text + "\n")


@pytest.mark.parametrize(
    ("own", "groups", "quota"),
    [
        ("0::/a/b", {"a/b": "max 100000", "a": "250000 100000", ".": "max 100000"}, 2.5),
        ("0::/a/b", {"a/b": "50000 100000", "a": "250000 100000"}, 0.5),
        ("0::/", {".": "400000 100000"}, 4.0),
        # In a container the group is named as the host knows it, but only its own files are mounted.
        ("0::/kubepods/pod1/x", {".": "150000 100000"}, 1.5),
        ("0::/a", {"a": "max 100000"}, None),
        ("0::/a", {"a": "nonsense"}, None),
        ("nonsense", {}, None),
    ],
)
def test_quotas_of_control_groups(own, groups, quota, tmp_path) -> None:
    (tmp_path / "own").write_text(own + "\n")
    for name, text in groups.items():
        group(tmp_path / "fs", name, cpu__max=text)
    assert cgroup_quota(tmp_path / "fs", tmp_path / "own") == quota


def test_quotas_of_version_1(tmp_path) -> None:
    (tmp_path / "own").write_text("5:memory:/x\n4:cpu,cpuacct:/docker/9\n0::/\n")
    group(tmp_path / "fs", "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert cgroup_quota(tmp_path / "fs", tmp_path / "own") is None
    group(tmp_path / "fs", "cpu/docker/9", cpu__cfs_quota_us="300000", cpu__cfs_period_us="100000")
    assert cgroup_quota(tmp_path / "fs", tmp_path / "own") == 3.0
    assert cgroup_quota(tmp_path / "fs", tmp_path / "gone") is None


def test_memory_that_is_left(tmp_path) -> None:
    free = available_memory(tmp_path / "fs", tmp_path / "gone")
    assert free == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    (tmp_path / "own").write_text("0::/a/b\n")
    group(tmp_path / "fs", "a", memory__max="max", memory__current="5")
    group(tmp_path / "fs", "a/b", memory__max="9000", memory__current="8000")
    assert available_memory(tmp_path / "fs", tmp_path / "own") == 1000
    group(tmp_path / "fs", "a/b", memory__stat="anon 7\ninactive_file 500\nfile 6000")
    assert available_memory(tmp_path / "fs", tmp_path / "own") == 1500
    (tmp_path / "own").write_text("4:memory:/docker/9\n0::/\n")
    limits = {"memory__limit_in_bytes": "700", "memory__usage_in_bytes": "900"}
    group(tmp_path / "fs", "memory/docker/9", **limits, memory__stat="inactive_file 1\ntotal_inactive_file 300")
    assert available_memory(tmp_path / "fs", tmp_path / "own") == 100


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_affinity() -> None:
    script = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    script += "from geosod.machine import usable_cpus; print(usable_cpus())"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "1\n"
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))
