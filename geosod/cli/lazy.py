"""Commands that are imported when they are called, completed, or their help is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from geosod.cli.completion import add_completions


class Lazy(TyperCommand):
    """What the list of commands shows of one: its name and a line of help.

    Args:
        target: module and function of the command in `geosod.cli`, as ``detect:detect_command``.
        help: the first paragraph of its docstring.
        context_settings: how its arguments are parsed, where that is unusual.
    """

    def __init__(self, target: str, help: str, *, context_settings: dict[str, Any] | None = None) -> None:
        super().__init__(None, help=help)
        self.target, self._settings = target, context_settings

    def load(self, name: str) -> TyperCommand:
        """The command itself, under this name."""
        module, _, function = self.target.partition(":")
        app = typer.Typer(add_completion=False)
        found = getattr(import_module(f"geosod.cli.{module}"), function)
        add_completions(found)
        app.command(name, context_settings=self._settings)(found)
        command = get_command(app)
        assert isinstance(command, TyperCommand)
        return command


class LazyGroup(TyperGroup):
    """A group of `Lazy` commands, and of other groups.

    Args:
        commands: by name.
        no_args_is_help: whether a call without arguments shows the help.
        **options: those of `TyperGroup`, such as help.
    """

    def __init__(
        self, *, commands: Mapping[str, Lazy | LazyGroup], no_args_is_help: bool = True, **options: Any
    ) -> None:
        for name, command in commands.items():
            command.name = name
        super().__init__(commands=dict(commands), no_args_is_help=no_args_is_help, **options)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that arguments name, imported, and the arguments after its name."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load(str(name)) if isinstance(command, Lazy) else command, rest
