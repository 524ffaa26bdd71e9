"""Heat maps averaged over flipped and turned views of an image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import geosod
from geosod.detectors.bundle import open_bundle
from geosod.detectors.export import graph_of
from geosod.detectors.runtimes import open_session
from geosod.detectors.zoo import VIEWS
from geosod.detectors.zoo.centre import Centre
from geosod.detectors.zoo.unet import CentreUNet
from geosod.detectors.zoo.views import mean_of_views
from geosod.errors import ConfigError
from geosod.results import Execution
from tests.detectors.test_unet import lively
from tests.rasters import noise, write_tif

EXECUTION = Execution("cpu", "onnxruntime", "fp32", 2, 1)
#: All symmetries of the square by numpy's names for them.
SYMMETRIES = [
    lambda a: a, np.fliplr, np.flipud, lambda a: np.rot90(a, 2),
    np.transpose, lambda a: np.rot90(a, 1), lambda a: np.rot90(a, -1), lambda a: np.rot90(a, 2).T,
]  # fmt: skip


def small_centre(**settings) -> Centre:
    torch.manual_seed(1)
    made = Centre(bands=4, classes=2, backbone="slim", width=8, channels=16, stride=2, side=9.0, **settings).eval()
    torch.nn.init.normal_(made.out.weight)
    return made


@pytest.mark.parametrize("make", [lively, small_centre])
def test_the_mean_is_over_all_symmetries_of_the_square(make) -> None:
    plain, of_views = make(), make(views=8)
    of_views.load_state_dict(plain.state_dict())
    image = torch.rand(2, 4, 64, 64)
    seen = []
    with torch.inference_mode():
        for symmetry in SYMMETRIES:
            turned = np.stack([[symmetry(band) for band in one] for one in image.numpy()])
            heat = plain(torch.from_numpy(np.ascontiguousarray(turned))).numpy()
            inverse = {5: SYMMETRIES[6], 6: SYMMETRIES[5]}.get(SYMMETRIES.index(symmetry), symmetry)
            seen.append(np.stack([[inverse(band) for band in one] for one in heat]))
        found = of_views(image).numpy()
    assert np.abs(found - np.mean(seen, axis=0)).max() < 1e-3 * np.abs(found).max()
    assert np.abs(found - seen[0]).max() > 0.05 * np.abs(found).max(), "views differ, or nothing was tested"


@pytest.mark.parametrize("views", VIEWS)
def test_a_flipped_image_gives_the_flipped_map(views: int) -> None:
    """For each view that is among those averaged; images need not be square."""
    of_views, image = lively(views=views), torch.rand(1, 4, 64, 96)
    with torch.inference_mode():
        heat = of_views(image)
        assert heat.shape == (1, 2, 64, 96)
        mirrored = of_views(image.flip(3)).flip(3)
        turned = of_views(image.transpose(2, 3)).transpose(2, 3)
    for same, other in ((views >= 2, mirrored), (views == 8, turned)):
        assert torch.allclose(other, heat, rtol=1e-3, atol=1e-3) == same


def test_training_sees_one_view() -> None:
    calls = []

    def maps_of(images: torch.Tensor) -> torch.Tensor:
        calls.append(images.shape)
        return images

    image = torch.rand(1, 4, 32, 64)
    assert torch.equal(mean_of_views(maps_of, image, 1), image) and len(calls) == 1
    torch.testing.assert_close(mean_of_views(maps_of, image, 8), image)
    assert [tuple(shape[2:]) for shape in calls[1:]] == 4 * [(32, 64)] + 4 * [(64, 32)]
    net, single = lively(views=8), lively()
    single.load_state_dict(net.state_dict())
    assert torch.equal(net.train()(image), single.train()(image))


def test_a_tile_that_starts_8_pixels_on_gives_the_same_numbers() -> None:
    """Flipping tiles whose sides are multiples of 8 px leaves blocks of pixels where they are."""
    net = lively(deep=1, views=8).fused()
    image, edge = torch.rand(1, 4, 160, 168), net.reach + 1
    with torch.inference_mode():
        first, second = net(image[..., :160]), net(image[..., 8:])
    a, b = first[..., edge:-edge, 8 + edge : -edge], second[..., edge:-edge, edge : -8 - edge]
    assert a.shape == b.shape and a.numel() > 3000
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_onnx_graphs_average_too() -> None:
    """With any shape of images, also where height and width differ."""
    pytest.importorskip("onnxruntime")
    net = lively(views=8)
    card = replace(open_bundle("trees-naip-60cm").card, weights_digest="", parameters=net.arguments())
    session = open_session(graph_of(card, net, "fp32"), EXECUTION)
    for height, width in ((64, 64), (64, 96)):
        images = torch.rand(2, 4, height, width)
        with torch.inference_mode():
            expected = net.fused()(images)
        (found,) = session.run(images.numpy())
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-3)


def test_views_are_a_setting_of_a_run(tmp_path: Path) -> None:
    """Of models of centres with boxes of one side; the settings are recorded, the model is the same."""
    scene = write_tif(tmp_path / "scene.tif", noise(4, 256, 256, seed=0))
    runs = {
        views: geosod.detect(scene, model="trees-naip-60cm", threshold=0.01, views=views, precision="fp32")
        for views in (None, 1, 8)
    }
    plain, one, eight = (next(iter(run.outputs.values())) for run in runs.values())
    assert plain.detections.scores.tolist() == one.detections.scores.tolist()
    assert plain.detections.scores.tolist() != eight.detections.scores.tolist()
    assert eight.provenance.model_digest == plain.provenance.model_digest
    assert eight.provenance.options["views"] == 8 and eight.provenance.config_digest != plain.provenance.config_digest
    assert one.provenance.config_digest == plain.provenance.config_digest and "views" not in one.provenance.options


@pytest.mark.parametrize(
    ("model", "views", "message"),
    [
        ("vehicles-aerial-13cm", 8, "is no network of geosod's that finds centres"),
        ("trees-naip-60cm", 3, "views = 3: must be one of 1, 2, 4, 8"),
        ("trees-naip-60cm", 9, "views"),
    ],
)
def test_what_cannot_be_averaged_is_refused(tmp_path: Path, model: str, views: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        geosod.detect(tmp_path / "none.tif", model=model, out=tmp_path / "out", views=views)
    with pytest.raises(ConfigError, match="views=3 must be one of"):
        CentreUNet(bands=1, classes=1, views=3)
    with pytest.raises(ConfigError, match="1 without a side"):
        Centre(bands=1, classes=1, backbone="slim", width=8, channels=16, views=2)
