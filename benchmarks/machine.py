"""What the benchmarks run on, in values and in a line that figures are printed with."""

from __future__ import annotations

import datetime as dt
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.processes import ROOT
from geosod.machine import usable_cpus

PACKAGES = ("torch", "ray", "rasterio", "numpy", "numba")


def machine() -> dict[str, Any]:
    """Processor, cores in use, memory, the versions that matter, the date, and the commit of the code."""
    return {
        "date": dt.date.today().isoformat(),
        "processor": _processor(),
        "cores": usable_cpus(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _commit(),
    }


def described(found: dict[str, Any]) -> str:
    """The same in a line."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return (
        f"{found['date']}, {found['processor']}, {found['cores']} cores, {found['memory_gib']} GiB, "
        f"Python {found['python']}, {versions}, commit {found['commit']}"
    )


def describe_machine() -> str:
    """A line that describes this machine."""
    return described(machine())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    """The commit of the working tree, with a ``+`` where files differ from it; "unknown" outside a clone."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "geosod", "benchmarks")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
