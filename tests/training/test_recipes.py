"""The recipes in examples/ are settings that train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from geosod.datasets.contract import Target
from geosod.datasets.formats.coco import write_coco
from geosod.training.config import make_train_config
from geosod.training.placement import training_device
from geosod.training.prepared import batch_maker, prepare
from geosod.training.rates import learning_rate
from geosod.training.state import State
from tests.training.sets import squares

FOLDER = Path(__file__).parents[2] / "examples" / "training"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
#: What makes any of the recipes small.
SMALL: dict[str, Any] = {"batch": 2, "init": "none", "precision": "fp32", "steps": 2}


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    made = squares(folder / "images", images=4, objects=10, size=(256, 256), sides=(8, 60))
    write_coco(made, Target(folder / "labels.json", folder / "labels.json"))
    return folder / "labels.json"


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_of_each(labels: Path, recipe: str) -> None:
    """Two steps of the recipe's network, slices and losses, on small tiles and with a narrow backbone."""
    small = {"backbone": "slim", "width": 8, "channels": 16}
    asked = make_train_config(FOLDER / f"{recipe}.yaml")
    narrow = asked.parameters | small
    ranges = {"slice": "96-128", "resize_width": "128-160"} if asked.slice else {}
    points = {"points": True} if recipe == "points" else {}
    config = make_train_config(
        FOLDER / f"{recipe}.yaml", labels=str(labels), parameters=narrow, tile=128, **ranges, **points, **SMALL
    )
    ready = prepare(config)
    state = State.new(ready.criterion, config, device=training_device("cpu"), precision="fp32")
    make = batch_maker(ready, config)
    before = [p.clone() for p in state.criterion.network.parameters()]
    for step in range(2):
        rate = learning_rate(step + 1, 10, config, epoch=ready.plan.epoch)
        state.criterion.train()
        losses = state.train(make(step), config, rate=max(rate, 1e-4))
        assert torch.isfinite(losses["total"]) and losses["total"] > 0
    after = list(state.criterion.network.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_every_recipe_is_in_the_table() -> None:
    text = (FOLDER / "README.md").read_text()
    assert RECIPES and all(f"`{name}.yaml`" in text for name in RECIPES)
