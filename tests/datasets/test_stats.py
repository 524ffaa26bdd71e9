"""Prior boxes against brute force, S-α by hand, and suggestions that hold what their reasons say."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.datasets.fusion import fusion_factors
from geosod.datasets.labels import LabelledImage, Labels
from geosod.datasets.priors import (
    Pyramid,
    best_priors,
    best_shape_iou,
    cluster_shapes,
    retina_pyramid,
    shape_iou,
)
from geosod.datasets.statistics import describe
from geosod.datasets.suggest import suggest
from geosod.errors import ConfigError, LabelError


def iou(a: np.ndarray, b: np.ndarray) -> float:
    shared = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(30, 90), st.integers(30, 90))
def test_the_best_prior_is_that_of_all_boxes_of_all_levels(seed: int, width: int, height: int) -> None:
    rng = np.random.default_rng(seed)
    pyramid = Pyramid((4, 8, 16), (((6, 9), (12.5, 5)), ((16, 16),), ((40, 20), (20, 40), (33, 33))))
    corner = rng.uniform(-5, [width, height], (6, 2))
    boxes = np.hstack([corner, corner + rng.uniform(1, 40, (6, 2))])
    every = [
        (level, np.array([(x + 0.5) * s - w / 2, (y + 0.5) * s - h / 2, (x + 0.5) * s + w / 2, (y + 0.5) * s + h / 2]))
        for level, (s, shapes) in enumerate(zip(pyramid.strides, pyramid.shapes, strict=True))
        for w, h in shapes
        for x in range(-(-width // s))
        for y in range(-(-height // s))
    ]
    assert pyramid.count(width, height) == len(every)
    found = best_priors(boxes, np.tile([width, height], (6, 1)).astype(float), pyramid)
    for k, box in enumerate(boxes):
        overlaps = [iou(box, prior) for _, prior in every]
        assert found.iou[k] == pytest.approx(max(overlaps), abs=1e-12)
        assert iou(box, found.boxes[k]) == pytest.approx(max(overlaps), abs=1e-12)
        if max(overlaps) > 0:
            assert max(o for o, (level, _) in zip(overlaps, every, strict=True) if level == found.level[k]) == max(
                overlaps
            )


def test_clusters_are_near_the_best_of_all_choices() -> None:
    rng = np.random.default_rng(2)
    for _ in range(5):
        shapes = rng.uniform(3, 60, (14, 2))
        best = max(best_shape_iou(shapes, shapes[list(pair)]).mean() for pair in combinations(range(14), 2))
        assert best_shape_iou(shapes, cluster_shapes(shapes, 2)).mean() >= 0.98 * best


def test_clusters_find_what_the_data_are_made_of() -> None:
    rng = np.random.default_rng(0)
    truth = np.array([[8, 8], [30, 12], [60, 90]])
    shapes = np.repeat(truth, 200, axis=0) * rng.normal(1, 0.03, (600, 2))
    found = cluster_shapes(shapes, 3, seed=5)
    assert found == pytest.approx(truth, rel=0.03)
    assert (cluster_shapes(shapes, 3, seed=5) == found).all()
    assert len(cluster_shapes(np.array([[2.0, 2.0], [2.0, 2.0], [4.0, 4.0]]), 5)) == 2
    assert np.diag(shape_iou(truth.astype(float), truth.astype(float))) == pytest.approx(1)


def test_fusion_factors_by_hand() -> None:
    factors = fusion_factors(np.array([200, 100, 50, 20, 5]))
    assert (factors.alpha_2_3, factors.alpha_3_4, factors.alpha_4_5) == (0.5, 0.5, 0.5)
    assert fusion_factors(np.array([0, 1, 0, 0, 2])).alpha_2_3 is None


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ((0, 0, 0, 0, 0), (None, None, None)),
        ((5, 0, 0, 0, 0), (0.0, None, None)),
        ((4, 2, 0, 0, 3), (0.5, 0.0, None)),
        ((0, 0, 4, 1, 2), (None, None, 0.75)),
    ],
)
def test_levels_without_objects_give_factors_of_0_or_none(counts, wanted) -> None:
    factors = fusion_factors(np.array(counts))
    assert (factors.alpha_2_3, factors.alpha_3_4, factors.alpha_4_5) == wanted


def test_of_priors_that_overlap_equally_the_finest_levels_counts() -> None:
    """An object of 8 x 4 px has IoU 0.5 with a prior box of 4 x 4 and with one of 16 x 4."""
    boxes, sizes = np.array([[16.0, 18, 24, 22]]), np.array([[64.0, 64]])
    for shapes in (((4.0, 4.0), (16.0, 4.0)), ((16.0, 4.0), (4.0, 4.0))):
        found = best_priors(boxes, sizes, Pyramid((8, 8), tuple((shape,) for shape in shapes)))
        assert found.iou.tolist() == [0.5] and found.level.tolist() == [0]


def squares(*groups: tuple[int, float], side: int = 512) -> Labels:
    """Squares of some sides, each alone in an image, at the centre of a cell of the coarsest stride."""
    sizes = np.repeat([size for _, size in groups], [count for count, _ in groups])
    images = [LabelledImage(str(k), "", side, side) for k in range(len(sizes))]
    centre = 224.0
    boxes = np.stack([centre - sizes / 2, centre - sizes / 2, centre + sizes / 2, centre + sizes / 2], axis=1)
    return Labels(
        images=images, classes=["a"], image=np.arange(len(sizes)), boxes=boxes, labels=np.zeros(len(sizes), int)
    )


def test_objects_count_for_the_level_of_their_best_anchor() -> None:
    """Sides of 8, 16, … are those of the anchors themselves."""
    some = squares((40, 8), (30, 16), (20, 32), (10, 64), (6, 128))
    found = describe(some, tile=512, overlap=0)
    assert found.fusion.counts == (40, 30, 20, 10, 6)
    assert found.fusion.alpha_4_5 == pytest.approx(16 / 20)
    doubled = describe(some, tile=512, overlap=0, scale=2.0)
    assert doubled.fusion.counts == (0, 40, 30, 20, 16)


def test_counts_are_on_tiles_as_they_are_trained() -> None:
    """An object in the overlap of two tiles is seen by both; ignored ones and crowds by none."""
    image = [LabelledImage("a", "", 992, 512)]
    boxes = [[490, 10, 506, 26], [10, 10, 26, 26], [40, 40, 56, 56], [60, 60, 76, 76]]
    some = Labels(
        images=image, classes=["a"], image=[0] * 4, boxes=boxes, labels=[0] * 4,
        ignore=[False, False, True, False], crowd=[False, False, False, True],
    )  # fmt: skip
    found = describe(some, tile=512, overlap=32)
    assert found.objects == 2 and found.tile_objects == 3 and sum(found.fusion.counts) == 3 and found.tiles == 2


def test_figures_of_priors_are_what_they_say() -> None:
    some = squares((50, 16), (50, 60))
    found = describe(some, tile=512, overlap=0, max_priors=4, budget=10_000)
    assert [one.count for one in found.priors] == [1, 2]
    two = found.priors[1]
    assert two.shapes == ((16, 16), (60, 60)) and two.levels == (8, 32)
    assert two.boxes == 64 * 64 + 16 * 16 and two.mean_iou == pytest.approx(1)
    assert two.best_possible_recall == 1
    # Cells of stride 8 and 32 are off the centre by 4 and 16 px along both axes.
    shifted = (16 - 4) ** 2 / (2 * 256 - 12**2)
    assert two.recall["0.5"] == float(shifted >= 0.5) / 2 + float((60 - 16) ** 2 / (2 * 3600 - 44**2) >= 0.5) / 2
    assert found.anchors.boxes == retina_pyramid().count(512, 512) and found.anchors.count == 15
    assert "over the budget of 10:" in describe(some, tile=512, overlap=0, budget=10).suggested_priors.reason


@given(st.integers(0, 10**6), st.floats(2, 400))
def test_suggestions_hold_what_they_say(seed: int, typical: float) -> None:
    wh = np.random.default_rng(seed).lognormal(np.log(typical), 0.5, (300, 2))
    tile, overlap, levels = suggest(wh)
    side, shared = int(tile.value), int(overlap.value)
    assert side % 32 == 0 and shared <= side / 4
    if side < 2048:
        assert (wh.max(axis=1) <= shared).mean() >= 0.99
    from geosod.config import make_config

    config = make_config(tile=side, overlap=shared, levels=levels.value, model="m")
    ranges = [level.sizes for level in config.levels]
    if len(ranges) > 1:
        # Every object is in the range of some level.
        sizes = np.sqrt(wh.prod(axis=1))
        inside = [
            (sizes >= low) & (sizes <= (np.inf if high is None else high)) for low, high in ranges if low is not None
        ]
        assert np.any(inside, axis=0).all()


def test_what_is_refused() -> None:
    with pytest.raises(LabelError, match="points have no size"):
        describe(
            Labels(
                images=[LabelledImage("a", "", 9, 9)],
                classes=["a"],
                image=[0],
                boxes=[[1, 1, 1, 1]],
                labels=[0],
                points=True,
            )
        )
    with pytest.raises(LabelError, match="no object has an area"):
        describe(Labels.empty([LabelledImage("a", "", 9, 9)], ["a"]))
    with pytest.raises(ConfigError, match="anchor sizes"):
        retina_pyramid((8, 16))
