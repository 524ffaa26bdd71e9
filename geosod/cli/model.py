"""`geosod model list` and `geosod model info`: what models there are, and what they are made for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from geosod.cli.printing import Json, print_json
from geosod.detectors import open_bundle, shipped_models
from geosod.detectors.card import ModelCard
from geosod.detectors.mlm_item import to_item


def list_command(json: Json = False) -> None:
    """The models that come with geosod.

    Example: geosod model list
    """
    cards = {name: open_bundle(name).card for name in shipped_models()}
    if json:
        fields = ("description", "classes", "bands", "gsd", "license")
        print_json({"models": [{"name": n} | {f: getattr(card, f) for f in fields} for n, card in cards.items()]})
        return
    for name, card in cards.items():
        print(f"{name}: {', '.join(card.classes)}; bands {', '.join(card.bands)}; {card.gsd or 'any'} m")


def _short(value: Any) -> str:
    """A measured figure, or a text about it, for a person."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _parameters(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values of an adapter's parameters, without configurations, which are long."""
    for name, value in values.items():
        if value is not None and not isinstance(value, dict):
            yield name, str(value)


def _groups(card: ModelCard) -> list[str]:
    """Each supercategory with its classes."""
    members: dict[str, list[str]] = {}
    for name, group in zip(card.classes, card.supercategories, strict=False):
        if group:
            members.setdefault(group, []).append(name)
    return [f"{group}: {', '.join(names)}" for group, names in members.items()]


def info_command(
    model: Annotated[str, typer.Argument(help="A shipped model's name, or a bundle's folder.")],
    as_json: Json = False,
) -> None:
    """The card of a model; its weights are checked against it.

    Example: geosod model info demo-harbour
    """
    bundle = open_bundle(model, trust=True)  # nothing is run: the card is only read
    card = bundle.card
    if as_json:
        print_json(to_item(card))
        return
    table = Table(show_header=False, box=None, title=card.name, title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")  # a digest or a path without its end is none
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
        "architecture": ", ".join([card.architecture, *map(" ".join, _parameters(card.parameters))]),
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
