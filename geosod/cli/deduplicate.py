"""`geosod deduplicate`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from geosod.cli.display import Display, display
from geosod.cli.inputs import with_listed
from geosod.cli.printing import Json, Quiet, print_json
from geosod.cli.status_line import Status, counted
from geosod.cli.streams import print_error
from geosod.results import Failure

if TYPE_CHECKING:
    from geosod.deduplication.run import DeduplicationResult, Step

#: Stage → what is going on, and what is counted.
_STAGES = {
    "reproject": ("reprojecting", "scenes"),
    "match": ("matching", "detections"),
    "write": ("writing", "detections"),
}


def deduplicate_command(
    outputs: Annotated[
        list[str],
        typer.Argument(
            help="Folders, or NAME.parquet files, that geosod detect wrote; - for a list on standard input.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the dataset.", show_default=False)],
    prefer: Annotated[
        str,
        typer.Option(
            "--prefer",
            help="Which box of an object is kept: that with the highest score, or that of the latest scene.",
            metavar="[score|newest]",
        ),
    ] = "score",
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            help="Overlap measure: intersection over union, or over the smaller area.",
            metavar="[iou|ios]",
        ),
    ] = "iou",
    merge_threshold: Annotated[
        float,
        typer.Option("--merge-threshold", help="Boxes of two scenes are one object if the metric reaches this value."),
    ] = 0.5,
    class_agnostic: Annotated[
        bool, typer.Option("--class-agnostic", help="Also merge boxes of different classes.")
    ] = False,
    crs: Annotated[
        str | None,
        typer.Option("--crs", help="CRS of the dataset; by default that of the outputs, or OGC:CRS84 if they differ."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the folder if it holds only files that geosod wrote.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Combine the outputs of overlapping scenes into one dataset in which each object occurs once.

    Example: geosod deduplicate out-may out-june -o summer --prefer newest

    Exit codes: 0 done; 3 done, but some scenes were skipped; 2 bad usage or input; 1 a bug.
    """
    with display(quiet=quiet) as shown:
        from geosod.deduplication.run import deduplicate

        result = deduplicate(
            with_listed(outputs),
            out=out,
            prefer=cast(Literal["score", "newest"], prefer),
            metric=cast(Literal["iou", "ios"], metric),
            threshold=merge_threshold,
            class_agnostic=class_agnostic,
            crs=crs,
            overwrite=overwrite,
            on_event=_show(shown),
        )
    if json:
        values: dict[str, Any] = asdict(result) | {"merged": result.merged, "exit_code": result.exit_code}
        print_json(values)
    if not quiet:
        print_error(summary(result))
    raise typer.Exit(result.exit_code)


def _show(display: Display) -> Callable[[Step | Failure], None]:
    """A callback for the events of a deduplication, which shows them on a display."""
    display.update(Status("reading the outputs"))

    def emit(event: Step | Failure) -> None:
        if isinstance(event, Failure):
            display.say(f"skipped: {event.message}", "error")
        else:
            phase, unit = _STAGES[event.stage]
            count = f"{event.done:,} of {event.total:,}"
            fraction = event.done / event.total if event.done < event.total else None
            display.update(Status(phase, fraction, ((f"{count} {unit}", count),)))

    return emit


def summary(result: DeduplicationResult) -> str:
    """The lines printed at the end."""
    lines = [
        f"{counted(result.rows_out, 'object')} in {result.out}, from {counted(result.rows_in, 'detection')} in "
        f"{counted(result.scenes, 'scene')}",
        f"{counted(result.merged, 'duplicate')} removed" + (", kept in duplicates.parquet" if result.merged else ""),
        f"done in {result.seconds:.1f} s",
    ]
    if result.pixel_scenes:
        lines.append(f"of the scenes, {result.pixel_scenes:,} without georeference, copied unchanged")
    if result.skipped:
        lines.append(f"{counted(len(result.skipped), 'scene')} skipped, listed in failures.parquet")
    return "\n".join(lines)
