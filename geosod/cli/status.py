"""`geosod status`: how far the runs into an output have come."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from geosod.cli.printing import Json, print_json
from geosod.cli.status_line import counted

if TYPE_CHECKING:
    from geosod.running.status import OutputStatus

#: Scenes that are named.
MAX_SHOWN = 10


def status_command(
    out: Annotated[str, typer.Argument(help="What was given to geosod detect with -o.")],
    json: Json = False,
) -> None:
    """Show how far the runs into an output have come, what failed, and what the next run will do.

    Example: geosod status out

    Exit codes: 0 nothing is left to do; 3 scenes are in progress, or some ground failed; 2 bad usage or input.
    """
    from geosod.running.status import output_status

    found = output_status(out)
    if json:
        print_json(asdict(found) | {"exit_code": found.exit_code})
    else:
        print(summary(found))
    raise typer.Exit(found.exit_code)


def summary(found: OutputStatus) -> str:
    """The status in lines."""
    lines = [f"{counted(found.done, 'scene')} done, {counted(found.detections, 'detection')}"]
    if found.partial:
        lines.append(f"{counted(found.partial, 'scene')} done in part; the same command does them again")
    lines += [
        f"{scene.scene_id}: in progress, {scene.finished:,} of {scene.units:,} units finished; the same command goes "
        "on with the others"
        for scene in found.in_progress[:MAX_SHOWN]
    ]
    if len(found.in_progress) > MAX_SHOWN:
        lines.append(f"{len(found.in_progress) - MAX_SHOWN:,} more in progress (--json lists all)")
    if found.failures:
        stages = ", ".join(f"{n:,} ({stage})" for stage, n in found.failures.items())
        lines.append(f"failures: {stages}, of {counted(len(found.failed_scenes), 'scene')}, see failures.parquet")
    if found.left_over:
        lines.append(
            f"finished units of {counted(len(found.left_over), 'scene')} that are done are left over; the same command "
            "removes them"
        )
    return "\n".join(lines)
