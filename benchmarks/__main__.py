"""Runs benchmarks by name: ``python -m benchmarks merge borders aoi``; without a name, all of `NAMES`."""

from __future__ import annotations

import subprocess
import sys

NAMES = ("merge", "borders", "deduplicate", "end_to_end", "startup", "write", "memory", "aoi", "remote", "gpu")


def main() -> None:
    chosen = sys.argv[1:] or list(NAMES)
    unknown = set(chosen) - set(NAMES)
    if unknown:
        sys.exit(f"unknown benchmark {', '.join(sorted(unknown))}; choose from {', '.join(NAMES)}")
    for name in chosen:
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)


if __name__ == "__main__":
    main()
