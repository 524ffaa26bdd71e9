"""`geosod detect` with the arguments given, on the cluster that RAY_ADDRESS names.

    RAY_ADDRESS=HEAD:6379 python pipelines/detect.py /data/scenes -m demo-harbour -o /data/out

The entrypoint of a Ray job, inside which RAY_ADDRESS is set, so that the run joins the cluster. Detectors go to its
GPUs, or to its CPUs where it has none. The exit code is that of `geosod detect`.
"""

from __future__ import annotations

import sys

from geosod.cli.main import run


def main() -> None:
    """Run `geosod detect` with this script's arguments."""
    run(["detect", *sys.argv[1:]])


if __name__ == "__main__":
    main()
