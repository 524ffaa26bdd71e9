"""`geosod mine`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geosod.cli.display import display
from geosod.cli.options import with_settings
from geosod.cli.printing import Json, Quiet, Verbose, print_json
from geosod.cli.status_line import Status, counted
from geosod.cli.streams import print_error

if TYPE_CHECKING:
    from geosod.mining.mine import MineResult

_PANELS: dict[str, tuple[str, ...]] = {
    "Input": ("bands", "asset", "page", "alpha", "aoi", "mask"),
    "Model": ("threshold", "classes", "rename_classes", "trust"),
    "Tiling": ("tile", "overlap", "levels"),
    "Execution": (
        *("engine", "workers", "device", "backend", "precision", "batch", "threads", "read_threads", "cache_mb"),
    ),
}
#: Problems that are printed; the others are counted.
_SHOWN = 10


def mine_command(
    scenes: Annotated[
        list[str],
        typer.Argument(
            help="Unlabelled scenes: paths, folders, globs, https:// and s3:// addresses, STAC items; - for a list "
            "on standard input.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="A model's name or a bundle's folder.", show_default=False, rich_help_panel="Model"
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder.", show_default=False)],
    count: Annotated[int, typer.Option("--count", help="Number of crops.")] = 100,
    crop: Annotated[str, typer.Option("--crop", help="Size of a crop in pixels, 512 or 640x512.")] = "512",
    known: Annotated[
        Path | None,
        typer.Option(
            "--known",
            help="Labels that are known: what they show is left out, and what looks like it is not new.",
            show_default=False,
        ),
    ] = None,
    negatives: Annotated[
        bool,
        typer.Option(
            "--negatives",
            help="The scenes hold no object: choose crops with the most confident detections, to train on as "
            "background.",
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that geosod wrote.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    **settings: Any,
) -> None:
    """Choose what to label next: crops of scenes of which a model is unsure, and which are unlike each other.

    OUT gets images/*.tif, labels.json with suggested boxes, mined.csv and contact-sheet.png.

    Example: geosod mine scenes/*.tif --model runs/ships/model -o next --count 50 --known train.json

    Exit codes: 0 done; 3 done, but something could not be read; 2 bad usage or input; 1 a bug.
    """
    with display(quiet=quiet) as shown:
        from geosod.cli.progress import show_run
        from geosod.mining.mine import mine

        shown.update(Status("finding scenes"))
        given = {name: value for name, value in settings.items() if value is not None}
        result = mine(
            scenes,
            model=model,
            out=out,
            count=count,
            crop=crop,
            known=known,
            negatives=negatives,
            overwrite=overwrite,
            on_event=show_run(shown, verbose=verbose),
            **given,
        )
    _print(result, json=json, quiet=quiet)
    raise typer.Exit(result.exit_code)


def _print(result: MineResult, *, json: bool, quiet: bool) -> None:
    for problem in result.left_out[:_SHOWN]:
        print_error(f"left out: {problem}")
    if len(result.left_out) > _SHOWN:
        print_error(f"left out: {len(result.left_out) - _SHOWN:,} more")
    labels = result.labels
    if json:
        values = {"out": str(result.out), "crops": len(labels.images), "suggestions": len(labels)}
        problems = [one.message for one in result.failures] + [str(one) for one in result.left_out]
        print_json(values | {"scenes": result.scenes, "problems": problems, "exit_code": result.exit_code})
    if not quiet:
        what = f"{counted(len(labels.images), 'crop')} with {counted(len(labels), 'suggestion')}"
        print_error(f"{result.out}: {what}, from {counted(result.scenes, 'scene')}; look at contact-sheet.png")
        if result.failures:
            print_error(f"{counted(len(result.failures), 'failure')}: {result.failures[0].message}")


mine_command = with_settings(mine_command, panels=_PANELS)
