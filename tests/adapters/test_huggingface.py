"""The boxes of the Hugging Face adapter are those of transformers' own pipeline."""

from __future__ import annotations

import numpy as np
import pytest

# ruff: noqa: E402
transformers = pytest.importorskip("transformers")

from typer.testing import CliRunner

import geosod
from geosod.api import load_model
from geosod.cli.main import app
from geosod.detectors import open_bundle
from geosod.detectors.find_model import find_model
from geosod.detectors.network_input import NetworkInput
from geosod.detectors.packing import is_model_file, pack
from geosod.detectors.packing.options import PackOptions
from geosod.testing import check_detector
from tests.adapters import hf_models
from tests.adapters.hf_pipeline import PLAIN, THRESHOLD, differences, edited, expected, picture

pytestmark = pytest.mark.usefixtures("attempts")


@pytest.mark.parametrize("name", hf_models.MODELS)
def test_boxes_are_those_of_transformers(name, folders, tmp_path) -> None:
    card = pack(folders(name), tmp_path / "bundle").bundle.card
    detector = load_model(tmp_path / "bundle", **PLAIN)
    for height, width in ((437, 351), (341, 561), card.tile_size[::-1]):
        image = picture(height, width)
        wanted = expected(folders(name), image)
        assert len(wanted[0]) >= 5, "the random network finds too little to compare"
        assert differences(detector.detect(image), *wanted) == [], (height, width)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("detr", {"reverse_bands": True}),
        ("detr", {"mean": [0.0, 0.0, 0.0]}),
        ("detr", {"std": [1.0, 1.0, 1.0]}),
        ("detr", {"resize": "stretch", "size": [256, 256]}),
        ("rt_detr_v2", {"reverse_bands": True}),
        ("rt_detr_v2", {"size": [320, 256]}),
        ("d_fine", {"scale": 255.0}),
        ("d_fine", {"resampling": "bilinear"}),
        ("deformable_detr", {"mean": [0.406, 0.456, 0.485]}),
    ],
)
def test_a_wrong_input_is_seen(name, changes, folders, tmp_path) -> None:
    """The comparison above would not pass with another order of bands, mean, scale or size."""
    pack(folders(name), tmp_path / "bundle")
    image = picture(341, 561)
    found = load_model(edited(tmp_path / "bundle", **changes), **PLAIN).detect(image)
    assert differences(found, *expected(folders(name), image))


@pytest.mark.parametrize("name", hf_models.MODELS)
def test_the_contract_holds(name, folders, tmp_path) -> None:
    pack(folders(name), tmp_path / "bundle")
    detector = load_model(tmp_path / "bundle", **PLAIN)
    width, height = detector.card.tile_size
    check_detector(detector, np.stack([picture(height, width, seed) for seed in range(3)]))


def test_more_boxes_than_the_processor_keeps(folders, tmp_path) -> None:
    """Deformable DETR's keeps the best 100 pairs of query and class; --top-k asks for more."""
    folder, image = folders("deformable_detr"), picture(256, 256)
    assert pack(folder, tmp_path / "usual").bundle.card.top_k == 100
    pack(folder, tmp_path / "more", PackOptions(top_k=120))
    found = load_model(tmp_path / "more", **PLAIN).detect(image)
    assert len(found) > 100 and differences(found, *expected(folder, image, top_k=120)) == []


@pytest.mark.parametrize("seed", range(4))
def test_sizes_are_rounded_as_transformers_does(seed) -> None:
    from transformers.image_transforms import get_size_with_aspect_ratio
    from transformers.image_utils import get_image_size_for_max_height_width

    rng = np.random.default_rng(seed)
    for _ in range(3000):
        width, height, shortest, more = (int(n) for n in rng.integers(32, 1500, 4))
        if rng.random() < 0.3:
            width = shortest
        longest = min(shortest + more, 8192)
        fit = NetworkInput(size=(shortest, longest), resize="edges").fit(width, height)
        size = get_size_with_aspect_ratio((height, width), shortest, longest)
        assert (fit.inner_height, fit.inner_width) == (fit.height, fit.width) == size, (width, height, shortest)
        fit = NetworkInput(size=(shortest, longest), resize="inside").fit(width, height)
        size = get_image_size_for_max_height_width((height, width), longest, shortest)
        assert (fit.height, fit.width) == tuple(max(1, n) for n in size)


def test_a_folder_is_a_model(folders, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GEOSOD_CACHE", str(tmp_path))
    assert is_model_file(folders("rt_detr")) and not is_model_file(tmp_path)
    model = find_model(folders("rt_detr"))
    assert model.card.adapter == "huggingface" and open_bundle(model.bundle.folder).card == model.card
    image = picture(600, 700)
    result = geosod.detect(image, model=str(folders("rt_detr")), threshold=THRESHOLD, batch=1)
    assert len(next(iter(result.outputs.values())).detections)


def test_the_command_packs(folders, tmp_path) -> None:
    result = CliRunner().invoke(
        app, ["model", "pack", str(folders("d_fine")), "-o", str(tmp_path / "out"), "--gsd", "1"]
    )
    assert result.exit_code == 0, result.output
    info = CliRunner().invoke(app, ["model", "info", str(tmp_path / "out")])
    assert "d_fine" in info.output and "d_model" not in info.output, "the config is not for people"
