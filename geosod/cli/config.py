"""`geosod config`: the settings, as a YAML file to start from."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from geosod.cli.job_file import read_job
from geosod.config import RunConfig


def config_command(
    file: Annotated[str | None, typer.Argument(help="A YAML file to check; its settings are filled in.")] = None,
) -> None:
    """Print every setting of geosod detect with its default and meaning; with FILE, check it and print what it sets.

    Example: geosod config > run.yaml
    """
    scenes, config = read_job(file)
    values = config.model_dump(mode="json")
    if scenes:
        print(f"# scenes to search\nscenes: {json.dumps(scenes, ensure_ascii=False)}")
    for name, field in RunConfig.model_fields.items():
        print(f"# {field.description}")
        print(f"{name}: {json.dumps(values[name], ensure_ascii=False)}")  # every JSON value is a YAML value
