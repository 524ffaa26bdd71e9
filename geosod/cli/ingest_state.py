"""`geosod ingest status` and `geosod ingest replay`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from geosod.cli.ingest_options import Config, LedgerOption, Out, existing_ledger
from geosod.cli.printing import Json, print_json
from geosod.cli.status_line import counted
from geosod.cli.streams import print_error

if TYPE_CHECKING:
    from geosod.ingest.status import IngestStatus


def status_command(
    out: Out = None,
    config: Config = None,
    ledger: LedgerOption = None,
    max_lag: Annotated[
        float | None,
        typer.Option("--max-lag", min=0, help="Seconds that a scene may wait; beyond that the exit code is 3."),
    ] = None,
    max_poll_age: Annotated[
        float | None,
        typer.Option("--max-poll-age", min=0, help="Seconds since the source was asked to its end, likewise."),
    ] = None,
    max_dead: Annotated[int | None, typer.Option("--max-dead", min=0, help="Dead scenes, likewise.")] = None,
    json: Json = False,
) -> None:
    """Show how an ingestion stands: what waits, what failed, and since when.

    Example: geosod ingest status --config ingest.yaml --max-lag 7200 --max-dead 0

    Exit codes: 0 within the thresholds; 3 beyond one, or the ledger cannot be used; 2 bad usage or input; 1 a bug.
    """
    from geosod.ingest.status import ingest_status

    with closing(existing_ledger(config, out, ledger)) as opened:
        found = ingest_status(opened)
    beyond = found.beyond(max_lag=max_lag, max_poll_age=max_poll_age, max_dead=max_dead)
    code = 3 if beyond else 0
    if json:
        print_json(asdict(found) | {"beyond": beyond, "exit_code": code})
    else:
        print(_lines(found))
    for line in beyond:
        print_error(f"geosod: {line}")
    raise typer.Exit(code)


def replay_command(
    scenes: Annotated[
        list[str] | None,
        typer.Argument(help="Identifiers of scenes or items. Default: all that are dead.", show_default=False),
    ] = None,
    out: Out = None,
    config: Config = None,
    ledger: LedgerOption = None,
    error: Annotated[
        str, typer.Option("--error", help="Only those whose error has this text.", show_default=False)
    ] = "",
    json: Json = False,
) -> None:
    """Let dead scenes be tried again, once what made them fail is dealt with.

    Example: geosod ingest replay --config ingest.yaml --error "status 403"

    Exit codes: 0 done; 3 the ledger cannot be used; 2 bad usage or input; 1 a bug.
    """
    with closing(existing_ledger(config, out, ledger)) as opened:
        number = opened.replay(scenes=scenes or (), containing=error)
    if json:
        print_json({"replayed": number})
    else:
        print_error(f"{counted(number, 'scene')} will be tried again by the next ingester")


def _lines(found: IngestStatus) -> str:
    states = ", ".join(f"{n:,} {state}" for state, n in found.counts.items() if n) or "nothing known yet"
    lines = [f"{found.dataset}: {states}"]
    if found.withdrawn:
        lines.append(f"{counted(found.withdrawn, 'scene')} withdrawn at the source, kept and marked")
    lines.append(f"the oldest scene that waits: {found.lag:,.0f} s" if found.lag else "nothing waits")
    age = "never" if found.poll_age is None else f"{found.poll_age:,.0f} s ago"
    lines.append(f"the source was last asked to its end: {age}")
    lines += [f"the source: {error}" for error in found.source_errors]
    waiting, given_up = found.notices["waiting"], found.notices["given_up"]
    if waiting or given_up:
        lines.append(f"notifications: {waiting:,} waiting, {given_up:,} given up")
    lines += [
        f"{one.state} ({one.attempts}), {one.age:,.0f} s old: {one.scene_id}: {one.error}" for one in found.problems
    ]
    return "\n".join(lines)
