"""Bundles: a card that is valid STAC, and weights that are what the card says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from geosod.detectors import open_bundle, shipped_models
from geosod.detectors.bundle import SHIPPED
from geosod.detectors.mlm_item import from_item, to_item
from geosod.errors import ModelError
from tests.conftest import SHARED
from tests.rasters import random_bundle

SCHEMAS = SHARED / "schemas" / "stac"


def edited(folder: Path, **properties: object) -> Path:
    path = folder / "model.json"
    item = json.loads(path.read_text())
    item["properties"].update(properties)
    path.write_text(json.dumps(item))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return random_bundle(tmp_path / "random-rgb", bands=("red", "green", "blue"), gsd=0.5, gsd_range=(0.4, 0.6))


def test_a_card_survives_writing_and_reading(bundle) -> None:
    card = open_bundle(bundle).card
    assert from_item(json.loads(json.dumps(to_item(card))), "here") == card
    assert card.gsd_range == (0.4, 0.6) and card.bands == ("red", "green", "blue")


@pytest.mark.skipif(not SCHEMAS.is_dir(), reason="no folder of published schemas beside the project")
@pytest.mark.parametrize("name", ["random", *shipped_models()])
def test_cards_are_valid_mlm(name, bundle) -> None:
    from jsonschema import Draft7Validator
    from referencing import Registry, Resource

    files = {"mlm": "mlm.json", "raster": "raster-1.1.0.json", "processing": "processing-1.1.0.json"}
    schemas = [json.loads((SCHEMAS / file).read_text()) for file in (*files.values(), "classification.json")]
    registry = Registry().with_resources([(s["$id"], Resource.from_contents(s)) for s in schemas])
    # The published schema of processing 1.1.0 calls itself 1.0.0.
    processing = "https://stac-extensions.github.io/processing/v1.1.0/schema.json"
    registry = registry.with_resource(processing, Resource.from_contents(schemas[2]))
    # References into extensions that no card uses are not at hand; an open schema stands for them.
    registry = registry.combine(
        Registry(retrieve=lambda uri: Resource.from_contents({"$schema": schemas[0]["$schema"]}))
    )
    item = json.loads(((bundle if name == "random" else SHIPPED / name) / "model.json").read_text())
    validator = Draft7Validator(schemas[0], registry=registry)
    assert [error.message for error in validator.iter_errors(item)] == []
    del item["properties"]["mlm:input"]
    assert list(validator.iter_errors(item)), "the schema was not applied"


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"geosod:tile": 100}, "tile 100: a side must be a multiple of 32"),
        ({"geosod:overlap": 128}, "overlap 128 x 128 must be at least 0 and below"),
        ({"geosod:border_px": -1.0}, "border_px -1.0 is not in"),
        ({"geosod:edge_margin_px": 500.0}, "edge_margin_px 500.0 is not in"),
        ({"geosod:top_k": 0}, "top_k 0"),
        ({"geosod:threshold": "high"}, "not a geosod model card: ValueError"),
        ({"mlm:input": []}, "not a geosod model card: IndexError"),
        ({"mlm:architecture": "os:system"}, "unknown architecture 'os:system'"),
        ({"geosod:parameters": {"depth": 3}}, "refuses its parameters"),
        ({"geosod:parameters": {"width": 16}}, "does not fit the network"),
        ({"geosod:merge_metric": "giou"}, "merge_metric 'giou'"),
    ],
)
def test_malformed_cards_are_refused(properties, message, bundle) -> None:
    from geosod.api import load_model

    with pytest.raises(ModelError, match=message):
        load_model(edited(bundle, **properties), precision="fp32", backend="eager")


def test_altered_weights_are_refused(bundle) -> None:
    weights = load_file(bundle / "model.safetensors")
    name = next(iter(weights))
    save_file(weights | {name: weights[name] * 2.0}, bundle / "model.safetensors")
    with pytest.raises(ModelError, match="its card states"):
        open_bundle(bundle)


def test_a_pickle_is_not_loaded(bundle) -> None:
    import hashlib
    import pickle

    content = pickle.dumps({"weights": [1, 2, 3]})
    (bundle / "model.safetensors").write_bytes(content)
    edited(bundle, **{"geosod:weights_sha256": hashlib.sha256(content).hexdigest()})
    from geosod.api import load_model

    with pytest.raises(ModelError, match="does not fit the network"):
        load_model(bundle, precision="fp32", backend="eager")


def test_the_digest_tells_cards_and_weights_apart(bundle, tmp_path) -> None:
    first = open_bundle(bundle).digest
    (bundle / "model.json").write_text(json.dumps(json.loads((bundle / "model.json").read_text()), indent=7))
    assert open_bundle(bundle).digest == first, "layout of the JSON does not matter"
    assert open_bundle(edited(bundle, **{"geosod:threshold": 0.1})).digest != first


def test_missing_pieces_are_named(bundle) -> None:
    with pytest.raises(ModelError, match=r"no such folder.*shipped are: .*demo-harbour"):
        open_bundle("demo-habour")
    (bundle / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        open_bundle(bundle)


def test_scaling_needs_one_range_a_band(bundle) -> None:
    card = open_bundle(bundle).card
    with pytest.raises(ModelError, match="one minimum below one maximum"):
        replace(card, minimum=(0.0, 0.0))
    with pytest.raises(ModelError, match="one minimum below one maximum"):
        replace(card, minimum=(255.0, 0.0, 0.0))


def test_a_misspelt_folder_is_recognised(tmp_path, monkeypatch, bundle) -> None:
    bundle.rename(tmp_path / "ships-v2")
    monkeypatch.chdir(tmp_path)
    for wrong in ("ship-v2", str(tmp_path / "ships_v2")):
        right = str(Path(wrong).parent / "ships-v2")
        with pytest.raises(ModelError, match=re.escape(f"did you mean {right!r}?")):
            open_bundle(wrong)
    with pytest.raises(ModelError, match=f"{', '.join(shipped_models())}$"):
        open_bundle("nowhere/at/all")
