"""Ray job: `geosod detect` with the arguments given, on the cluster the job was submitted to.

    ray job submit --working-dir . -- python pipelines/detect.py s3-mirror/*.tif -m demo-harbour -o out

Inside a Ray job RAY_ADDRESS is set, so the run joins the cluster; detectors go to its GPUs, or to its CPUs where
it has none. The exit code is that of `geosod detect`.
"""

from __future__ import annotations

import sys

from geosod.cli.main import app


def main() -> None:
    """Run `geosod detect` with this script's arguments."""
    app(["detect", *sys.argv[1:]])


if __name__ == "__main__":
    main()
