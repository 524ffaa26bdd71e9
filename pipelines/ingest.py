"""`geosod ingest run` on a Ray cluster, as the entrypoint of a job.

    ray job submit --submission-id ingest --working-dir . -- python -m pipelines.ingest --config ingest.yaml --once

It takes the arguments of `geosod ingest run`, joins the cluster that RAY_ADDRESS names (Ray sets it inside of a job),
and ends with its exit code. Jobs come and go, so the ledger is in PostgreSQL, and the file of settings says so:
``ledger: postgresql://user@host/database``, with the password in PGPASSWORD. Two jobs at once share the work.
"""

from __future__ import annotations

import sys

from geosod.cli.main import run


def main() -> None:
    """Run `geosod ingest run` with this script's arguments."""
    run(["ingest", "run", *sys.argv[1:]])


if __name__ == "__main__":
    main()
