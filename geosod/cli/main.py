"""`geosod`: the command line. Each command is a module; this one maps errors to exit codes."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import suppress
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from geosod.cli.config import config_command
from geosod.cli.dataset import dataset_app
from geosod.cli.deduplicate import deduplicate_command
from geosod.cli.demo import demo_command
from geosod.cli.detect import detect_command
from geosod.cli.doctor import doctor_command
from geosod.cli.evaluate import evaluate_command
from geosod.cli.export import export_command
from geosod.cli.ingest import ingest_app
from geosod.cli.interrupts import was_interrupted, watch_interrupts
from geosod.cli.mine import mine_command
from geosod.cli.model import model_app
from geosod.cli.predict import predict_command
from geosod.cli.serve import serve_command
from geosod.cli.stats import stats_command
from geosod.cli.status import status_command
from geosod.cli.streams import print_error, run_checked
from geosod.cli.submit import submit_command
from geosod.cli.summarize import summarize_command
from geosod.cli.train import train_command
from geosod.cli.view import view_command
from geosod.errors import GeosodError, UsageError
from geosod.version import __version__


class _Commands(TyperGroup):
    """Turns geosod's errors into one line and an exit code; anything else is a bug and keeps its traceback."""

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
    add_completion=False,
    pretty_exceptions_enable=False,
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


app.command("detect")(detect_command)
app.command("predict")(predict_command)
app.command("deduplicate")(deduplicate_command)
app.command("export")(export_command)
app.command("view")(view_command)
app.command("summarize")(summarize_command)
app.command("status")(status_command)
app.command("submit")(submit_command)
app.command("demo")(demo_command)
app.command("doctor")(doctor_command)
app.command("config")(config_command)
app.command("evaluate")(evaluate_command)
app.command("stats")(stats_command)
app.command("train")(train_command)
app.command("serve")(serve_command)
app.command("mine")(mine_command)
app.add_typer(model_app, name="model")
app.add_typer(dataset_app, name="dataset")
app.add_typer(ingest_app, name="ingest")


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
