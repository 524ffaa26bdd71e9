"""What a shell may complete besides commands and options: choices, and names of models, networks and formats."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, get_args

from typer.models import ParameterInfo


def add_completions(command: Callable[..., Any]) -> None:
    """Give the parameters of a command what a shell may complete their values with. Others are completed with files."""
    parameters = inspect.signature(command, eval_str=True).parameters
    # Annotations that are texts would be evaluated anew, to other objects, when the command is made.
    command.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    for parameter in parameters.values():
        for info in get_args(parameter.annotation)[1:]:
            if isinstance(info, ParameterInfo) and info.autocompletion is None:
                info.autocompletion = _values(parameter.name, info.metavar or "")


def _values(name: str, metavar: str) -> Callable[[], Sequence[str]] | None:
    """A function that lists the values of a parameter; None where they cannot be listed."""
    if metavar.startswith("[") and metavar.endswith("]"):
        choices = [choice for choice in metavar[1:-1].split("|") if choice != "..."]
        return lambda: choices
    return _LISTS.get(name)


def _models() -> Sequence[str]:
    from geosod.detectors import shipped_models

    return shipped_models()


def _pipelines() -> Sequence[str]:
    return ["small_object_detection", *_models()]


def _networks() -> Sequence[str]:
    from geosod.detectors.zoo.members import MEMBERS

    return list(MEMBERS)


def _label_formats() -> Sequence[str]:
    from geosod.datasets.formats import FORMATS

    return list(FORMATS)


#: Parameter → its values. A parameter of one name means one thing in all commands.
_LISTS: dict[str, Callable[[], Sequence[str]]] = {
    "model": _models,
    "pipeline": _pipelines,
    "network": _networks,
    "format": _label_formats,
    "to": _label_formats,
}
