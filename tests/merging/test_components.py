import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from geosod.detections import Detections
from geosod.merging.components import settle
from geosod.merging.methods import METHODS
from geosod.merging.rule import MergeRule
from geosod.scene import Window
from geosod.tiling.grid import make_grid
from geosod.tiling.units import plan_units
from tests.merging.oracles import (
    by_unit,
    columns,
    merged_by,
    plain_components,
    plain_nms,
    staged,
    survivors_again,
    tiled_scene,
)

rules = st.builds(
    MergeRule,
    metric=st.sampled_from(["iou", "ios"]),
    threshold=st.sampled_from([1e-9, 0.2, 0.5, 0.8]),
    class_agnostic=st.booleans(),
    borders=st.booleans(),
    margin=st.sampled_from([0.0, 1.5]),
    gap=st.sampled_from([0.0, 1.5]),
)
all_rules = st.builds(
    MergeRule,
    method=st.sampled_from(sorted(METHODS)),
    metric=st.sampled_from(["iou", "iou", "ios"]),
    threshold=st.sampled_from([1e-9, 0.1, 0.3, 0.5, 0.6, 0.8]),
    class_agnostic=st.booleans(),
    sigma=st.sampled_from([0.05, 0.5]),
    min_score=st.sampled_from([0.0, 0.001, 0.2]),
    per_class=st.dictionaries(st.integers(0, 2), st.sampled_from([0.2, 0.5, 0.7]), max_size=2),
    decay=st.sampled_from(["gaussian", "linear"]),
    borders=st.booleans(),
    margin=st.sampled_from([0.0, 1.5]),
    gap=st.sampled_from([0.0, 1.5]),
    across_levels=st.booleans(),
)


