"""`geosod dataset slice` and `geosod dataset scale`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geosod.cli.dataset_options import problem_values, read, say_problems, with_label_options
from geosod.cli.display import Display, display
from geosod.cli.printing import Json, Quiet, print_json
from geosod.cli.status_line import Status, counted
from geosod.cli.streams import print_error

if TYPE_CHECKING:
    from geosod.datasets.labels import Labels
    from geosod.datasets.problems import Problems

_Labels = Annotated[Path, typer.Argument(help="File or folder of labels.", show_default=False)]
_Out = Annotated[Path, typer.Option("--out", "-o", help="New folder.", show_default=False)]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a folder that geosod wrote.")]


@with_label_options
def slice_command(
    labels: _Labels,
    out: _Out,
    tile: Annotated[str, typer.Option("--tile", help="Side of a tile in pixels, or 640x512.")] = "640",
    overlap: Annotated[
        str, typer.Option("--overlap", help="Overlap of tiles: a ratio below 1, or pixels; 0.25x0.1 for x and y.")
    ] = "0.2",
    min_visible: Annotated[
        float,
        typer.Option("--min-visible", min=0, max=1, help="Boxes of which a tile shows less are ignored in it."),
    ] = 0.25,
    drop_hidden: Annotated[
        bool, typer.Option("--drop-hidden", help="Leave such boxes out, so that their pixels are background.")
    ] = False,
    negatives: Annotated[
        float, typer.Option("--negatives", min=0, max=1, help="Share of the tiles without objects that is kept.")
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed keeps other tiles without objects.")] = 0,
    overwrite: _Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Cut labelled images into tiles: OUT/labels.json (COCO) and OUT/images with GeoTIFFs.

    Example: geosod dataset slice train.json -o tiles --tile 512 --overlap 0.2 --negatives 0.3

    Exit codes: 0 done; 3 done, but entries, images or tiles were left out; 2 bad usage or input; 1 a bug.
    """
    with display(quiet=quiet) as shown:
        from geosod.datasets.slice import Slicing, write_slices
        from geosod.tile_size import parse_overlap, parse_tile

        slicing = Slicing(parse_tile(tile), parse_overlap(overlap), min_visible, drop_hidden, negatives, seed)
        reading = read(labels, options)
        result = write_slices(reading.labels, out, slicing, overwrite=overwrite, on_image=_show(shown, "slicing"))
    if result.empty:
        print_error(f"{counted(result.empty, 'tile')} without a valid pixel, or that could not be read, left out")
    _finish(
        result.labels, out, reading.problems, result.problems, json=json, quiet=quiet, extra={"left_out": result.empty}
    )


@with_label_options
def scale_command(
    labels: _Labels,
    out: _Out,
    by: Annotated[float, typer.Option("--by", help="Pixels for one pixel of the images: 0.5 halves them.")] = 0.5,
    overwrite: _Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Resample labelled images: OUT/labels.json (COCO) and OUT/images with GeoTIFFs.

    Example: geosod dataset scale train.json -o half --by 0.5

    Exit codes: 0 done; 3 done, but entries or images were left out; 2 bad usage or input; 1 a bug.
    """
    with display(quiet=quiet) as shown:
        from geosod.datasets.scale import write_scaled

        reading = read(labels, options)
        scaled, problems = write_scaled(reading.labels, out, by, overwrite=overwrite, on_image=_show(shown, "scaling"))
    _finish(scaled, out, reading.problems, problems, json=json, quiet=quiet, extra={})


def _show(shown: Display, phase: str) -> Callable[[int, int], None]:
    def update(done: int, total: int) -> None:
        text = f"{done:,} of {total:,} images"
        shown.update(Status(phase, done / total if done < total else None, ((text,),)))

    return update


def _finish(
    labels: Labels,
    out: Path,
    read_problems: Problems,
    problems: Problems,
    *,
    json: bool,
    quiet: bool,
    extra: dict[str, Any],
) -> None:
    say_problems(problems)
    for one in read_problems.found:
        problems.found.insert(0, one)
    problems.count += read_problems.count
    if json:
        counts = {"out": str(out), "images": len(labels.images), "boxes": len(labels)}
        print_json(counts | extra | problem_values(problems))
    elif not quiet:
        print_error(f"{out}: {len(labels):,} labels in {counted(len(labels.images), 'image')}")
    raise typer.Exit(3 if problems.count else 0)
