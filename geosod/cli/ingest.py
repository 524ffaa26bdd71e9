"""`geosod ingest`: scheduled ingestion, its state, and what operators do about failures."""

from __future__ import annotations

import typer

from geosod.cli.ingest_run import backfill_command, run_command
from geosod.cli.ingest_state import replay_command, status_command

ingest_app = typer.Typer(
    help="Take what is new at a source into a dataset, unattended, and see how that stands.", no_args_is_help=True
)
ingest_app.command("run")(run_command)
ingest_app.command("status")(status_command)
ingest_app.command("replay")(replay_command)
ingest_app.command("backfill")(backfill_command)
