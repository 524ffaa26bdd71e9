"""`geosod evaluate` with the arguments given, on the cluster that RAY_ADDRESS names.

    RAY_ADDRESS=HEAD:6379 python pipelines/evaluate.py --labels val.json -m demo-harbour -o /data/out --json

The entrypoint of a Ray job, inside which RAY_ADDRESS is set. With a model and -o, the images are searched on the
cluster, and their outputs are written to that folder and compared here. Without a model, outputs are compared that are
there already. The exit code is that of `geosod evaluate`.
"""

from __future__ import annotations

import sys

from geosod.cli.main import run


def main() -> None:
    """Run `geosod evaluate` with this script's arguments."""
    run(["evaluate", *sys.argv[1:]])


if __name__ == "__main__":
    main()
