"""Tiles to the network's input and boxes back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from geosod.detectors.contract import RawBoxes
from geosod.detectors.detector import Detector
from geosod.detectors.mlm_item import from_item, to_item
from geosod.detectors.network_input import Fit, NetworkInput
from geosod.detectors.resize import boxes_in_tile, prepare
from geosod.errors import ModelError
from geosod.testing import fake_card

SIDES = st.integers(1, 3000)


def image(height: int = 64, width: int = 96, bands: int = 3) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (1, bands, height, width)).astype(np.float32) / 255)


@given(
    image_size=st.tuples(SIDES, SIDES),
    size=st.none() | st.tuples(SIDES, SIDES),
    upscale=st.floats(0.5, 4),
    resize=st.sampled_from(["letterbox", "stretch"]),
    corner=st.sampled_from(["centre", "top-left"]),
)
def test_boxes_come_back_from_the_network(image_size, size, upscale, resize, corner) -> None:
    spec = NetworkInput(size=size, upscale=upscale, resize=resize, corner=corner)
    fit = spec.fit(*image_size)
    boxes = np.array([[0, 0, *image_size], [0.3, 0.7, image_size[0] - 0.1, image_size[1] - 0.2]])
    there = fit.to_input(boxes)
    np.testing.assert_allclose(fit.to_image(there), boxes, atol=1e-6)
    # The whole image lies in the input, and is not made empty.
    assert (there[0] >= 0).all() and (there[0, 2:] <= np.array([fit.width, fit.height]) + 1e-9).all()
    assert fit.inner_width >= 1 and fit.inner_height >= 1
    if size is not None:
        assert (fit.width, fit.height) == size


@given(image_size=st.tuples(st.integers(32, 3000), st.integers(32, 3000)), size=st.tuples(SIDES, SIDES))
def test_a_letterbox_keeps_the_ratio_of_sides_and_touches_an_edge(image_size, size) -> None:
    fit = NetworkInput(size=size).fit(*image_size)
    assert fit.inner_width == fit.width or fit.inner_height == fit.height
    ratio = min(size[0] / image_size[0], size[1] / image_size[1])
    assert abs(fit.inner_width - image_size[0] * ratio) <= 1 and abs(fit.inner_height - image_size[1] * ratio) <= 1


def test_a_network_need_not_be_square() -> None:
    """720 x 1280 in 240 x 320: the height decides; and 1280 x 720, the width."""
    assert NetworkInput(size=(320, 240)).fit(1280, 720) == Fit(1280, 720, 320, 240, 320, 180, 0, 30)
    assert NetworkInput(size=(320, 240)).fit(720, 1280) == Fit(720, 1280, 320, 240, 135, 240, 92, 0)


def test_boxes_on_the_device_come_back_as_on_paper() -> None:
    fit = NetworkInput(size=(320, 256)).fit(509, 381)
    boxes = torch.tensor([[10.0, 20.0, 50.0, 44.0], [3.5, 7.25, 319.0, 250.0]])
    raw = RawBoxes(boxes, torch.ones(2), torch.zeros(2), torch.zeros(2))
    np.testing.assert_allclose(boxes_in_tile(raw, fit).boxes.numpy(), fit.to_image(boxes), atol=1e-4)


def test_resizing_with_a_wider_kernel_equals_pillow() -> None:
    for size in ((40, 31), (200, 150)):
        tile = image()
        spec = NetworkInput(size=size, resize="stretch", resampling="antialias")
        ours = prepare(tile.clone(), spec, spec.fit(96, 64), whole=True)[0].permute(1, 2, 0).numpy() * 255
        pixels = (tile[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        theirs = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)).astype(float)
        assert np.abs(ours - theirs).max() < 1.01
        assert (np.abs(ours - theirs) > 0.01).mean() < 0.03


def test_what_is_beside_a_letterboxed_tile_is_filled() -> None:
    spec = NetworkInput(size=(96, 96), fill=0.25)
    found = prepare(image(), spec, spec.fit(96, 64), whole=True)
    assert found.shape == (1, 3, 96, 96)
    assert (found[:, :, :16] == 0.25).all() and (found[:, :, 80:] == 0.25).all()
    assert torch.equal(found[:, :, 16:80], image())


def test_values_and_order_of_bands() -> None:
    tile = image()
    spec = NetworkInput(reverse_bands=True, scale=255, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    found = prepare(tile.clone(), spec, spec.fit(96, 64), whole=True)
    for place, band in enumerate((2, 1, 0)):
        wanted = (tile[0, band] * 255 - spec.mean[band]) / spec.std[band]
        torch.testing.assert_close(found[0, place], wanted)


def test_tiles_are_enlarged_by_the_factor_of_a_card() -> None:
    spec = NetworkInput(upscale=2.0)
    assert spec.fit(96, 64) == Fit(96, 64, 192, 128, 192, 128)
    assert spec.fit(48, 33).inner == (96, 66) and spec.fit(48, 33).height == 96

    class Bright:
        """Reports the columns and rows above 0.9."""

        def predict(self, images: torch.Tensor) -> RawBoxes:
            self.shape = tuple(images.shape)
            rows = torch.nonzero(images[0, 0] > 0.9)
            low, high = rows.min(dim=0).values, rows.max(dim=0).values + 1
            return RawBoxes.per_tile([([[low[1], low[0], high[1], high[0]]], [0.9], [0])])

    adapter = Bright()
    detector = Detector(replace(fake_card(tile=64, overlap=16), input=spec), adapter)
    tile = np.zeros((1, 64, 64), np.uint8)
    tile[:, 10:20, 30:50] = 255
    found = detector.detect(tile)
    assert adapter.shape == (1, 1, 128, 128)
    np.testing.assert_allclose(found.boxes, [[30, 10, 50, 20]], atol=0.51)


def test_invalid_pixels_have_the_value_of_what_is_filled() -> None:
    seen = []

    class Looks:
        def predict(self, images: torch.Tensor) -> RawBoxes:
            seen.append(images.clone())
            return RawBoxes.per_tile([([], [], [])])

    detector = Detector(replace(fake_card(tile=64, overlap=16), input=NetworkInput(fill=0.5)), Looks())
    tile = np.ma.MaskedArray(np.full((1, 64, 64), 255, np.uint8), np.zeros((1, 64, 64), bool))
    tile.mask[:, :, :10] = True
    detector.detect(tile)
    assert (seen[0][..., :10] == 0.5).all() and (seen[0][..., 10:] == 1).all()


def test_a_card_keeps_its_input() -> None:
    spec = NetworkInput(size=(320, 256), resize="stretch", fill=0.4, scale=255.0, mean=(0.5,), std=(0.2,))
    card = replace(fake_card(), input=spec, weights_digest="0" * 64)
    assert from_item(to_item(card), "here").input == spec
    assert to_item(card)["properties"]["mlm:input"][0]["resize_type"] == "interpolation-linear"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": (0, 5)}, "size"),
        ({"size": (100_000, 5)}, "size"),
        ({"resize": "crop"}, "resize 'crop'"),
        ({"corner": "left"}, "corner 'left'"),
        ({"resampling": "cubic"}, "resampling 'cubic'"),
        ({"fill": 114}, "fill 114"),
        ({"scale": float("nan")}, "scale nan"),
        ({"std": (0.0,)}, "std"),
        ({"upscale": 1000}, "upscale"),
        ({"colour": 3}, "colour is unknown"),
    ],
)
def test_impossible_inputs_are_refused(fields, message) -> None:
    with pytest.raises(ModelError, match=message):
        NetworkInput.from_dict(fields)


def test_a_mean_needs_a_value_for_every_band() -> None:
    with pytest.raises(ModelError, match=r"mean \(0.1, 0.2\) needs one value for each of 1 bands"):
        replace(fake_card(), input=NetworkInput(mean=(0.1, 0.2)))
