"""Options of the commands of `geosod ingest`, and the file that they share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geosod.cli.options import PANELS, with_settings
from geosod.ingest.config import IngestConfig, split_config
from geosod.yaml_file import read_yaml

if TYPE_CHECKING:
    from collections.abc import Callable

    from geosod.config import RunConfig
    from geosod.ingest.ledger import Ledger

#: Panel of the help → its settings.
INGEST_PANELS: dict[str, tuple[str, ...]] = {
    "Source": (
        *("source", "source_kind", "collections", "bbox", "filter", "since", "asset_hosts", "requester_pays"),
        *("verify_checksums", "poll_overlap", "lookback_days", "list_hours", "page_size", "settle", "mark_withdrawn"),
    ),
    "Schedule": ("ledger", "interval", "at_once", "lease", "attempts", "retry_seconds", "collection_id"),
    "Notification": ("notify_url", "notify_command", "notify_key_file"),
}

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A model's name, a bundle's folder, or module:function.",
        show_default=False,
        rich_help_panel="Model",
    ),
]
Out = Annotated[
    str | None,
    typer.Option("--out", "-o", help="Dataset: a folder, or an address such as s3://bucket/out.", show_default=False),
]
Config = Annotated[
    str | None,
    typer.Option(
        "--config", help="YAML file of settings of ingestion and detection; options override it.", show_default=False
    ),
]
LedgerOption = Annotated[
    str | None,
    typer.Option("--ledger", help="Where the ledger is, unless the configuration says so.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def with_ingest_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of ingestion and of detection."""
    panels = {"Input": tuple(n for n in PANELS["Input"] if n != "datetime")} | {
        name: names for name, names in PANELS.items() if name != "Input"
    }

    def run_settings(own: Any) -> Callable[..., None]:
        return with_settings(own, without=("overwrite",), panels=panels)

    return with_settings_of_both(command, run_settings)


def with_settings_of_both(command: Callable[..., None], run_settings: Callable[[Any], Any]) -> Callable[..., None]:
    """The options of ingestion first, then those of detection."""
    import inspect

    keywords = [p for p in inspect.signature(command).parameters.values() if p.kind is p.VAR_KEYWORD]
    with_settings(command, model=IngestConfig, panels=INGEST_PANELS)
    own = inspect.signature(command)
    command.__signature__ = own.replace(parameters=[*own.parameters.values(), *keywords])  # type: ignore[attr-defined]
    found: Callable[..., None] = run_settings(command)
    return found


def settings(config: str | None, **given: Any) -> tuple[IngestConfig, RunConfig]:
    """The settings of a file and of options.

    Raises:
        ConfigError: one is unusable.
    """
    values = {} if config is None else read_yaml(Path(config))
    return split_config(values, config, **given)


def existing_ledger(config: str | None, out: str | None, ledger: str | None) -> Ledger:
    """The ledger of a dataset, which is not created.

    Raises:
        ConfigError: there is none.
    """
    from geosod.errors import ConfigError
    from geosod.ingest.ledger import Ledger as Opened
    from geosod.ingest.run import ledger_address
    from geosod.output.folder import output_at

    own, run = settings(config, out=out, ledger=ledger)
    address = ledger_address(own, run.out)
    if run.out is None:
        raise ConfigError("no output is given: add -o FOLDER, or `out: FOLDER` to the configuration")
    if "://" not in address and not Path(address).expanduser().is_file():
        raise ConfigError(f"{address}: there is no ledger; check -o and --ledger, or run geosod ingest run first")
    return Opened(address, output_at(run.out).place.address)
