"""Prior boxes: where they are, their shapes, and decoding in plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.detectors.zoo.anchors import Anchors, centres, regular_shapes
from geosod.detectors.zoo.dense import places
from geosod.detectors.zoo.retinanet import RetinaNet, decode_anchors
from geosod.errors import ConfigError

CPU = torch.device("cpu")


def test_boxes_are_those_that_statistics_count() -> None:
    """S-α is counted on `geosod.datasets.priors.retina_pyramid`: the network has the same boxes by default."""
    from geosod.datasets.priors import retina_pyramid

    network = RetinaNet(bands=3, classes=1, backbone="slim", width=8, channels=16, tower=0)
    counted = retina_pyramid()
    assert network.anchors.strides == counted.strides
    np.testing.assert_allclose(
        np.sort(np.array(network.anchors.shapes), axis=1), np.sort(np.array(counted.shapes), axis=1)
    )
    assert len(network.anchors.boxes((96, 160), CPU)) == counted.count(160, 96)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 4), cols=st.integers(1, 4), seed=st.integers(0, 99))
def test_boxes_stand_about_the_middle_of_every_cell(rows, cols, seed) -> None:
    rng = np.random.default_rng(seed)
    shapes = [[tuple(map(float, rng.uniform(1, 50, 2))) for _ in range(rng.integers(1, 3))] for _ in range(2)]
    size = (32 * rows, 32 * cols)
    wanted = []
    for stride, of in zip((8, 64), shapes, strict=True):
        for r in range(math.ceil(size[0] / stride)):
            for c in range(math.ceil(size[1] / stride)):
                x, y = (c + 0.5) * stride, (r + 0.5) * stride
                wanted += [[x - w / 2, y - h / 2, x + w / 2, y + h / 2] for w, h in of]
    np.testing.assert_allclose(Anchors((8, 64), shapes).boxes(size, CPU), wanted, atol=1e-4)


def test_outputs_are_in_the_order_of_the_boxes() -> None:
    rows, cols, each, values = 2, 3, 2, 5
    maps = torch.arange(2 * each * values * rows * cols).reshape(2, each * values, rows, cols)
    got = places(maps, values)
    for b, r, c, a, v in np.ndindex(2, rows, cols, each, values):
        assert got[b, (r * cols + c) * each + a, v] == maps[b, a * values + v, r, c]


def test_regular_shapes_have_the_area_and_ratio_that_are_asked_for() -> None:
    (shapes,) = regular_shapes([16.0], [0.5, 2.0], [1.0, 1.5])
    assert [w * h for w, h in shapes] == pytest.approx([256, 256, 576, 576])
    assert [h / w for w, h in shapes] == pytest.approx([0.5, 2, 0.5, 2])
    assert regular_shapes([4.0, 8.0], [[1.0], [4.0]], [1.0]) == [[(4.0, 4.0)], [(4.0, 16.0)]]


def test_there_is_an_output_for_every_box() -> None:
    network = RetinaNet(bands=1, classes=4, backbone="slim", width=8, channels=16, tower=1, scales=(1.0, 1.3)).eval()
    for size in ((32, 32), (96, 64)):
        raw = network(torch.zeros(2, 1, *size))
        assert raw.shape == (2, len(network.anchors.boxes(size, CPU)), 8)


def by_hand(raw, priors, threshold, topk):
    found = []
    for n, row in enumerate(raw.astype(np.float64)):
        for k, logit in enumerate(row[:-4]):
            score = 1 / (1 + np.exp(-logit))
            if score >= threshold:
                x0, y0, x1, y1 = priors[n]
                w, h, dx, dy = x1 - x0, y1 - y0, row[-4], row[-3]
                x, y = (x0 + x1) / 2 + dx * w, (y0 + y1) / 2 + dy * h
                w, h = w * np.exp(min(row[-2], np.log(62.5))), h * np.exp(min(row[-1], np.log(62.5)))
                found.append((score, k, [x - w / 2, y - h / 2, x + w / 2, y + h / 2]))
    return sorted(found, key=lambda one: -one[0])[:topk]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), topk=st.integers(1, 60), threshold=st.sampled_from([0.0, 0.4, 0.9]))
def test_decoding_agrees_with_plain_loops(seed, topk, threshold) -> None:
    anchors = Anchors((8, 16), regular_shapes((16, 32), (1.0, 2.0), (1.0,)))
    priors = anchors.boxes((16, 24), CPU)
    raw = np.random.default_rng(seed).normal(0, 2, (2, len(priors), 7)).astype(np.float32)
    boxes, scores, labels = decode_anchors(
        torch.from_numpy(raw), anchors, size=(16, 24), threshold=threshold, topk=topk
    )
    for i in range(2):
        wanted = by_hand(raw[i], priors.double().numpy(), threshold, topk)
        n = len(wanted)
        assert torch.isfinite(scores[i]).sum() == n and (scores[i, n:] == -torch.inf).all()
        np.testing.assert_allclose(scores[i, :n], [w[0] for w in wanted], rtol=1e-5)
        assert labels[i, :n].tolist() == [w[1] for w in wanted]
        np.testing.assert_allclose(boxes[i, :n], np.array([w[2] for w in wanted]).reshape(-1, 4), rtol=1e-3, atol=1e-2)


def test_centres_are_in_the_order_of_the_outputs() -> None:
    points, strides = centres((32, 64), (16, 32), CPU)
    assert points.tolist() == [
        [8, 8],
        [24, 8],
        [40, 8],
        [56, 8],
        [8, 24],
        [24, 24],
        [40, 24],
        [56, 24],
        [16, 16],
        [48, 16],
    ]
    assert strides.tolist() == [16] * 8 + [32] * 2


WRONG = (
    {"sizes": (8, 16)},
    {"ratios": (0.0, 1.0)},
    {"scales": (-1.0,)},
    {"ratios": ((1.0,), (2.0,))},
    {"ratios": ((1.0,), (1.0,), (1.0,), (1.0,), (1.0, 2.0))},
    {"ratios": ()},
)


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_shapes_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ConfigError, match=r"anchors|ratios"):
        RetinaNet(**({"bands": 3, "classes": 1, "backbone": "slim", "width": 8, "channels": 16} | wrong))
