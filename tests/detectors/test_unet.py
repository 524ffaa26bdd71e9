"""CentreUNet: how far it sees, folding, NDVI, peaks against plain loops, and a loss that falls to its targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.api import load_model
from geosod.detectors.adapters.zoo import network
from geosod.detectors.bundle import write_bundle
from geosod.detectors.card import ModelCard
from geosod.detectors.zoo.peaks import peaks
from geosod.detectors.zoo.unet import CentreUNet, centre_loss
from geosod.errors import ConfigError, ModelError
from geosod.scene import TileBatch
from tests.rasters import noise


def lively(**settings) -> CentreUNet:
    """A narrow network whose normalisations are not the identity and whose heats differ from pixel to pixel."""
    torch.manual_seed(3)
    model = CentreUNet(**({"bands": 4, "classes": 2, "width": 4, "deep": 2, "ndvi": (0, 3)} | settings)).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith(("running_mean", "norm.bias")):
                value.normal_(std=0.2)
            elif name.endswith(("running_var", "norm.weight")):
                value.uniform_(0.7, 1.4)
        model.out.bias.zero_()
        model.out.weight.normal_()
        x = torch.rand(1, model.bands, 64, 64)
        model.out.weight.mul_(3 / model(x).std(dim=(0, 2, 3)).view(-1, 1, 1, 1))
        model.out.bias.sub_(model(x).mean(dim=(0, 2, 3)))
    return model


@pytest.mark.parametrize("deep", [1, 2])
def test_reach_is_how_far_it_sees(deep) -> None:
    """With weights that cancel nothing out, one bright pixel warms just the pixels that depend on it."""
    model = CentreUNet(bands=1, classes=1, width=4, deep=deep).eval().fused()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.fill_(1.0 / module.in_channels)
                module.bias.zero_()
    side = 8 * (2 * model.reach // 8 + 4)
    farthest = 0
    for offset in range(8):
        x = torch.zeros(1, 1, side, side)
        at = side // 2 + offset
        x[0, 0, at, at] = 1.0
        rows, cols = torch.nonzero(model(x)[0, 0], as_tuple=True)
        farthest = max(farthest, *(int((v - at).abs().max()) for v in (rows, cols)))
    assert farthest == model.reach


def test_folding_changes_nothing() -> None:
    model = lively()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = model.fused()
    x = torch.rand(2, 4, 64, 96)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)
    assert model(x).std() > 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert folded.arguments() == model.arguments()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tile_gives_the_same_numbers_in_any_company(dtype) -> None:
    net = lively().fused().to(dtype, memory_format=torch.channels_last)
    tiles = torch.rand(4, 4, 96, 96).to(dtype)
    with torch.inference_mode():
        first = net(tiles.contiguous(memory_format=torch.channels_last))
        again = net(tiles.flip(0).contiguous(memory_format=torch.channels_last)).flip(0)
    assert torch.equal(first, again) and first.dtype == torch.float32


def test_a_tile_that_starts_8_pixels_on_gives_the_same_numbers() -> None:
    net = lively(deep=1).fused()
    x = torch.rand(1, 4, 160, 160)
    inner = net.reach + 1
    with torch.inference_mode():
        whole, part = net(x), net(x[:, :, 8:, 16:].contiguous())
    a, b = whole[:, :, 8 + inner : -inner, 16 + inner : -inner], part[:, :, inner:-inner, inner:-inner]
    assert a.shape == b.shape and a.numel() > 3000
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_index_is_the_normalised_difference_of_the_two_bands_named() -> None:
    model = CentreUNet(bands=4, classes=1, width=4, ndvi=(2, 1))
    x = torch.rand(1, 4, 8, 8)
    x[0, :, 0, 0] = 0
    index = model._with_index(x)[0, 4].numpy()
    red, nir = x[0, 2].double().numpy(), x[0, 1].double().numpy()
    sure = red + nir > 1 / 255
    np.testing.assert_allclose(index[sure], ((nir - red)[sure] / (nir + red)[sure]), atol=1e-6)
    assert index[0, 0] == 0 and not sure[0, 0]
    rough = model._with_index(x.bfloat16())
    assert rough.dtype == torch.bfloat16
    np.testing.assert_allclose(rough[0, 4].float().numpy(), index, atol=0.02)
    assert CentreUNet(bands=4, classes=1, width=4)._with_index(x).shape[1] == 4


def loops(heat: np.ndarray, threshold: float, window: int) -> list[tuple[float, int, int, int]]:
    """Peaks as ``(logit, class, row, column)``, the highest first, of equal ones the first in memory."""
    found = []
    reach = window // 2
    for k, row, col in np.ndindex(heat.shape):
        around = heat[k, max(0, row - reach) : row + reach + 1, max(0, col - reach) : col + reach + 1]
        if heat[k, row, col] >= around.max() and 1 / (1 + np.exp(-np.float64(heat[k, row, col]))) >= threshold:
            found.append((float(heat[k, row, col]), k, row, col))
    return sorted(found, key=lambda p: (-p[0], p[1:]))


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 9999),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 18), st.integers(1, 18)),
    window=st.sampled_from([3, 5, 7]),
    steps=st.sampled_from([3, 1000]),
    topk=st.integers(1, 40),
)
def test_peaks_are_those_of_plain_loops(seed, shape, window, steps, topk) -> None:
    rng = np.random.default_rng(seed)
    heat = (rng.integers(-steps, steps + 1, (3, *shape)) / steps * 3).astype(np.float32)
    threshold = float(rng.choice([0.0, 0.3, 0.77]))
    centres, scores, labels = peaks(torch.from_numpy(heat), threshold=threshold, topk=topk, window=window, refine=0)
    for i, one in enumerate(heat):
        wanted = loops(one, threshold, window)[:topk]
        n = int(torch.isfinite(scores[i]).sum())
        assert n == len(wanted)
        logits, classes, rows, cols = (np.array(v) for v in zip(*wanted, strict=True)) if n else (np.zeros(0),) * 4
        np.testing.assert_allclose(scores[i, :n], 1 / (1 + np.exp(-logits)), rtol=1e-5)
        assert np.array_equal(labels[i, :n], classes)
        assert np.array_equal(centres[i, :n], np.column_stack([cols, rows]) + 0.5)
        assert (scores[i, n:] == -torch.inf).all()


@settings(max_examples=60, deadline=None)
@given(x=st.floats(0.6, 23.4), y=st.floats(0.6, 31.4), refine=st.sampled_from([1, 2]))
def test_a_gaussian_is_found_between_pixels(x: float, y: float, refine: int) -> None:
    rows, cols = np.mgrid[:32, :24] + 0.5
    heat = 4 - ((cols - x) ** 2 + (rows - y) ** 2) / (2 * 3.0**2)
    centres, scores, _ = peaks(
        torch.from_numpy(heat[None, None].astype(np.float32)), threshold=0.5, topk=9, window=5, refine=refine
    )
    found = centres[0, 0].numpy()
    for place, size, value in ((x, 24, found[0]), (y, 32, found[1])):
        inside = refine + 0.01 < place < size - refine - 0.01
        assert abs(value - place) < (0.02 if inside else 0.51)
    assert float(scores[0, 0]) == pytest.approx(1 / (1 + np.exp(-heat.max())), rel=1e-5)


def test_boxes_have_the_side_and_stand_about_the_peaks() -> None:
    model = lively(side=9.0, window=7, refine=1)
    raw = model(torch.rand(2, 4, 64, 64))
    boxes, scores, labels = model.decode(raw, size=raw.shape[2:], threshold=0.4, topk=30)
    centres, same, kinds = peaks(raw, threshold=0.4, topk=30, window=7, refine=1)
    assert boxes.shape == (2, 30, 4) and boxes.dtype == torch.float32
    torch.testing.assert_close(boxes[..., 2:] - boxes[..., :2], torch.full((2, 30, 2), 9.0))
    torch.testing.assert_close((boxes[..., 2:] + boxes[..., :2]) / 2, centres)
    assert torch.equal(scores, same) and torch.equal(labels, kinds) and labels.unique().tolist() == [0, 1]


def test_nothing_is_found_in_nothing() -> None:
    model = CentreUNet(bands=1, classes=1, width=4, deep=1).eval()
    boxes, scores, labels = model.decode(model(torch.zeros(2, 1, 32, 32)), size=(32, 32), threshold=0.5, topk=10)
    assert boxes.shape == (2, 0, 4) and scores.shape == labels.shape == (2, 0)


def test_loss_is_least_at_the_targets_and_grows_away_from_them() -> None:
    positives = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    positives[0, 0, 5, 7] = True
    heat = torch.where(positives, 1.0, 0.0)
    perfect = (heat * 2 - 1) * 12
    best = float(centre_loss(perfect, heat, positives=positives))
    assert best < 1e-3
    for row, col in ((5, 7), (0, 0)):
        worse = perfect.clone()
        worse[0, 0, row, col] *= -1
        assert float(centre_loss(worse, heat, positives=positives)) > 1
    warm = heat.clone()
    warm[0, 0, 0, 0] = 0.9
    worse = perfect.clone()
    worse[0, 0, 0, 0] *= -1
    spared = float(centre_loss(worse, warm, positives=positives))
    assert spared < 0.01 * float(centre_loss(worse, heat, positives=positives))
    empty = torch.zeros_like(positives)
    assert np.isfinite(float(centre_loss(perfect, heat * 0, positives=empty)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"bands": 0},
        {"classes": 0},
        {"deep": 0},
        {"width": 3},
        {"side": 0},
        {"window": 4},
        {"window": 1},
        {"refine": -1},
        {"ndvi": (0,)},
        {"ndvi": (0, 4)},
        {"ndvi": (-1, 2)},
    ],
)
def test_arguments_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ConfigError, match="CentreUNet"):
        CentreUNet(**({"bands": 4, "classes": 1, "ndvi": (0, 3)} | wrong))


def card(**fields) -> ModelCard:
    values = {
        "name": "points",
        "architecture": "centre-unet",
        "parameters": {"width": 4, "deep": 2, "ndvi": [0, 3]},
        "bands": ("red", "green", "blue", "nir"),
        "dtype": "uint8",
        "minimum": (0.0,) * 4,
        "maximum": (255.0,) * 4,
        "classes": ("a", "b"),
        "tile": 96,
        "overlap": 32,
        "threshold": 0.5,
        "license": "proprietary",
        "nms_iou": 0.6,
    }
    return ModelCard(**(values | fields))


def test_a_bundle_of_it_detects_and_no_tile_depends_on_its_batch(tmp_path) -> None:
    model = lively()
    write_bundle(tmp_path / "m", card(), model.state_dict())
    detector = load_model(tmp_path / "m", precision="fp32", backend="eager", batch=4, device="cpu")
    pixels = np.stack([noise(4, 96, 96, seed=i) for i in range(3)])
    windows = np.array([[96 * i, 0, 96, 96] for i in range(3)], np.int64)
    tiles = TileBatch(pixels, windows, None, np.tile(np.array([288, 96]), (3, 1)))
    together = detector.detect(tiles)
    for i, found in enumerate(together):
        assert detector.detect(tiles[i : i + 1])[0].to_arrow().equals(found.to_arrow())
        raw = model(torch.from_numpy(pixels[i : i + 1]).float() / 255)
        centres, scores, _ = peaks(raw, threshold=0.5, topk=9999, window=5, refine=1)
        inside = ((centres[0] >= 6) & (centres[0] <= 90)).all(dim=1) & torch.isfinite(scores[0])
        x0, y0, x1, y1 = found.boxes.T
        middle = np.column_stack([(x0 + x1) / 2 - 96 * i, (y0 + y1) / 2])
        middle = middle[((middle > 6) & (middle < 90)).all(axis=1)]
        # Suppression in the tile may take some of the network's peaks, but adds none.
        distance = np.abs(middle[:, None] - centres[0][inside].detach().numpy()).max(axis=2).min(axis=1)
        # Peaks are placed to 1/64 px. The network of the bundle is fused, so its heats differ by rounding, and a
        # position may fall on the next step; boxes are exact in float32.
        assert len(middle) > 50 and distance.max() <= 1 / 64


def test_a_card_with_wrong_parameters_is_refused() -> None:
    with pytest.raises(ModelError, match="unexpected keyword"):
        network(card(parameters={"depth": 3}))
    with pytest.raises(ConfigError, match="two positions among 3 bands"):
        network(card(bands=("r", "g", "b"), minimum=(0,) * 3, maximum=(1,) * 3))
