"""Read a YAML file of settings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from geosod.errors import ConfigError, one_line


class _Loader(yaml.SafeLoader):
    """YAML as people read it: a key stands once, 010 is no octal number, 1:20 no time, and yes is a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping; ConstructorError where a key stands twice."""
        names = [key.value.replace("-", "_") for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]} stands twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if not tag.endswith((":int", ":float", ":bool"))]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile("^[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
_FLOAT = (
    r"^[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?$|^[-+]?[0-9]+[eE][-+]?[0-9]+$"
    r"|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_FLOAT), list("-+.0123456789"))


class FileSettings(dict[str, Any]):
    """The settings of a file.

    Attributes:
        lines: on which line of the file each stands, from 1.
    """

    def __init__(self, values: Mapping[str, Any], lines: Mapping[str, int]) -> None:
        super().__init__(values)
        self.lines = lines


def selected(values: Mapping[str, Any], names: Iterable[str]) -> FileSettings:
    """The settings of these names, with their lines where they are known."""
    kept = {name: values[name] for name in names if name in values}
    return FileSettings(kept, values.lines if isinstance(values, FileSettings) else {})


def read_yaml(path: Path) -> FileSettings:
    """The settings in a file; see `parse_yaml`.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        content = path.expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"config {path}: cannot be read as YAML: {one_line(error)}") from error
    return parse_yaml(content, str(path))


def parse_yaml(content: bytes, name: str) -> FileSettings:
    """The settings in the content of a file, by name; hyphens in names count as underscores.

    Raises:
        ConfigError: it is something else.
    """
    lines: dict[str, int] = {}
    try:
        loader = _Loader(content.decode("utf-8-sig"))
        node = loader.get_single_node()
        values = {} if node is None else loader.construct_document(node)
        if isinstance(node, yaml.MappingNode):
            lines = {_plain(key.value): key.start_mark.line + 1 for key, _ in node.value}
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"config {name}: cannot be read as YAML: {one_line(error)}") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"config {name}: holds {type(values).__name__}, expected settings as `name: value` lines")
    return FileSettings({_plain(key): value for key, value in values.items()}, lines)


def _plain(key: Any) -> str:
    return str(key).replace("-", "_")
