"""Options of every command that reads labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from geosod.cli.streams import print_error

if TYPE_CHECKING:
    from geosod.datasets.read import Reading

_PANEL = "Labels"
#: Problems that are printed; the others are counted.
_SHOWN = 10


def _option(*flags: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(*flags, help=help, metavar=metavar, show_default=False, rich_help_panel=_PANEL)


_OPTIONS: dict[str, Any] = {
    "format": Annotated[str | None, _option("--format", help="Format of the labels. Default: recognised.")],
    "images": Annotated[
        Path | None, _option("--images", help="Folder of the images. Default: where the format has it.")
    ],
    "scenes": Annotated[
        list[str] | None,
        _option(
            "--scenes", help="Georeferenced scenes, for labels with ground coordinates; may be given several times."
        ),
    ],
    "subset": Annotated[str | None, _option("--subset", help="Part of a set in several, such as train. Default: all.")],
    "classes": Annotated[
        str | None,
        _option(
            "--classes", help="Names of the classes in order, for files that hold only numbers.", metavar="A,B,..."
        ),
    ],
    "label_column": Annotated[str | None, _option("--label-column", help="Column of a vector file with the classes.")],
    "labels_crs": Annotated[str | None, _option("--labels-crs", help="CRS of a vector file that has none.")],
    "rename_classes": Annotated[
        str | None,
        _option(
            "--rename-classes",
            help="New names of classes, or a YAML file of them; those of one name become one, CLASS= drops one.",
            metavar="CLASS=NAME,...",
        ),
    ],
    "points": Annotated[bool, _option("--points", help="Reduce boxes to points at their centres.")],
    "invalid": Annotated[
        str | None,
        _option(
            "--invalid", help="What becomes of entries that cannot be used. Default: refuse.", metavar="[refuse|skip]"
        ),
    ],
}


def with_label_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of this module; it gets them as keywords, for `read`."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=False if name == "points" else None, annotation=kind
        )
        for name, kind in _OPTIONS.items()
    ]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *added)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def read(labels: Path, options: dict[str, Any], *, invalid: str = "refuse", quiet: bool = False) -> Reading:
    """Read labels as the options say; problems and notes go to standard error."""
    from geosod.datasets.class_map import parse_renames
    from geosod.datasets.read import read_labels

    values = dict(options)
    chosen, classes, renames = values.pop("invalid"), values.pop("classes"), values.pop("rename_classes")
    reading = read_labels(
        labels,
        **values | {"scenes": values["scenes"] or (), "crs": values.pop("labels_crs")},
        classes=[name.strip() for name in classes.split(",")] if classes else None,
        rename=parse_renames(renames) if renames else None,
        invalid=cast(Any, chosen or invalid),
    )
    if not quiet:
        say_problems(reading.problems)
        for note in reading.notes:
            print_error(note)
    return reading


def say_problems(problems: Any) -> None:
    """Print the first problems on standard error, and how many there are."""
    for problem in problems.found[:_SHOWN]:
        print_error(f"left out: {problem}")
    if problems.count > _SHOWN:
        print_error(f"left out: {problems.count - _SHOWN:,} more")


def problem_values(problems: Any) -> dict[str, Any]:
    """Problems for JSON."""
    return {"problems": [asdict(one) for one in problems.found], "problem_count": problems.count}
