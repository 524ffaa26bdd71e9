"""`geosod view`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geosod.cli.display import display
from geosod.cli.options import Outputs
from geosod.cli.printing import Json, Quiet, print_json
from geosod.cli.status_line import Status, counted
from geosod.cli.streams import print_error

if TYPE_CHECKING:
    from geosod.map_page.run import MapPage


def view_command(
    outputs: Outputs,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", help="New page, NAME.html. Default: beside the first output, with its name.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[float, typer.Option("--threshold", help="Minimum score.")] = 0.0,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Classes to show; by default all.", metavar="A,B,...")
    ] = None,
    max_boxes: Annotated[
        int, typer.Option("--max-boxes", help="Boxes that the page holds at most; those of the best scores are kept.")
    ] = 500_000,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Show scenes that can be read under the boxes.")
    ] = True,
    title: Annotated[
        str | None, typer.Option("--title", help="Title of the page. Default: the outputs.", show_default=False)
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a page that exists.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Make a map of outputs: one HTML page that any browser shows without a network.

    Example: geosod view out --threshold 0.5 -o map.html

    Exit codes: 0 done; 3 done, but some scenes were skipped; 2 bad usage or input; 1 a bug.
    """
    with display(quiet=quiet) as shown:
        from geosod.map_page.run import default_out, view

        def on_progress(what: str, done: int, total: int) -> None:
            count = f"{done:,} of {total:,}"
            shown.update(Status(what, done / total, ((f"{count} scenes", count),) if total > 1 else ()))

        page = view(
            outputs,
            out=out or default_out(outputs[0]),
            threshold=threshold,
            classes=None if classes is None else [name.strip() for name in classes.split(",")],
            max_boxes=max_boxes,
            pictures=pictures,
            title=title,
            overwrite=overwrite,
            on_progress=on_progress,
        )
    if json:
        print_json(_values(page))
    for failure in page.skipped:
        print_error(f"skipped: {failure.message}")
    if not quiet:
        print_error(summary(page))
    if open_it:
        typer.launch(Path(str(page.out)).absolute().as_uri())
    raise typer.Exit(page.exit_code)


def _values(page: MapPage) -> dict[str, Any]:
    names = ("out", "scenes", "boxes", "total", "notes", "seconds", "exit_code")
    skipped = [{"scene_id": one.scene_id, "uri": one.uri, "message": one.message} for one in page.skipped]
    return {name: getattr(page, name) for name in names} | {"bytes": len(page.html.encode()), "skipped": skipped}


def summary(page: MapPage) -> str:
    """The lines printed at the end."""
    lines = [f"note: {note}" for note in page.notes]
    size = f"{len(page.html) / 1e6:.1f} MB"
    lines.append(f"{counted(page.boxes, 'detection')} of {counted(page.scenes, 'scene')} in {page.out} ({size})")
    lines.append(f"done in {page.seconds:.1f} s")
    return "\n".join(lines)
