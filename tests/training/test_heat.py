"""Heat maps and boxes that networks with a centre heat map are trained with: plain loops, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.detectors.zoo.fpn import decode
from geosod.errors import ConfigError
from geosod.training import heat_criterion
from geosod.training.criteria import criterion_of
from geosod.training.heat_criterion import heat_targets
from tests.training.samples import centre, targets

SIZE, STRIDE = (12, 16), 4


def drawn(seed: int, count: int):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-8, 60, (count, 2))
    boxes = np.hstack([corner, corner + rng.uniform(2, 40, (count, 2))]).astype(np.float32)
    return targets(boxes.tolist(), rng.integers(0, 2, count).tolist(), (rng.random(count) < 0.3).tolist())


def by_hand(one, sigma):
    heat, kept = np.zeros((2, *SIZE)), np.ones(SIZE, bool)
    centres = []
    for box, label, ignored in zip(one.boxes.double().numpy() / STRIDE, one.labels, one.ignored, strict=True):
        if ignored:
            for r, c in np.ndindex(SIZE):
                kept[r, c] &= not (box[0] <= c + 0.5 <= box[2] and box[1] <= r + 0.5 <= box[3])
            continue
        x, y = (box[:2] + box[2:]) / 2
        if not (0 <= x < SIZE[1] and 0 <= y < SIZE[0]):
            continue
        wide = np.full(2, sigma / STRIDE) if sigma else np.clip(0.14 * (box[2:] - box[:2]), 0.5, 12)
        for r, c in np.ndindex(SIZE):
            bump = np.exp(-(((c - int(x)) / wide[0]) ** 2) / 2 - ((r - int(y)) / wide[1]) ** 2 / 2)
            heat[label, r, c] = max(heat[label, r, c], bump)
        centres.append((int(label), int(y), int(x)))
    return heat, kept, centres


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), count=st.integers(0, 9), sigma=st.sampled_from([None, 3.0, 9.0]))
def test_the_heat_is_that_of_plain_loops(seed, count, sigma) -> None:
    one = drawn(seed, count)
    made = heat_targets(one, classes=2, size=SIZE, stride=STRIDE, sigma=sigma)
    heat, kept, centres = by_hand(one, sigma)
    # Beyond three deviations and a cell nothing is drawn.
    np.testing.assert_allclose(made.heat, heat, atol=0.012)
    assert np.array_equal(made.kept, kept)
    assert {tuple(row) for row in torch.nonzero(made.positive).tolist()} == set(centres)
    assert (made.heat[made.positive] == 1).all()


def test_parts_give_the_same_as_the_whole(monkeypatch) -> None:
    one = drawn(7, 20)
    whole = heat_targets(one, classes=2, size=SIZE, stride=STRIDE).heat
    monkeypatch.setattr(heat_criterion, "_CHUNK", 1)
    assert torch.equal(heat_targets(one, classes=2, size=SIZE, stride=STRIDE).heat, whole)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999))
def test_maps_that_say_what_they_should_decode_to_the_boxes(seed) -> None:
    rng = np.random.default_rng(seed)
    corner = np.array([[3, 4], [30, 6], [8, 28], [38, 30]]) + rng.uniform(-2, 2, (4, 2))
    boxes = np.hstack([corner, corner + rng.uniform(6, 14, (4, 2))])
    labels = rng.integers(0, 2, 4).tolist()
    made = heat_targets(targets(boxes.tolist(), labels), classes=2, size=SIZE, stride=STRIDE)
    raw = torch.full((1, 6, *SIZE), -9.0)
    raw[0, :2][made.positive] = 9.0
    raw[0, 2:, made.cells[:, 0], made.cells[:, 1]] = made.shapes.T
    found, scores, of = decode(raw, threshold=0.5, topk=9)
    assert int(torch.isfinite(scores).sum()) == 4
    order = np.lexsort(found[0, :4].numpy().T.round(1))
    np.testing.assert_allclose(found[0, order], boxes[np.lexsort(boxes.T.round(1))], atol=1e-3)
    assert sorted(of[0, :4].tolist()) == sorted(labels)


def test_a_cell_has_the_box_of_the_object_whose_centre_is_nearest() -> None:
    made = heat_targets(targets([[10.0, 10, 14, 14], [2.0, 2, 30, 30]]), classes=1, size=SIZE, stride=STRIDE)
    cells = {
        tuple(c): (float(w), s.tolist()) for c, w, s in zip(made.cells.tolist(), made.weights, made.shapes, strict=True)
    }
    weight, shape = cells[(3, 3)]
    assert weight == 1 and shape[2] == 0
    weight, shape = cells[(4, 4)]
    assert weight == 1 and shape[2] == pytest.approx(np.log(7))


@pytest.mark.parametrize(
    "make",
    [
        lambda: criterion_of(centre(), sigma=0),
        lambda: centre(stride=3),
        lambda: centre(stem_stride=1, stride=0),
        lambda: centre(side=0.0),
        lambda: centre(window=4),
        lambda: centre(refine=-1),
        lambda: centre(head=-1),
    ],
)
def test_arguments_out_of_range_are_refused(make) -> None:
    with pytest.raises(ConfigError, match=r"sigma=|stride=|side=|window=|refine=|head="):
        make()
