"""`geosod detect` on a Ray cluster, as the entrypoint of a job.

    ray job submit --submission-id june --working-dir . -- python -m pipelines.detect --config s3://bucket/june.yaml

It takes the arguments of `geosod detect`, joins the cluster that RAY_ADDRESS names (Ray sets it inside of a job), and
ends with the exit code of `geosod detect`. The file of settings may hold the scenes, too, as a list under `scenes`.
What it prints is the log of the job: a line for every scene, and one about the progress every ten seconds.
"""

from __future__ import annotations

import sys

from geosod.cli.main import run


def main() -> None:
    """Run `geosod detect` with this script's arguments."""
    run(["detect", *sys.argv[1:]])


if __name__ == "__main__":
    main()
