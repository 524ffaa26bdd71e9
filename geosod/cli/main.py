"""`geosod`: the command line. It maps errors to exit codes; `geosod.cli.commands` lists the commands."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import suppress
from typing import Any, NoReturn

import typer

from geosod.cli.commands import COMMANDS
from geosod.cli.interrupts import was_interrupted, watch_interrupts
from geosod.cli.lazy import LazyGroup
from geosod.cli.streams import print_error, run_checked
from geosod.errors import GeosodError, UsageError
from geosod.version import __version__


class _Commands(LazyGroup):
    """Turns geosod's errors into one line and an exit code; anything else is a bug and keeps its traceback."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"commands": COMMANDS})

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line; standard output that cannot be written is an error like any other."""
        run_checked(lambda: super(_Commands, self).main(*args, **kwargs))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            # Code that is being compiled may make another error of an interrupt.
            if isinstance(error, KeyboardInterrupt) or was_interrupted():
                _end_interrupted()
            if not isinstance(error, GeosodError):
                raise
            print_error(f"geosod: {error}")
            raise SystemExit(2 if isinstance(error, UsageError) else 3) from error


def _end_interrupted() -> NoReturn:
    # Objects that were being made raise errors when they are deleted half-made, and so do threads that share them.
    sys.unraisablehook = _say_nothing
    threading.excepthook = _say_nothing
    print_error("geosod: interrupted; run the same command again to continue")
    raise SystemExit(130) from None


def _say_nothing(_: object) -> None:
    """Take an error that nobody can do anything about."""


app = typer.Typer(
    cls=_Commands,
    help="Small-object detection in satellite and aerial scenes far larger than memory.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"geosod {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Small-object detection in satellite and aerial scenes far larger than memory."""


def run(args: list[str] | None = None) -> None:
    """The command `geosod`. It ends its process at once, since Python takes a second to take apart torch and others.

    Args:
        args: the command line; None takes that of the process.
    """
    watch_interrupts()
    try:
        app(args, prog_name="geosod")
    except SystemExit as ended:
        code = ended.code
    else:
        code = 0
    if isinstance(code, str):
        print_error(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
