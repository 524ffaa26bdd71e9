"""`geosod dataset convert` and `geosod dataset split`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from geosod.cli.dataset_options import problem_values, read, with_label_options
from geosod.cli.display import display
from geosod.cli.printing import Json, Quiet, print_json
from geosod.cli.streams import print_error
from geosod.errors import ConfigError

if TYPE_CHECKING:
    from geosod.datasets.contract import Images
    from geosod.datasets.labels import Labels

_Out = Annotated[Path, typer.Option("--out", "-o", help="New file or folder.", show_default=False)]
_To = Annotated[
    str | None, typer.Option("--to", help="Format to write. Default: that of the suffix of OUT.", show_default=False)
]
_ImageFiles = Annotated[
    str | None,
    typer.Option(
        "--image-files",
        help="Whether a folder gets links to the images or copies. Default: links where the format needs images.",
        metavar="[none|link|copy]",
        show_default=False,
    ),
]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file, or a folder that geosod wrote.")]


@with_label_options
def convert_command(
    labels: Annotated[Path, typer.Argument(help="File or folder of labels.", show_default=False)],
    out: _Out,
    to: _To = None,
    image_files: _ImageFiles = None,
    crs: Annotated[
        str | None, typer.Option("--crs", help="CRS of ground coordinates. Default: OGC:CRS84.", show_default=False)
    ] = None,
    overwrite: _Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Write labels in another format.

    Example: geosod dataset convert yolo-folder/ -o train.json

    Exit codes: 0 done; 3 done, but entries were left out (--invalid skip); 2 bad usage or input; 1 a bug.
    """
    with display(quiet=quiet):
        from geosod.datasets.write import write_labels

        reading = read(labels, options)
        images = cast("Images | None", image_files)
        notes = write_labels(reading.labels, out, format=to, image_files=images, crs=crs, overwrite=overwrite)
    counts = {"out": str(out), "images": len(reading.labels.images), "boxes": len(reading.labels)}
    for note in notes:
        print_error(note)
    if json:
        print_json(counts | {"notes": list(notes)} | problem_values(reading.problems))
    elif not quiet:
        print_error(f"{out}: {counts['boxes']:,} labels of {counts['images']:,} images")
    raise typer.Exit(3 if reading.problems.count else 0)


@with_label_options
def split_command(
    labels: Annotated[Path, typer.Argument(help="File or folder of labels.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the parts.", show_default=False)],
    parts: Annotated[
        str, typer.Option("--parts", help="Names and shares of the parts.", metavar="NAME=SHARE,...")
    ] = "train=0.75,val=0.25",
    by: Annotated[
        str, typer.Option("--by", help="What stays in one part.", metavar="[image|scene|location]")
    ] = "image",
    stratify: Annotated[bool, typer.Option("--stratify", help="Give every part its share of each class.")] = False,
    distance: Annotated[
        float, typer.Option("--distance", min=0, help="Metres below which images are one location.")
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed divides in another way.")] = 0,
    to: Annotated[str, typer.Option("--to", help="Format to write.")] = "coco",
    image_files: _ImageFiles = None,
    overwrite: _Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Divide labelled images at random into parts, each a file or folder in OUT.

    Example: geosod dataset split labels.json -o parts --by location --distance 500

    Exit codes: 0 done; 3 done, but entries were left out (--invalid skip); 2 bad usage or input; 1 a bug.
    """
    with display(quiet=quiet):
        from geosod.datasets.split import By, split_labels
        from geosod.datasets.write import write_parts

        reading = read(labels, options)
        chosen = cast(By, by)
        divided = split_labels(
            reading.labels, parse_parts(parts), by=chosen, stratify=stratify, distance=distance, seed=seed
        )
        images = cast(Literal["none", "link", "copy"] | None, image_files)
        notes = write_parts(divided, out, format=to, image_files=images, overwrite=overwrite)
    for note in notes:
        print_error(note)
    if json:
        summary = {name: _summary(part) for name, part in divided.items()}
        print_json({"out": str(out), "parts": summary, "notes": list(notes)} | problem_values(reading.problems))
    elif not quiet:
        for name, part in divided.items():
            print_error(f"{out / name}: {len(part):,} labels of {len(part.images):,} images")
    raise typer.Exit(3 if reading.problems.count else 0)


def parse_parts(text: str) -> dict[str, float]:
    """``train=0.75,val=0.25`` as a mapping; ConfigError for anything else."""
    parts: dict[str, float] = {}
    for pair in text.split(","):
        name, _, share = (word.strip() for word in pair.partition("="))
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if value <= 0 or not name or name in parts or not name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"parts {text!r}: give NAME=SHARE,..., such as train=0.75,val=0.25")
        parts[name] = value
    return parts


def _summary(part: Labels) -> dict[str, Any]:
    from geosod.datasets.sizes import class_counts

    return {"images": len(part.images), "boxes": len(part), "classes": class_counts(part)}
