"""Errors of settings as lines for a person, with the lines of the file that they are about."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from geosod.errors import ConfigError, did_you_mean
from geosod.yaml_file import FileSettings

#: What to write for settings of several forms, instead of what each form expects.
_FORMS = {
    "levels": "give scales, full or auto, as 1,0.5,full or 1:0-64,0.5",
    "tile_gsd": "give metres, or model",
    "merge_threshold_by_class": "give CLASS=OVERLAP,..., as car=0.3,ship=0.6",
}
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a setting.

    Attributes:
        setting: its name.
        message: name, value and what to write instead.
        line: where it stands in the file, from 1; None where it does not come from the file.
    """

    setting: str
    message: str
    line: int | None


def make_settings(
    model: type[_Model],
    values: Mapping[str, Any],
    file: str | Path | None,
    given: Mapping[str, Any],
    *,
    known: Iterable[str] = (),
) -> _Model:
    """Settings from the values of a YAML file, which its errors name, with others on top.

    Args:
        model: the settings.
        values: those of the file.
        file: its name; None where there is none.
        given: settings that override those of the file.
        known: names to suggest besides those of `model`.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """
    try:
        return model(**(dict(values) | dict(given)))
    except (ValidationError, ConfigError) as error:
        problems = problems_in(error, values, given, known=[*model.model_fields, *known])
    if file is None or not any(problem.setting not in given for problem in problems):
        raise ConfigError("; ".join(problem.message for problem in problems))
    lines = [problem.message if problem.line is None else f"line {problem.line}: {problem.message}"
             for problem in problems]  # fmt: skip
    raise ConfigError(f"config {file}{':' if problems[0].line is None else ','} {'; '.join(lines)}")


def problems_in(
    error: ValidationError | ConfigError, values: Mapping[str, Any], given: Mapping[str, Any], *, known: Iterable[str]
) -> list[Problem]:
    """What is wrong, once for each setting of several forms.

    Args:
        error: what was raised when the settings were made.
        values: those of a file, as `geosod.yaml_file.FileSettings` if their lines are known.
        given: those that override them.
        known: names of all settings.
    """
    lines: Mapping[str, int] = values.lines if isinstance(values, FileSettings) else {}
    both = dict(values) | dict(given)
    messages: dict[str, str] = {}
    if isinstance(error, ConfigError):
        messages[str(error)] = re.split(r"\W", str(error), maxsplit=1)[0]
    else:
        # That too few levels are left once wrong ones are taken out says nothing new.
        for one in (e for e in error.errors() if e["type"] != "too_short" or error.error_count() == 1):
            name = str(one["loc"][0]) if one["loc"] else ""
            messages[_message(one, name, both, known)] = name
    return [Problem(name, message, None if name in given else lines.get(name)) for message, name in messages.items()]


def _message(error: Any, setting: str, values: Mapping[str, Any], known: Iterable[str]) -> str:
    form = _FORMS.get(setting) if error["type"] != "value_error" else None
    if form is not None:
        return f"{setting} = {reprlib.repr(values.get(setting))}: {form}"
    name = ".".join(str(part) for part in error["loc"]) or "config"
    if error["type"] == "extra_forbidden":
        names = list(known)
        return f"{name}: unknown setting" + (did_you_mean(name, names) or f"; known are {', '.join(names)}")
    message = error["msg"].removeprefix("Value error, ")
    choices = re.findall(r"'([^']*)'", error["ctx"]["expected"]) if error["type"] == "literal_error" else []
    hint = did_you_mean(error["input"], choices)
    return f"{name} = {reprlib.repr(error['input'])}: {message[0].lower()}{message[1:]}{hint}"
