"""Make a bundle that is worth shipping of a trained one: weights in half the space, and what its card must say."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geosod.detectors.bundle import Bundle, open_bundle, write_bundle
from geosod.errors import ConfigError
from geosod.training.initialise import state_of_bundle
from geosod.yaml_file import read_yaml

#: What a file of details may replace in a card; `accuracy` and `provenance` are added to.
FIELDS = frozenset({"description", "license", "gsd", "gsd_range", "threshold", "overlap"})
ADDED = frozenset({"accuracy", "provenance"})


def ship(model: str | Path, folder: str | Path, details: dict[str, Any]) -> Bundle:
    """Write a bundle with weights in float16 and a card with details that training cannot know.

    Args:
        model: the folder of a bundle that `geosod train` wrote.
        folder: for the new bundle.
        details: values of `FIELDS`, and mappings for `ADDED`.

    Raises:
        ConfigError: a detail is unknown, or a weight is too large for float16.
        ModelError: there is no such bundle.
    """
    if unknown := set(details) - FIELDS - ADDED:
        known = ", ".join(sorted(FIELDS | ADDED))
        raise ConfigError(f"unknown detail {', '.join(sorted(unknown))}; known are: {known}")
    bundle = open_bundle(model)
    card = replace(bundle.card, **{name: _plain(details[name]) for name in FIELDS & set(details)})
    card = replace(card, **{name: getattr(card, name) | details[name] for name in ADDED & set(details)})
    return write_bundle(folder, card, halved(state_of_bundle(bundle)))


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in float16; counters stay whole numbers.

    Raises:
        ConfigError: a weight is too large for float16.
    """
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    if wrong := [name for name, value in half.items() if value.is_floating_point() and not torch.isfinite(value).all()]:
        raise ConfigError(f"{wrong[0]} holds values that float16 does not")
    return half


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def main() -> None:
    """Parse the command line and write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="bundle that geosod train wrote")
    parser.add_argument("bundle", type=Path, help="folder to write")
    parser.add_argument("--details", type=Path, required=True, help="YAML file of what the card must say")
    args = parser.parse_args()
    print(ship(args.model, args.bundle, read_yaml(args.details)).digest)


if __name__ == "__main__":
    main()
