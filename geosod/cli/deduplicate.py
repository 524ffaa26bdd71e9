"""`geosod deduplicate`."""

from __future__ import annotations

import json as json_text
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from geosod.cli.progress import LINE_EVERY
from geosod.results import Failure

if TYPE_CHECKING:
    from geosod.deduplication.run import DeduplicationResult, Step

_STAGES = {"reproject": "reprojecting scenes", "match": "matching detections", "write": "writing detections"}


def deduplicate_command(
    outputs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders, or NAME.parquet files, that geosod detect wrote; they are not changed.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the dataset.", show_default=False)],
    prefer: Annotated[
        str,
        typer.Option(
            "--prefer", help="Which box of an object is kept: score (highest score) or newest (latest scene)."
        ),
    ] = "score",
    metric: Annotated[
        str, typer.Option("--metric", help="iou (intersection over union) or ios (intersection over the smaller area).")
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
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")] = False,
) -> None:
    """Combine the outputs of overlapping scenes into one dataset in which each object occurs once.

    Exit codes: 0 done; 3 done, but some scenes were skipped; 2 bad usage or input; 1 a bug.
    """
    from geosod.deduplication.run import deduplicate

    with _reporter(quiet=quiet) as emit:
        result = deduplicate(
            outputs,
            out=out,
            prefer=cast(Literal["score", "newest"], prefer),
            metric=cast(Literal["iou", "ios"], metric),
            threshold=merge_threshold,
            class_agnostic=class_agnostic,
            crs=crs,
            overwrite=overwrite,
            on_event=emit,
        )
    if json:
        values: dict[str, Any] = asdict(result) | {"merged": result.merged, "exit_code": result.exit_code}
        print(json_text.dumps(values, indent=2))
    if not quiet:
        print(summary(result), file=sys.stderr)
    raise typer.Exit(result.exit_code)


@contextmanager
def _reporter(*, quiet: bool) -> Iterator[Callable[[Step | Failure], None]]:
    """A callback for events: a progress bar on a terminal, a line from time to time elsewhere."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if quiet or not console.is_terminal:
        yield _as_lines(console, quiet=quiet)
        return
    columns = [BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn()]
    with Progress(*columns, TextColumn("{task.description}"), console=console) as progress:
        task = progress.add_task("reading the outputs", total=None)

        def emit(event: Step | Failure) -> None:
            if isinstance(event, Failure):
                _print_skipped(progress.console, event)
            else:
                progress.update(task, total=event.total, completed=event.done, description=_progress_text(event))

        yield emit


def _as_lines(console: Console, *, quiet: bool) -> Callable[[Step | Failure], None]:
    last = time.monotonic()

    def emit(event: Step | Failure) -> None:
        nonlocal last
        if isinstance(event, Failure):
            _print_skipped(console, event)
        elif not quiet and time.monotonic() - last >= LINE_EVERY:
            last = time.monotonic()
            console.print(_progress_text(event), markup=False)

    return emit


def _print_skipped(console: Console, failure: Failure) -> None:
    console.print(f"skipped: {failure.message}", style="red", markup=False)


def _progress_text(step: Step) -> str:
    return f"{_STAGES[step.stage]}: {step.done:,} of {step.total:,}"


def summary(result: DeduplicationResult) -> str:
    """The lines printed at the end."""
    lines = [
        f"{result.rows_out:,} detections in {result.out}, of {result.rows_in:,} in {result.scenes} "
        f"scene{'s' if result.scenes != 1 else ''}: {result.merged:,} merged",
        f"{result.compared:,} lie where another scene has detections, too; {result.seconds:.1f} s",
    ]
    if result.merged:
        lines.append("detections merged into others are in duplicates.parquet")
    if result.pixel_scenes:
        lines.append(f"{result.pixel_scenes} without georeference: copied unchanged")
    if result.skipped:
        lines.append(f"{len(result.skipped)} skipped, see failures.parquet")
    return "\n".join(lines)