@st.composite
def scenes(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tile = draw(st.tuples(st.integers(10, 40), st.integers(10, 40)))
    overlap = tuple(draw(st.integers(0, side * 2 // 3) | st.floats(0, 0.66)) for side in tile)
    grid = make_grid(draw(st.integers(5, 150)), draw(st.integers(5, 150)), tile=tile, overlap=overlap)
    tiles = tiled_scene(
        rng,
        grid,
        objects=draw(st.sampled_from([0, 3, 30, 120])),
        size=draw(st.sampled_from([(2, 6), (5, 25), (min(tile) / 2, 2 * max(tile))])),
        jitter=draw(st.sampled_from([0.0, 0.5, 2.0])),
        chains=draw(st.integers(0, 2)),
        clutter=draw(st.sampled_from([0, 3])),
        labels=draw(st.integers(1, 3)),
        scores=draw(st.sampled_from([1, 3, 10**6])),
        whole_numbers=draw(st.booleans()),
        near=draw(st.sampled_from([0.0, 1.0])),
        edge_margin=draw(st.sampled_from([0.0, 4.0])),
    )
    keep = draw(st.one_of(st.none(), st.just(rng.random((grid.rows, grid.cols)) < 0.6)))
    units = plan_units("s", grid, shape=draw(st.tuples(st.integers(0, 4), st.integers(0, 4))), keep=keep)
    return tiles, grid, units, rng


def whole(tiles, grid, units, rule):
    everything = Detections.concat(by_unit(tiles, grid, units).values())
    return merged_by(everything, rule)


@given(scenes(), all_rules, st.integers(2, 5))
@settings(deadline=None, max_examples=150)
def test_merging_unit_by_unit_is_merging_at_once_bit_for_bit(case, rule, fan_in):
    tiles, grid, units, rng = case
    result, _ = staged(tiles, grid, units, rule, fan_in=fan_in, rng=rng)
    assert columns(result) == columns(whole(tiles, grid, units, rule))


def dense_scene(objects):
    rng = np.random.default_rng(11)
    grid = make_grid(400, 300, tile=64, overlap=16)
    tiles = tiled_scene(rng, grid, objects=objects, size=(8, 24), jitter=1.0, labels=1, scores=10**6)
    return tiles, grid, plan_units("s", grid, shape=(2, 2)), rng


@pytest.mark.parametrize("objects", [200, 700])
def test_a_dense_scene_against_the_plain_oracle(objects):
    tiles, grid, units, rng = dense_scene(objects)
    rule = MergeRule(threshold=0.4)
    everything = Detections.concat(tiles)
    result, shipped = staged(tiles, grid, units, rule, fan_in=3, rng=rng)
    assert columns(result) == columns(plain_nms(everything, rule))
    assert 0 < shipped < 0.8 * len(everything), "many boxes are final within units"


def test_the_comparison_above_detects_a_wrong_split():
    tiles, grid, units, _ = dense_scene(700)
    rule = MergeRule(threshold=0.4)
    wrong, _ = survivors_again(tiles, grid, units, rule)
    right = whole(tiles, grid, units, rule)
    assert columns(wrong) != columns(right)
    different = {*map(tuple, wrong.boxes.tolist())} ^ {*map(tuple, right.boxes.tolist())}
    assert len(different) > 10, "the kept boxes differ, not only the counts"


@given(scenes(), rules)
@settings(deadline=None, max_examples=50)
def test_pending_boxes_are_raw_and_are_exactly_the_components_that_leave_the_core(case, rule):
    tiles, grid, units, _ = case
    assume(sum(map(len, tiles)) < 1000)  # of more the oracle takes half a minute
    for unit in units[:3]:
        boxes = by_unit(tiles, grid, [unit])[unit.id]
        part = settle(boxes, unit.core, rule)
        x0, y0, x1, y1 = boxes.boxes.T
        c = unit.core
        m = 1.001 * max(2 * rule.margin, rule.gap) * rule.borders
        leaving = (x0 - m < c.col) | (y0 - m < c.row) | (x1 + m > c.right) | (y1 + m > c.bottom)
        is_pending = plain_components(boxes, rule, leaving)
        rest = boxes[np.flatnonzero(is_pending)]
        assert columns(part.pending) == columns(rest[rest.canonical_order()])
        assert columns(part.final) == columns(plain_nms(boxes[np.flatnonzero(~is_pending)], rule))


def test_the_core_is_closed_and_a_chain_is_pending_as_a_whole():
    rule = MergeRule(threshold=0.3)
    core = Window(10, 10, 80, 80)
    on_its_edge = Detections(boxes=[[10, 10, 20, 20]], scores=[0.5], labels=[0])
    assert len(settle(on_its_edge, core, rule).final) == 1
    x = np.arange(9.0, 60, 5)
    chain = Detections(
        boxes=np.stack([x, x * 0 + 40, x + 10, x * 0 + 50], 1), scores=np.linspace(0.1, 1, len(x)), labels=x * 0
    )
    part = settle(Detections.concat([chain, on_its_edge]), core, rule)
    assert (len(part.pending), len(part.final)) == (len(x), 1)
    assert len(settle(chain[1:], core, rule).pending) == 0
    assert len(settle(chain, core, rule, whole=True).pending) == 0


# Two boxes that stay out of the core from (20, 20) on and fuse to [10, 10, 25, 25], which reaches into it.
ROUND_THE_CORNER = Detections(
    boxes=[[10, 10, 20, 30], [10, 10, 30, 20], [20, 20, 25, 25]], scores=[0.9, 0.9, 0.3], labels=[0, 0, 0]
)


def test_a_fused_box_may_reach_where_none_of_its_boxes_does():
    rule = MergeRule("wbf", threshold=0.1)
    assert merged_by(ROUND_THE_CORNER, rule).n_merged.tolist() == [3]
    part = settle(ROUND_THE_CORNER[2:], Window(20, 20, 60, 60), rule)
    assert (len(part.final), len(part.pending)) == (0, 1)
    assert len(settle(ROUND_THE_CORNER[2:], Window(20, 20, 60, 60), MergeRule(threshold=0.1)).final) == 1
    # At 8 sides of the box from the boundary, no fused box of boxes outside can match it.
    far = ROUND_THE_CORNER[2:].with_columns(boxes=ROUND_THE_CORNER[2:].boxes + 40.5)
    assert len(settle(far, Window(20, 20, 100, 100), rule).final) == 1


def test_a_box_that_matches_only_a_fused_box_stays_pending_with_it():
    # A chain of matches leads from the first box of three far out of the core.
    rule, steps = MergeRule("wbf", threshold=0.1), np.arange(1.0, 14)
    chain = np.stack([10 - 8 * steps, 10 + 0 * steps, 20 - 8 * steps, 30 + 0 * steps], axis=1)
    boxes = np.concatenate([ROUND_THE_CORNER.boxes, chain]) + 100
    scores = np.concatenate([ROUND_THE_CORNER.scores, np.full(len(chain), 0.1)])
    cluster = Detections(boxes=boxes, scores=scores, labels=np.zeros(len(boxes)))
    without = np.delete(np.arange(len(boxes)), 2)
    assert not plain_components(cluster, rule, np.isin(np.arange(len(boxes)), without))[2], "it matches no raw box"
    core = Window(10, 10, 500, 500)
    assert len(settle(cluster, core, rule).final) == 0
    assert len(settle(cluster[2:3], core, rule).pending) == 0


def test_boxes_that_only_touch_can_be_fused_at_one_half():
    # The fused box of the first two is [0, 0, 2, 1]; the third has IoU 1/2 with it and touches neither's last.
    row = Detections(boxes=[[0, 0, 2, 1], [0, 0, 1, 1], [1, 0, 2, 1]], scores=[0.9, 0.0, 0.0], labels=[0, 0, 0])
    rule = MergeRule("wbf", threshold=0.5)
    assert merged_by(row, rule).n_merged.tolist() == [3]
    assert len(settle(row[2:], Window(1, 0, 9, 9), rule).final) == 0


@st.composite
def dense(draw):
    """Few tiles, units of one tile, boxes as large as a unit, and clusters whose fused box moves far."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tile, overlap = (draw(st.tuples(side, side)) for side in (st.integers(12, 24), st.integers(0, 6)))
    grid = make_grid(draw(st.integers(30, 70)), draw(st.integers(30, 70)), tile=tile, overlap=overlap)
    tiles = tiled_scene(
        rng,
        grid,
        objects=draw(st.integers(5, 60)),
        size=draw(st.sampled_from([(2, 6), (4, 14), (min(tile) / 2, 3 * max(tile))])),
        jitter=draw(st.sampled_from([0.0, 1.0, 3.0])),
        clutter=draw(st.sampled_from([0, 2])),
        labels=1,
        scores=draw(st.sampled_from([1, 10**6])),
        whole_numbers=draw(st.booleans()),
    )
    if draw(st.booleans()):
        tiles = [t.with_columns(fragment=np.zeros(len(t), int)) for t in tiles]
    return tiles, grid, plan_units("s", grid, shape=(1, 1)), rng


@given(dense(), st.sampled_from([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
@settings(deadline=None, max_examples=60)
def test_clusters_that_move_across_units(case, threshold):
    tiles, grid, units, rng = case
    rule = MergeRule("wbf", threshold=threshold)
    result, _ = staged(tiles, grid, units, rule, fan_in=2, rng=rng)
    assert columns(result) == columns(whole(tiles, grid, units, rule))


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("scores", [1, 10**6])
def test_every_method_on_chains_and_dense_boxes_across_many_units(method, scores):
    rng = np.random.default_rng(9)
    grid = make_grid(500, 400, tile=64, overlap=16)
    sizes = {"objects": 500, "size": (6, 40), "chains": 4, "clutter": 2}
    tiles = tiled_scene(rng, grid, jitter=1.0, labels=2, scores=scores, **sizes)
    for threshold in (0.3, 0.6):
        rule = MergeRule(method, threshold=threshold)
        for shape in ((1, 1), (3, 2)):
            units = plan_units("s", grid, shape=shape, keep=rng.random((grid.rows, grid.cols)) < 0.8)
            result, shipped = staged(tiles, grid, units, rule, fan_in=3, rng=rng)
            assert columns(result) == columns(whole(tiles, grid, units, rule))
            assert shipped > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(METHODS))
def test_exactness_on_a_large_forest(method):
    rng = np.random.default_rng(3)
    grid = make_grid(6000, 5000, tile=512, overlap=64)
    tiles = tiled_scene(rng, grid, objects=20_000, size=(15, 60), jitter=1.0, labels=2, scores=10**6)
    rule = MergeRule(method)
    for shape in ((1, 1), (3, 4), (2, 0)):
        units = plan_units("s", grid, shape=shape)
        result, _ = staged(tiles, grid, units, rule, fan_in=4, rng=rng)
        assert columns(result) == columns(whole(tiles, grid, units, rule))
