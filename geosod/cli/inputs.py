"""Lists of inputs on standard input."""

from __future__ import annotations

from collections.abc import Sequence

from geosod.errors import ConfigError


def with_listed(names: Sequence[str]) -> list[str]:
    """The inputs of a command, those on standard input in the place of ``-``: one a line, but for # and empty lines.

    Raises:
        ConfigError: there is no line, or - stands twice.
    """
    if "-" not in names:
        return list(names)
    from geosod.scenes.sources import stdin_lines

    if names.count("-") > 1:
        raise ConfigError("- stands twice among the inputs; standard input is one list")
    lines = [line.strip().lstrip("\ufeff") for line in stdin_lines()]
    listed = [line for line in lines if line and not line.startswith("#")]
    if not listed:
        raise ConfigError("standard input: this list is empty; check what was to write it")
    place = names.index("-")
    return [*names[:place], *listed, *names[place + 1 :]]
