"""Commands whose settings a YAML file may hold, and where each setting of a call comes from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geosod.errors import ConfigError, did_you_mean
from geosod.yaml_file import FileSettings, selected

if TYPE_CHECKING:
    from pydantic import BaseModel

#: Variables of the environment that stand in for a setting that is given nowhere else.
ENVIRONMENT = {"ray_address": "RAY_ADDRESS"}
_SCENES = "paths, folders, globs, addresses or STAC items to search"


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of a command, as a call resolves it.

    Attributes:
        name: its key in a file.
        value, default: as JSON values; None where the model or the machine decides.
        meaning: in words, with what decides where there is no default.
        origin: default, environment, file, or command line.
        source: the variable, or the file with the line; "" for the others.
    """

    name: str
    value: Any
    default: Any
    meaning: str
    origin: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Configurable:
    """A command with a ``--config`` option.

    Attributes:
        words: the command.
        models: what holds its settings. A name that none has is looked for in the last one.
        make: from the values of a file, its name, and what overrides them; ConfigError where one is unusable.
    """

    words: tuple[str, ...]
    models: tuple[type[BaseModel], ...]
    make: Callable[[FileSettings, str | None, Mapping[str, Any]], tuple[BaseModel, ...]]

    def shares(self, values: Mapping[str, Any]) -> Iterator[tuple[type[BaseModel], FileSettings]]:
        """Each model with the values that are its own."""
        *others, last = self.models
        taken: set[str] = set()
        for model in others:
            taken |= set(model.model_fields)
            yield model, selected(values, model.model_fields)
        yield last, selected(values, [name for name in values if name not in taken])

    @property
    def names(self) -> list[str]:
        """Names of all settings."""
        return [name for model in self.models for name in model.model_fields]


def configurable(name: str) -> Configurable:
    """The command of a name.

    Raises:
        ConfigError: it has no settings that a file could hold.
    """
    if name.startswith("-"):
        raise ConfigError(f"{name}: options of geosod config stand before its arguments, and those of COMMAND after it")
    if name not in _FINDERS:
        hint = did_you_mean(name, _FINDERS) or f"; those with a file of settings are {', '.join(_FINDERS)}"
        raise ConfigError(f"command {name!r}: has no file of settings{hint}")
    return _FINDERS[name]()


def resolved(
    command: Configurable, values: FileSettings, file: str | None, given: Mapping[str, Any], scenes: list[str]
) -> list[Setting]:
    """Every setting of a call, in the order of the help.

    Args:
        command: what is called.
        values: those of the file.
        file: its name.
        given: those of the command line.
        scenes: those of the command line.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """
    listed = values.get("scenes", [])
    rest = selected(values, [name for name in values if name != "scenes" or name in command.names])
    found = []
    if "scenes" not in command.names:
        origin = _origin("scenes", values, file, {"scenes": scenes} if scenes else {})
        found.append(Setting("scenes", scenes or listed, [], _SCENES, *origin))
    for made in command.make(rest, file, given):
        chosen, default = made.model_dump(mode="json"), _defaults(type(made))
        for name, field in type(made).model_fields.items():
            origin, value = _origin(name, values, file, given), chosen[name]
            if origin[0] == "environment":
                value = os.environ[origin[1]]
            found.append(Setting(name, value, default[name], field.description or "", *origin))
    return found


def _origin(name: str, values: FileSettings, file: str | None, given: Mapping[str, Any]) -> tuple[str, str]:
    if name in given:
        return "command line", ""
    if name in values:
        return "file", f"{file}, line {values.lines[name]}"
    if os.environ.get(ENVIRONMENT.get(name, "")):
        return "environment", ENVIRONMENT[name]
    return "default", ""


def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    """Defaults as JSON values."""
    return json.loads(model.model_construct().model_dump_json())  # type: ignore[no-any-return]


def _detect() -> Configurable:
    from geosod.config import RunConfig, config_of

    return Configurable(("detect",), (RunConfig,), lambda values, file, given: (config_of(values, file, **given),))


def _train() -> Configurable:
    from geosod.setting_errors import make_settings
    from geosod.training.config import TrainConfig

    return Configurable(
        ("train",), (TrainConfig,), lambda values, file, given: (make_settings(TrainConfig, values, file, given),)
    )


def _ingest() -> Configurable:
    from geosod.config import RunConfig
    from geosod.ingest.config import IngestConfig, split_config

    return Configurable(
        ("ingest", "run"), (IngestConfig, RunConfig), lambda values, file, given: split_config(values, file, **given)
    )


_FINDERS: dict[str, Callable[[], Configurable]] = {"detect": _detect, "train": _train, "ingest": _ingest}
