"""`geosod config`: the settings of a command, as a YAML file, and whether such a file is good."""

from __future__ import annotations

import json as json_text
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geosod.cli.printing import Json, print_json
from geosod.cli.streams import print_error

if TYPE_CHECKING:
    from pydantic import BaseModel

    from geosod.cli.config_values import Configurable, Setting
    from geosod.setting_errors import Problem
    from geosod.yaml_file import FileSettings

_Command = Annotated[str, typer.Argument(help="detect, train or ingest.", metavar="[detect|train|ingest]")]
_Arguments = Annotated[
    list[str] | None,
    typer.Argument(help="Arguments of that command, as --config FILE --threshold 0.4.", show_default=False),
]


def show_command(command: _Command = "detect", arguments: _Arguments = None, json: Json = False) -> None:
    """Print every setting of a command: its meaning, value, default, and where the value comes from.

    Example: geosod config show detect --config run.yaml --threshold 0.4

    Exit codes: 0 done; 2 bad usage, or a setting is wrong; 1 a bug.
    """
    found = _settings(command, arguments or [])
    if json:
        print_json({"command": command, "settings": [asdict(one) for one in found]})
        return
    print("\n".join(line for one in found for line in _shown(one)))


def save_command(
    file: Annotated[Path, typer.Argument(help="YAML file to write.", show_default=False)],
    command: _Command = "detect",
    arguments: _Arguments = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
) -> None:
    """Write a YAML file with every setting of a command: those that are given, and the defaults as comments.

    Example: geosod config save run.yaml detect --model demo-harbour --threshold 0.4

    Exit codes: 0 done; 2 bad usage, or a setting is wrong; 1 a bug.
    """
    from geosod.evaluation.files import check_new, write_whole

    check_new([file], overwrite=overwrite)
    found = [one for one in _settings(command, arguments or []) if one.name != "trust"]
    lines = [f"# Settings of geosod {command}", *(line for one in found for line in _saved(one))]
    write_whole(file, "\n".join(lines) + "\n")
    given = sum(map(_is_given, found))
    print_error(f"{file}: {given} of {len(found)} settings, and the defaults of the others as comments")


def validate_command(
    file: Annotated[str, typer.Argument(help="YAML file of settings.", show_default=False)],
    command: _Command = "detect",
    json: Json = False,
) -> None:
    """Check a YAML file of settings; name each wrong one, its line, and what may have been meant.

    Example: geosod config validate run.yaml

    Exit codes: 0 all good; 2 something is wrong; 1 a bug.
    """
    from geosod.cli.config_values import configurable
    from geosod.cli.job_file import read_file

    values = read_file(file)
    problems = _problems(configurable(command), values, file)
    if json:
        listed = [asdict(one) for one in problems]
        print_json({"file": file, "command": command, "valid": not problems, "problems": listed})
    for one in problems:
        print_error(f"{file}:{one.line or 1}: {one.message}")
    if not problems and not json:
        print(f"{file}: {len(values)} settings of geosod {command}, all good")
    raise typer.Exit(2 if problems else 0)


def _settings(command: str, arguments: list[str]) -> list[Setting]:
    """Every setting of a call, whose arguments are parsed as the command itself would."""
    from geosod.cli.commands import command_of
    from geosod.cli.config_values import configurable, resolved
    from geosod.cli.job_file import read_file
    from geosod.yaml_file import FileSettings

    called = configurable(command)
    name = f"geosod {' '.join(called.words)}"
    params = command_of(*called.words).make_context(name, list(arguments)).params
    given = {key: params[key] for key in called.names if params.get(key) not in (None, [], ())}
    file = None if params["config"] is None else str(params["config"])
    values = FileSettings({}, {}) if file is None else read_file(file)
    scenes = [] if "scenes" in called.names else list(params.get("scenes") or [])
    return resolved(called, values, file, given, scenes)


def _is_given(one: Setting) -> bool:
    return one.origin in ("file", "command line")


def _shown(one: Setting) -> Iterator[str]:
    """A setting in lines that a YAML file could hold, too."""
    yield f"# {one.meaning}"
    origin = one.origin if one.origin in ("default", "command line") else one.source
    default = "" if one.origin == "default" else f"; default: {_default(one)}"
    yield f"{one.name}: {_yaml(one.value)}  # {origin}{default}"


def _saved(one: Setting) -> Iterator[str]:
    yield f"\n# {one.meaning}"
    if not _is_given(one):
        yield f"# {one.name}: {_yaml(one.default)}"
        return
    yield f"# default: {_default(one)}"
    yield f"{one.name}: {_yaml(one.value)}"


def _default(one: Setting) -> str:
    return one.meaning.partition("; default: ")[2] or _yaml(one.default)


def _yaml(value: Any) -> str:
    return json_text.dumps(value, ensure_ascii=False)  # every JSON value is a YAML value


def _problems(command: Configurable, values: FileSettings, file: str) -> list[Problem]:
    """Everything that is wrong with the values of a file."""
    from geosod.cli.job_file import scenes_of
    from geosod.errors import ConfigError
    from geosod.setting_errors import Problem
    from geosod.yaml_file import selected

    found: list[Problem] = []
    if "scenes" not in command.names:
        try:
            scenes_of(values, file)
        except ConfigError as error:
            found.append(Problem("scenes", str(error).removeprefix(f"config {file}: "), values.lines["scenes"]))
        values = selected(values, [name for name in values if name != "scenes"])
    for model, own in command.shares(values):
        found += _problems_of(model, own, command.names)
    if not found:
        try:
            command.make(values, file, {})
        except ConfigError as error:
            found.append(Problem("", str(error), None))
    return sorted(found, key=lambda one: one.line or 0)


def _problems_of(model: type[BaseModel], values: FileSettings, known: list[str]) -> Iterator[Problem]:
    """What is wrong with the values of one model. The first error that is no pydantic's hides the others."""
    from pydantic import ValidationError

    from geosod.errors import ConfigError
    from geosod.setting_errors import problems_in
    from geosod.yaml_file import selected

    while True:
        try:
            model(**values)
        except ValidationError as error:
            yield from problems_in(error, values, {}, known=known)
        except ConfigError as error:
            (problem,) = problems_in(error, values, {}, known=known)
            yield problem
            if problem.setting in values:
                values = selected(values, [name for name in values if name != problem.setting])
                continue
        return
