"""`geosod train` on a Ray cluster, as the entrypoint of a job.

    ray job submit --submission-id ships --working-dir . -- python -m pipelines.train --config ships.yaml

It takes the arguments of `geosod train`, joins the cluster that RAY_ADDRESS names (Ray sets it inside of a job), and
ends with its exit code. The settings name `ray_workers`. They read images where these are, so paths and addresses must
hold on every node, and the folder of the run must be one that all nodes share.
"""

from __future__ import annotations

import sys

from geosod.cli.main import run


def main() -> None:
    """Run `geosod train` with this script's arguments."""
    run(["train", *sys.argv[1:]])


if __name__ == "__main__":
    main()
