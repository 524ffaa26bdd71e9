"""Bundles from runs: the shipped cards are reproduced from their records, and unfinished runs are refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from geosod.detectors import open_bundle
from geosod.detectors.adapters.zoo import network
from geosod.errors import ConfigError
from geosod.training.bundle import make_bundle

FIGURES = ("precision", "recall", "f_score", "rmse_m", "trees", "predictions", "matched")


def harbour_record() -> dict:
    card = open_bundle("demo-harbour").card
    return {**card.provenance, "validation": {k: v for k, v in card.accuracy.items() if k != "on"}}


def trees_record() -> dict:
    card = open_bundle("trees-naip-60cm").card
    chosen = {k: card.parameters[k] for k in ("window", "refine")} | {"threshold": card.threshold}
    about = {k: v for k, v in card.provenance.items() if k not in ("data", "attribution")}
    measured = {k: card.accuracy[k] for k in FIGURES}
    return {**about, "chosen": chosen | card.accuracy["held_out_figures"], "validation": measured}


@pytest.mark.parametrize(("name", "record"), [("demo-harbour", harbour_record), ("trees-naip-60cm", trees_record)])
def test_a_shipped_bundle_is_reproduced_from_its_record(name, record, tmp_path) -> None:
    shipped = open_bundle(name)
    (tmp_path / "training.json").write_text(json.dumps(record()))
    save_file(load_file(shipped.weights), tmp_path / "model.safetensors")
    made = make_bundle(tmp_path, tmp_path / "bundle")
    assert replace(made.card, weights_digest="") == replace(shipped.card, weights_digest="")
    model = network(made.card)
    model.load_state_dict(load_file(made.weights), strict=True)
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())


def test_folders_without_a_finished_run_are_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="not the record of a training run"):
        make_bundle(tmp_path, tmp_path / "bundle")
    for record in ({"network": "other", "validation": {}}, {**trees_record(), "validation": None}, {}):
        kept = {key: value for key, value in record.items() if value is not None}
        (tmp_path / "training.json").write_text(json.dumps(kept))
        with pytest.raises(ConfigError, match="needs a finished run"):
            make_bundle(tmp_path, tmp_path / "bundle")
