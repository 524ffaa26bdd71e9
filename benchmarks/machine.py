"""What a benchmark ran on, in a line that its figures are printed with."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import psutil

from geosod.machine import usable_cpus


def describe_machine() -> str:
    """Processor, cores in use, memory, and the versions that matter."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "rasterio", "numpy"))
    memory = psutil.virtual_memory().total / 2**30
    return f"{_processor()}, {usable_cpus()} cores, {memory:.0f} GiB, Python {platform.python_version()}, {versions}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
