"""Pages of reference, made from the code when the site is built: commands, settings, Python."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator
from types import UnionType
from typing import Any

from pydantic import BaseModel

import geosod
from docs.builder.docstrings import as_markdown
from geosod.cli.commands import COMMANDS, command_of
from geosod.cli.config_values import configurable
from geosod.cli.lazy import LazyGroup


def commands_page() -> str:
    """Every command with its arguments and options, as its help has them."""
    parts = ["# Commands\n"]
    parts.append(
        "What `geosod COMMAND --help` says, on one page. [The command line](../command-line.md) is about what all "
        "commands share.\n"
    )
    for name, command in COMMANDS.items():
        if isinstance(command, LazyGroup):
            parts += [f"## geosod {name}\n", f"{command.help}\n"]
            parts += [_command((name, inner), "###") for inner in command.commands]
        else:
            parts.append(_command((name,), "##"))
    return "\n".join(parts)


def _command(words: tuple[str, ...], heading: str) -> str:
    command = command_of(*words)
    usage = f"geosod {' '.join(words)}"
    about, _, rest = inspect.cleandoc(command.help or "").partition("\n\n")
    example = re.search(r"Example: (.*)", rest)
    rest = re.sub(r"Example: .*\n?", "", rest).strip()
    parts = [f"{heading} {usage}\n", f"{about}\n"]
    if example:
        parts.append(f"```sh\n{example[1]}\n```\n")
    if rest:
        parts.append(f"{rest}\n")
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        if parameter.name == "help":
            continue
        panel = getattr(parameter, "rich_help_panel", None) or "Options"
        panels.setdefault(panel, []).append(_parameter(parameter))
    for panel, rows in panels.items():
        parts.append(f"| {panel} | |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _parameter(parameter: Any) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    shown = " ".join(f"`{name}`" for name in names) if names[0].startswith("-") else f"`{names[0].upper()}`"
    metavar = parameter.metavar or ""
    choices = metavar[1:-1].split("|") if metavar.startswith("[") and metavar.endswith("]") else []
    listed = f" One of {', '.join(f'`{one}`' for one in choices)}." if choices else ""
    return f"| {shown} | {_cell(parameter.help or '')}{listed} |"


def settings_page() -> str:
    """Every key of the files of settings."""
    parts = ["# Settings\n"]
    parts.append(
        "Keys of the YAML files behind `--config`. Each is an option, too: `merge_method` is `--merge-method`. "
        "`geosod config show` prints the same for a call, with values and where they come from.\n"
    )
    for name in ("detect", "train", "ingest"):
        command = configurable(name)
        parts.append(f"## geosod {' '.join(command.words)}\n")
        for model in command.models:
            if name == "ingest" and model is command.models[-1]:
                parts.append("And the settings of `geosod detect`, in the same file.\n")
            else:
                parts.append(_table(model))
    return "\n".join(parts)


def _table(model: type[BaseModel]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        meaning, _, stated = (field.description or "").partition("; default: ")
        default = stated or _default(field.get_default(call_default_factory=True))
        rows.append(f"| `{name}` | {_cell(_kind(field.annotation))} | {_cell(default)} | {_cell(meaning)} |")
    return "\n".join(rows) + "\n"


def _default(value: Any) -> str:
    if value is None or value in ({}, ()):
        return "none"
    if isinstance(value, tuple):
        return "`" + ", ".join(str(getattr(one, "scale", one)) for one in value) + "`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


_KINDS = {str: "text", int: "integer", float: "number", bool: "true or false"}


def _kind(annotation: Any) -> str:
    """A type in words."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in args)
    if origin is typing.Annotated:
        return _kind(args[0])
    if origin in (typing.Union, UnionType):
        return " or ".join(dict.fromkeys(_kind(one) for one in args if one is not type(None)))
    if origin is dict:
        return f"mapping to {_kind(args[1])}"
    if origin is tuple:
        return f"list of {_kind(args[0])}" if args[-1] is ... else " and ".join(map(_kind, args))
    named = {"Path": "path", "datetime": "time", "MaskSetting": "file", "LevelSetting": "scale", "NoneType": "nothing"}
    return _KINDS.get(annotation) or named.get(getattr(annotation, "__name__", ""), str(annotation))


def python_page() -> str:
    """Every public name of the package with its docstring."""
    parts = ["# Python\n", "`import geosod`; every public name.\n"]
    for name in geosod.__all__:
        if not name.startswith("_"):
            parts += _object(name, getattr(geosod, name))
    return "\n".join(parts)


def _object(name: str, found: Any) -> Iterator[str]:
    yield f"## {name}\n"
    if not inspect.isclass(found):
        yield _documented(f"geosod.{name}", found)
        return
    yield f"{as_markdown(inspect.getdoc(found) or '')}\n"
    for member, value in vars(found).items():
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if member.startswith("_") or not (inspect.isfunction(function) or isinstance(value, property)):
            continue
        if isinstance(value, property):
            yield f"### {name}.{member}\n"
            yield f"{as_markdown(inspect.getdoc(value) or '')}\n"
        elif inspect.getdoc(function):
            yield f"### {name}.{member}()\n"
            yield _documented(f"{name}.{member}", function)


def _documented(title: str, function: Any) -> str:
    return f"```text\n{title}{_signature(function)}\n```\n\n{as_markdown(inspect.getdoc(function) or '')}\n"


def _signature(function: Any) -> str:
    """Parameters with their types as written, one a line where they are many."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")]
    texts, starred = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            texts.append("*")
            starred = True
        starred = starred or parameter.kind is parameter.VAR_POSITIONAL
        texts.append(str(parameter).replace("'", ""))
    returns = inspect.signature(function).return_annotation
    end = "" if returns is inspect.Signature.empty else f" -> {returns}".replace("'", "")
    line = f"({', '.join(texts)}){end}"
    return line if len(line) < 90 else "(\n" + "".join(f"    {text},\n" for text in texts) + f"){end}"


def _cell(text: str) -> str:
    """Text in a cell of a table: no line breaks, and no bars or angle brackets that would be markup."""
    plain = " ".join(text.split()).replace("|", "\\|")
    return re.sub(r"<(?=\w)", "&lt;", plain)
