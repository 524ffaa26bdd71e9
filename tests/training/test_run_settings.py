"""Settings of a run: how they are put together, and what becomes of those that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

import geosod
from geosod.training.config import TrainConfig
from geosod.training.prepared import prepare
from geosod.training.rates import learning_rate
from tests.training.sets import labelled


def test_none_in_given_settings_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A keyword that is None is one that was not given."""
    made: list[TrainConfig] = []
    monkeypatch.setattr("geosod.training.train.run_training", lambda config, on_event: made.append(config))
    geosod.train("train.json", config=TrainConfig(init="none", clip=None, steps=3), steps=None, lr=0.1)
    config = made[0]
    assert (config.init, config.clip, config.steps, config.lr, config.labels) == (None, None, 3, 0.1, "train.json")


def test_a_warm_up_longer_than_the_run(tmp_path: Path) -> None:
    """The rate reaches its peak all the same, and a note says what became of the setting."""
    config = TrainConfig(lr=1.0, warmup=500)
    rates = [learning_rate(step, 200, config, epoch=10) for step in range(200)]
    assert rates[20] == pytest.approx(1.0) and rates[-1] < 0.02
    assert learning_rate(250, 501, config, epoch=10) == pytest.approx(0.505)
    labels = str(labelled(tmp_path))
    small = {"parameters": {"backbone": "slim", "width": 8}, "init": "none", "tile": 64, "labels": labels}
    notes = [prepare(TrainConfig(**small, network="fcos", steps=20, warmup=w)).notes for w in (0.5, 19, 20)]
    assert [any("warm-up of 20 steps" in note for note in some) for some in notes] == [False, False, True]
