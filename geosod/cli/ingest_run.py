"""`geosod ingest run` and `geosod ingest backfill`."""

from __future__ import annotations

import json as json_text
import signal
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geosod.cli.ingest_options import Config, Model, Out, settings, with_ingest_settings
from geosod.cli.printing import Json, Quiet
from geosod.cli.status_line import counted
from geosod.cli.streams import print_error

if TYPE_CHECKING:
    from geosod.ingest.run import IngestResult
    from geosod.running.events import Event

_DryRun = Annotated[bool, typer.Option("--dry-run", help="Ask the source, say what is new, and change nothing.")]


@with_ingest_settings
def run_command(
    model: Model = None,
    out: Out = None,
    config: Config = None,
    once: Annotated[
        bool, typer.Option("--once", help="End when nothing waits any more, for cron and timers (the default).")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until stopped by SIGTERM or Ctrl-C.")] = False,
    dry_run: _DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    **given: Any,
) -> None:
    """Take what is new, changed or withdrawn at a source into a dataset.

    Example: geosod ingest run --source https://stac.example.com/v1 --collections s2 --model ships -o ships --once

    Exit codes: 0 all done, or stopped by SIGTERM; 3 something failed; 2 bad usage or input; 1 a bug.
    """
    from geosod.errors import ConfigError
    from geosod.ingest.run import Ingester

    if once and follow:
        raise ConfigError("--once and --follow exclude each other; give one of them")
    own, run = settings(config, model=model, out=out, **given)
    if dry_run:
        _say_what_is_new(own, run, json=json)
        return

    def show(result: IngestResult) -> None:
        if json:
            print(json_text.dumps(asdict(result) | {"exit_code": result.exit_code}), flush=True)
        for problem in result.problems:
            print_error(f"geosod: {problem}")
        if not quiet and (not follow or any(value for value in asdict(result).values())):
            print_error(summary(result))

    stopped = _stop_by_signal()
    with closing(Ingester(own, run, on_event=_printed)) as ingester:
        if not follow:
            result = ingester.once()
            show(result)
            raise typer.Exit(result.exit_code)
        try:
            ingester.follow(on_cycle=show)
        except BaseException:
            if not stopped:
                raise
            print_error("geosod: stopped; what was in progress is free for other ingesters")


@with_ingest_settings
def backfill_command(
    start: Annotated[str, typer.Option("--from", help="First acquisition time, RFC 3339.", show_default=False)],
    end: Annotated[str, typer.Option("--to", help="Last acquisition time, RFC 3339.", show_default=False)],
    model: Model = None,
    out: Out = None,
    config: Config = None,
    dry_run: _DryRun = False,
    json: Json = False,
    **given: Any,
) -> None:
    """Enter the scenes of a range of dates into the ledger; ingesters process them when nothing newer waits.

    Example: geosod ingest backfill --config ingest.yaml --from 2024-01-01T00:00:00Z --to 2024-02-01T00:00:00Z

    Exit codes: 0 done; 3 the source cannot be asked; 2 bad usage or input; 1 a bug.
    """
    from geosod.errors import ConfigError
    from geosod.ingest.found import instant
    from geosod.ingest.run import Ingester

    first, last = instant(start), instant(end)
    if first is None or last is None or first > last:
        raise ConfigError(f"--from {start} --to {end}: write times as 2024-01-01T00:00:00Z, the earlier one first")
    own, run = settings(config, model=model, out=out, **given)
    if dry_run:
        _say_what_is_new(own, run, json=json, start=first, end=last)
        return
    with closing(Ingester(own, run, on_event=_printed)) as ingester:
        found = ingester.discover(start=first, end=last)
    print_error(f"{counted(found.new, 'scene')} entered, {found.known:,} known before")
    if json:
        print(json_text.dumps(asdict(found)))


def _say_what_is_new(own: Any, run: Any, *, json: bool, start: str | None = None, end: str | None = None) -> None:
    from geosod.ingest.dry_run import what_is_new

    found = what_is_new(own, run, start=start, end=end, on_event=_printed)
    if json:
        print(json_text.dumps(asdict(found)))
    print_error(f"{counted(found.new, 'scene')} would be processed, {found.known:,} known before; nothing was changed")


def _stop_by_signal() -> list[int]:
    """Let SIGTERM interrupt the process; what is returned has an element once it came."""
    came: list[int] = []

    def stop(number: int, _: object) -> None:
        if not came:  # a second one does not disturb the end
            came.append(number)
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    return came


def _printed(event: Event) -> None:
    from geosod.running.events import Failed, Note, SceneFinished

    match event:
        case Note(text, important=True):
            print_error(f"geosod: {text}")
        case Failed(failure) if failure.error != "LeaseLostError":
            print_error(f"geosod: {failure.scene_id}: {failure.message}")
        case SceneFinished(result) if result.status in ("done", "partial"):
            print_error(f"{result.scene_id}: {counted(result.detections, 'detection')}")


def summary(result: IngestResult) -> str:
    """The line of a cycle."""
    words = {
        "new": result.discovered,
        "committed": result.committed,
        "failed, tried again later": result.failed,
        "dead": result.dead,
        "superseded": result.superseded,
        "withdrawn": result.withdrawn,
        "notified": result.notified,
    }
    return ", ".join(f"{number:,} {name}" for name, number in words.items() if number or name in ("new", "committed"))
