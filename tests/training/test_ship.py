"""Bundles to ship: half the space, nearly the same boxes, and cards with what training cannot know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import geosod
from geosod.detectors.bundle import open_bundle
from geosod.errors import ConfigError
from geosod.training.config import TrainConfig
from geosod.training.ship import halved, ship
from geosod.yaml_file import read_yaml

SHIPPED = Path(__file__).parents[2] / "examples" / "training" / "shipped"
DETAILS = {"gsd": 0.13, "gsd_range": [0.1, 0.2], "description": "Vehicles.", "provenance": {"data": "a street"}}


def test_half_the_space_and_nearly_the_same_boxes(rgb_bundle: Path, tmp_path: Path) -> None:
    shipped = ship(rgb_bundle, tmp_path / "shipped", DETAILS)
    before = open_bundle(rgb_bundle)
    sizes = [sum(p.stat().st_size for p in folder.glob("*.safetensors")) for folder in (rgb_bundle, shipped.folder)]
    assert sizes[1] < 0.6 * sizes[0]
    card = shipped.card
    assert (card.gsd, card.gsd_range, card.description) == (0.13, (0.1, 0.2), "Vehicles.")
    assert card.provenance == before.card.provenance | DETAILS["provenance"] and card.classes == before.card.classes
    pixels = np.random.default_rng(0).integers(0, 255, (3, 200, 300), dtype=np.uint8)
    found = [geosod.load_model(p, precision="fp32", device="cpu").detect(pixels) for p in (rgb_bundle, shipped.folder)]
    assert abs(len(found[0]) - len(found[1])) <= 0.02 * len(found[0]) and len(found[0]) > 20
    near = np.abs(found[0].boxes[:10, None] - found[1].boxes[None]).max(axis=2).min(axis=1)
    assert near.max() < 0.1, "pixels"


def test_what_does_not_fit_is_refused(rgb_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown detail classes; known are: accuracy, "):
        ship(rgb_bundle, tmp_path / "shipped", {"classes": ["x"]})
    with pytest.raises(ConfigError, match="head holds values that float16 does not"):
        halved({"count": torch.tensor(7), "head": torch.tensor([1.0, 1e6])})
    assert halved({"count": torch.tensor(70_000)})["count"] == 70_000


@pytest.mark.parametrize(
    "recipe", sorted(p for p in SHIPPED.glob("*.yaml") if ".card" not in p.name), ids=lambda path: path.stem
)
def test_a_shipped_model_is_what_its_recipe_and_details_say(recipe: Path) -> None:
    card = open_bundle(recipe.stem).card
    settings, made = read_yaml(recipe), card.provenance["settings"]
    asked = TrainConfig(**settings).model_dump(mode="json")
    # What is the default is not recorded.
    assert {name: made.get(name, asked[name]) for name in settings} == {name: asked[name] for name in settings}
    details = read_yaml(recipe.with_suffix(".card.yaml"))
    for name, value in details.items():
        of_card = getattr(card, name)
        if isinstance(value, dict):
            assert value.items() <= of_card.items()
        else:
            assert of_card == (tuple(value) if isinstance(value, list) else value)
