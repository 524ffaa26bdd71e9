"""`geosod detect`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from geosod.cli.display import display
from geosod.cli.options import with_settings
from geosod.cli.printing import Json, Quiet, Verbose
from geosod.cli.status_line import Status
from geosod.cli.streams import print_error


@with_settings
def detect_command(
    scenes: Annotated[
        list[str] | None,
        typer.Argument(
            help="Paths, folders, globs, https:// and s3:// addresses, STAC items; @FILE for a list of these, - for a "
            "list on standard input. Default: those of --config.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A model's name, a bundle's folder, or module:function.",
            show_default=False,
            rich_help_panel="Model",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Output folder, or an address such as s3://bucket/out; with one scene also NAME.parquet.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            help="YAML file of settings, and of `scenes`, also at an s3:// or https:// address; options override it.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    **settings: Any,
) -> None:
    """Find small objects in scenes, and write them as GeoParquet, with the ground that was inspected.

    Example: geosod detect scenes/*.tif --model trees-naip-60cm -o trees

    Exit codes: 0 all done; 3 finished, but some ground or scenes failed; 2 bad usage or input; 1 a bug.
    """
    with display(quiet=quiet) as shown:
        from geosod.cli.job_file import read_job
        from geosod.cli.progress import show_run
        from geosod.errors import ConfigError
        from geosod.running.detect import configured, detect

        listed, base = read_job(config)
        resolved = configured(base, model=model, out=out, **settings)
        if resolved.out is None:
            raise ConfigError("no output is given: add -o FOLDER, or `out: FOLDER` to the configuration")
        shown.update(Status("finding scenes"))
        result = detect(scenes or listed, config=resolved, on_event=show_run(shown, verbose=verbose))
    if json:
        from geosod.cli.report import as_json

        print(as_json(result))
    if not quiet:
        from geosod.cli.summary import summary

        print_error(summary(result))
    raise typer.Exit(result.exit_code)
