"""Command-line options made from the settings of `RunConfig`: names, help, choices, defaults and panels."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from geosod.config import RunConfig

if TYPE_CHECKING:
    from pydantic import BaseModel

#: Argument of commands that read what others have written.
Outputs = Annotated[
    list[str],
    typer.Argument(
        help="Folders, or NAME.parquet files, that geosod detect or deduplicate wrote; - for a list on standard input.",
        show_default=False,
    ),
]
#: Panel of the help → its settings.
PANELS: dict[str, tuple[str, ...]] = {
    "Input": ("bands", "asset", "page", "alpha", "datetime", "aoi", "mask", "tile_gsd", "rpc_height", "dem"),
    "Model": ("classifier", "views", "threshold", "classes", "rename_classes", "trust"),
    "Tiling": ("tile", "overlap", "levels"),
    "Merging": (
        *("merge_method", "level_merge", "metric", "merge_threshold", "merge_threshold_by_class", "class_agnostic"),
        *("borders", "sigma", "min_score", "decay"),
    ),
    "Output": ("crs", "overwrite"),
    "Execution": (
        *(
            "engine",
            "workers",
            "processes",
            "ray_address",
            "device",
            "gpus_per_detector",
            "backend",
            "precision",
            "batch",
            "threads",
        ),
        "batch_timeout",
        *("unit", "read_threads", "cache_mb"),
    ),
}
#: Settings whose command-line type does not follow from that of the setting.
_TYPES: dict[str, Any] = {"mask": list[str], "unit": tuple[int, int], "scenes": list[str]}
_NUMBERS = (int, float)


def with_settings(
    command: Callable[..., None],
    *,
    without: Collection[str] = (),
    model: type[BaseModel] = RunConfig,
    panels: Mapping[str, tuple[str, ...]] = PANELS,
) -> Callable[..., None]:
    """Give a command an option for every setting but some; it gets them as keywords, None where one is not given.

    Args:
        command: it takes them as ``**settings``.
        without: settings that are no options.
        model: the settings.
        panels: panel of the help → its settings.
    """
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [
        _parameter(name, model, panel) for panel, names in panels.items() for name in names if name not in without
    ]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *options)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _parameter(name: str, model: type[BaseModel], panel: str) -> inspect.Parameter:
    field = model.model_fields[name]
    description, _, stated = (field.description or "").partition("; default: ")
    flag, default = f"--{name.replace('_', '-')}", field.get_default(call_default_factory=True)
    kind, choices = _option_type(name, field.annotation)
    declared = [f"{flag}/--no-{flag[2:]}" if kind is bool and default is not False else flag]
    shown = stated or _shown(default)
    option = typer.Option(
        *declared,
        help=f"{description[0].upper()}{description[1:]}." + (f" Default: {shown}." if shown else ""),
        rich_help_panel=panel,
        metavar=f"[{'|'.join(choices)}]" if choices else None,
        show_default=False,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _option_type(name: str, annotation: Any) -> tuple[Any, tuple[str, ...]]:
    """The type of an option, and its choices. What is neither a number nor a switch is parsed by `RunConfig`."""
    if name in _TYPES:
        return _TYPES[name], ()
    types = [a for a in get_args(annotation) or (annotation,) if a is not type(None)]
    if get_origin(annotation) is Literal:
        return str, tuple(map(str, types))
    literal = [a for a in types if get_origin(a) is Literal]
    if literal and len(types) == 1:
        return str, tuple(map(str, get_args(literal[0])))
    if len(types) == 1 and types[0] in (*_NUMBERS, bool):
        return types[0], ()
    return str, ()


def _shown(default: Any) -> str:
    """A default as the help shows it; "" where there is nothing to show."""
    if isinstance(default, bool) or default in (None, "", {}):
        return ""
    if isinstance(default, tuple):
        return " ".join(str(getattr(part, "scale", part)) for part in default)
    return str(default)
