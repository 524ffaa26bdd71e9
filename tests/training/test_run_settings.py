"""Settings of a run: how they are put together, and what becomes of those that do not fit."""

from __future__ import annotations

import pytest

import geosod
from geosod.training.config import TrainConfig


def test_none_in_given_settings_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A keyword that is None is one that was not given."""
    made: list[TrainConfig] = []
    monkeypatch.setattr("geosod.training.train.run_training", lambda config, on_event: made.append(config))
    geosod.train("train.json", config=TrainConfig(init="none", clip=None, steps=3), steps=None, lr=0.1)
    config = made[0]
    assert (config.init, config.clip, config.steps, config.lr, config.labels) == (None, None, 3, 0.1, "train.json")
