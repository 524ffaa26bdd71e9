"""The file behind `--config`: settings, and the scenes of a run, local or remote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geosod.config import RunConfig, config_of, make_config
from geosod.errors import ConfigError, GeosodError
from geosod.yaml_file import FileSettings, parse_yaml, read_yaml


def read_job(name: str | None) -> tuple[list[str], RunConfig]:
    """The scenes and the settings of a YAML file, which may lie at a web address or in a bucket; none without a file.

    Raises:
        ConfigError: it cannot be read, or holds something else than settings and `scenes`.
    """
    if name is None:
        return [], make_config()
    values = read_file(name)
    scenes = scenes_of(values, name)
    values.pop("scenes", None)
    return scenes, config_of(values, name, known=["scenes"])


def read_file(name: str) -> FileSettings:
    """The values of a YAML file, local or remote.

    Raises:
        ConfigError: it cannot be read, or is something else.
    """
    return _remote(name) if "://" in name else read_yaml(Path(name))


def scenes_of(values: Mapping[str, Any], name: str) -> list[str]:
    """The scenes among the values of a file; a single one may stand without a list.

    Raises:
        ConfigError: they are something else.
    """
    found = values.get("scenes", [])
    scenes = [found] if isinstance(found, str) else found
    if not isinstance(scenes, list) or not all(isinstance(scene, str) and scene.strip() for scene in scenes):
        raise ConfigError(f"config {name}: scenes is {found!r}; expected a path or an address, or a list of them")
    return scenes


def _remote(name: str) -> FileSettings:
    from geosod.storage.files import document
    from geosod.storage.uris import normalized

    try:
        content = document(normalized(name))
    except ConfigError:
        raise
    except GeosodError as error:
        raise ConfigError(f"config {error}") from error
    return parse_yaml(content, name)
