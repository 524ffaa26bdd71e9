"""`geosod dataset`: labelled images; checked, converted, divided, cut into tiles and resampled."""

from __future__ import annotations

import typer

from geosod.cli.dataset_check import check_command
from geosod.cli.dataset_convert import convert_command, split_command
from geosod.cli.dataset_tiles import scale_command, slice_command

dataset_app = typer.Typer(help="Check, convert, split, slice and scale labelled images.", no_args_is_help=True)
dataset_app.command("check")(check_command)
dataset_app.command("convert")(convert_command)
dataset_app.command("split")(split_command)
dataset_app.command("slice")(slice_command)
dataset_app.command("scale")(scale_command)
