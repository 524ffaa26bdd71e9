"""`geosod model`: what models there are, and what they are made for."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from geosod.cli.model_bench import bench_command
from geosod.cli.model_export import export_command
from geosod.cli.model_pack import pack_command
from geosod.cli.model_try import try_command
from geosod.detectors import open_bundle, shipped_models
from geosod.detectors.card import ModelCard
from geosod.detectors.mlm_item import to_item

model_app = typer.Typer(help="List models, show what one is made for, and make bundles.", no_args_is_help=True)
model_app.command("pack")(pack_command)
model_app.command("try")(try_command)
model_app.command("bench")(bench_command)
model_app.command("export")(export_command)


@model_app.command("list")
def list_command() -> None:
    """The models that come with geosod.

    Example: geosod model list
    """
    for name in shipped_models():
        card = open_bundle(name).card
        print(f"{name}: {', '.join(card.classes)}; bands {', '.join(card.bands)}; {card.gsd or 'any'} m")


def _short(value: Any) -> str:
    """A measured figure, or a text about it, for a person."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _groups(card: ModelCard) -> list[str]:
    """Each supercategory with its classes."""
    members: dict[str, list[str]] = {}
    for name, group in zip(card.classes, card.supercategories, strict=False):
        if group:
            members.setdefault(group, []).append(name)
    return [f"{group}: {', '.join(names)}" for group, names in members.items()]


@model_app.command("info")
def info_command(
    model: Annotated[str, typer.Argument(help="A shipped model's name, or a bundle's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as it is.")] = False,
) -> None:
    """The card of a model; its weights are checked against it.

    Example: geosod model info demo-harbour
    """
    bundle = open_bundle(model, trust=True)  # nothing is run: the card is only read
    card = bundle.card
    if as_json:
        print(json.dumps(to_item(card), indent=2, ensure_ascii=False))
        return
    table = Table(show_header=False, box=None, title=card.name, title_justify="left")
    gsd = "any" if card.gsd_range is None else f"{card.gsd_range[0]:g} to {card.gsd_range[1]:g} m"
    rows = {
        "description": card.description,
        "classes": ", ".join(card.classes),
        "bands": f"{', '.join(card.bands)} ({card.dtype})",
        "GSD": gsd,
        "tile": "{} x {} px".format(*card.tile_size),
        "overlap": "{} x {} px".format(*card.overlap_px),
        "supercategories": "; ".join(_groups(card)),
        "threshold": ", ".join([f"{card.threshold:g}", *(f"{k} {v:g}" for k, v in card.class_thresholds.items())]),
        "merging": f"{card.merge_metric} {card.merge_threshold:g}",
        "architecture": ", ".join([card.architecture, *(f"{k} {v}" for k, v in card.parameters.items())]),
        "accuracy": "; ".join(f"{k.replace('_', ' ')} {_short(v)}" for k, v in card.accuracy.items()),
        "license": card.license,
        "digest": bundle.digest,
        "folder": str(bundle.folder),
    }
    for name, value in rows.items():
        if name == "supercategories" and not value:
            continue
        table.add_row(name, value)
    Console(highlight=False).print(table)
