import pickle

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.detections import EDGE_MARGIN, TOP, Detections
from geosod.errors import ConfigError
from geosod.merging import blocks
from geosod.merging.components import settle
from geosod.merging.groups import Outcome
from geosod.merging.index import places_of
from geosod.merging.match import linked
from geosod.merging.merge import merge
from geosod.merging.methods import METHODS, Method
from geosod.merging.polygons import merge_polygons
from geosod.merging.rule import MergeRule
from geosod.scene import Window
from tests.merging.oracles import (
    columns,
    merged_by,
    plain_merge,
    plain_overlap,
    random_boxes,
    with_known_classes,
)

thresholds = st.sampled_from([1e-9, 0.1, 1 / 3, 0.5, 0.55, 0.7, 0.9, 1.0])
rules = st.builds(
    MergeRule,
    method=st.sampled_from(sorted(METHODS)),
    metric=st.sampled_from(["iou", "iou", "ios"]),
    threshold=thresholds,
    class_agnostic=st.booleans(),
    sigma=st.sampled_from([0.05, 0.5, 3.0]),
    min_score=st.sampled_from([0.0, 0.001, 0.3]),
    per_class=st.dictionaries(st.integers(-1, 2), thresholds, max_size=3),
    decay=st.sampled_from(["gaussian", "linear"]),
    borders=st.booleans(),
    margin=st.sampled_from([0.0, 0.0, 1.0]),
    gap=st.sampled_from([0.0, 0.0, 1.0]),
    across_levels=st.booleans(),
)


@st.composite
def clouds(draw):
    """Boxes of about a dozen objects, piled, chained and scattered, with ties and copies."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    extent = draw(st.sampled_from([4.0, 30.0, 200.0]))
    sizes = draw(st.sampled_from([(1.0, 4.0), (8.0, 12.0), (0.01, 100.0)]))
    n, whole = draw(st.integers(0, 40)), draw(st.booleans())
    cloud = random_boxes(rng, n, extent=extent, sizes=sizes, labels=draw(st.integers(1, 3)), whole_numbers=whole)
    again = cloud[rng.integers(0, max(n, 1), n)] if n else cloud
    noise = rng.normal(0, 0.03 * sizes[1], again.boxes.shape) * draw(st.sampled_from([0.0, 1.0, 4.0]))
    boxes = np.sort((again.boxes + (np.round(noise) if whole else noise)).reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    cloud = Detections.concat([cloud, again.with_columns(boxes=boxes)])
    if draw(st.booleans()):
        cloud = cloud.with_columns(fragment=np.zeros(len(cloud), int))
    shift = draw(st.sampled_from([0.0, -50.0, 2.0**20]))
    level = 1 / (1 + np.arange(len(cloud)) % 3)
    return cloud.with_columns(boxes=cloud.boxes + shift, level=level), rng


@given(clouds(), rules, st.sampled_from([1, 4, 16_384]))
@settings(deadline=None, max_examples=300)
def test_every_method_is_its_plain_counterpart_in_any_order(case, rule, block):
    cloud, rng = case
    expected = columns(plain_merge(cloud, rule))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", block)
        assert columns(merged_by(cloud, rule)) == expected
        assert columns(merged_by(cloud[rng.permutation(len(cloud))], rule)) == expected


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_the_processing_order_does_not_change_the_result_of_many_boxes(method, threshold, monkeypatch):
    rng = np.random.default_rng(2)
    some = random_boxes(rng, 3000, extent=500, sizes=(2, 30), labels=2)
    rule = MergeRule(method, threshold=threshold)
    expected = columns(merged_by(some, rule))
    for block in (20, 200):
        monkeypatch.setattr(blocks, "BLOCK", block)
        assert columns(merged_by(some, rule)) == expected


def row_of_three(scores, **columns):
    return Detections(boxes=[[0, 0, 10, 1], [4, 0, 14, 1], [8, 0, 18, 1]], scores=scores, labels=[0, 0, 0], **columns)


def test_greedy_nmm_merges_the_boxes_that_nms_suppresses_and_keeps_the_best_score():
    row = row_of_three([0.7, 0.5, 0.9], truncated=[False, True, False], level=[1, 2, 4])
    merged = merge(row, method="greedy_nmm", threshold=0.4)
    assert merged.boxes.tolist() == [[4, 0, 18, 1], [0, 0, 10, 1]]
    assert merged.scores.tolist() == pytest.approx([0.9, 0.7])
    assert (merged.n_merged.tolist(), merged.truncated.tolist(), merged.level.tolist()) == (
        [2, 1],
        [True, False],
        [4, 1],
    )


def test_nmm_follows_chains_down_the_scores_only():
    falling = merge(row_of_three([0.9, 0.8, 0.7]), method="nmm", threshold=0.4)
    assert falling.boxes.tolist() == [[0, 0, 18, 1]]
    # Here both ends rank before the middle, which then joins the better of them.
    assert len(merge(row_of_three([0.9, 0.7, 0.8]), method="nmm", threshold=0.4)) == 2
    # Of equal scores the leftmost box comes first.
    assert len(merge(row_of_three([0.5, 0.5, 0.5]), method="nmm", threshold=0.4)) == 1


def test_nmm_takes_a_whole_object_first_and_the_best_score_of_all():
    both = Detections(
        boxes=[[0, 0, 10, 20], [0, 0, 11, 8]], scores=[0.3, 0.9], labels=[4, 4], fragment=[0, EDGE_MARGIN]
    )
    for method in ("nmm", "greedy_nmm"):
        merged = merge(both, method=method)
        assert merged.boxes.tolist() == [[0, 0, 11, 20]]
        assert merged.scores.tolist() == pytest.approx([0.9])
        assert not merged.fragment[0]


def test_soft_nms_on_paper():
    # IoU 1/3 with the first box, nothing with each other.
    three = Detections(boxes=[[0, 0, 2, 1], [1, 0, 3, 1], [-1, 0, 1, 1]], scores=[0.9, 0.8, 0.6], labels=[0, 0, 0])
    soft = merge(three, method="soft_nms", sigma=0.5)
    assert soft.scores.tolist() == pytest.approx([0.9, 0.8 * np.exp(-2 / 9), 0.6 * np.exp(-2 / 9)])
    linear = merge(three, method="soft_nms", decay="linear", threshold=0.3)
    assert linear.scores.tolist() == pytest.approx([0.9, 0.8 * 2 / 3, 0.6 * 2 / 3])
    assert merge(three, method="soft_nms", decay="linear", threshold=0.4).scores.tolist() == pytest.approx(
        [0.9, 0.8, 0.6]
    )
    kept = merge(three, method="soft_nms", min_score=0.5)
    assert (len(kept), kept.n_merged.tolist()) == (2, [2, 1])


@pytest.mark.parametrize("decay", ["gaussian", "linear"])
@pytest.mark.parametrize("n", [64, 65, 300])
def test_soft_nms_of_small_and_large_components(n, decay):
    rng = np.random.default_rng(n)
    cloud = random_boxes(rng, n, extent=20, sizes=(8, 16), labels=1)
    cloud = cloud.with_columns(fragment=EDGE_MARGIN * (rng.random(n) < 0.2))
    rule = MergeRule("soft_nms", threshold=0.1, sigma=3.0, min_score=0.1, decay=decay)
    expected = plain_merge(cloud, rule)
    assert 0 < len(expected) < n
    assert columns(merged_by(cloud, rule)) == columns(expected)


def test_wbf_on_paper():
    # The fused box of the first two is [0.4, 0, 10.4, 1]; the third has IoU 0.72 with it and 0.67 with the first.
    three = Detections(
        boxes=[[0, 0, 10, 1], [1, 0, 11, 1], [2, 0, 12, 1]],
        scores=[0.6, 0.4, 0.2],
        labels=[1, 1, 1],
        truncated=[False, True, False],
    )
    fused = merge(three, method="wbf", threshold=0.7)
    assert fused.boxes.tolist() == [pytest.approx([0.8 / 1.2, 0, 10 + 0.8 / 1.2, 1])]
    assert fused.scores.tolist() == pytest.approx([0.4])
    assert (fused.n_merged.tolist(), fused.truncated.tolist()) == ([3], [True])


def test_wbf_assigns_a_fragment_to_the_whole_object_and_does_not_average_it():
    boxes = Detections(
        boxes=[[0, 0, 10, 10], [0, 0, 10, 12], [0, 0, 10, 4]],
        scores=[0.5, 0.5, 0.9],
        labels=[0, 0, 0],
        fragment=[0, 0, TOP],
    )
    fused = merge(boxes, method="wbf")
    assert fused.boxes.tolist() == [[0, 0, 10, 11]]
    assert (fused.scores.tolist(), fused.n_merged.tolist()) == ([0.5], [3])


def test_wbf_joins_the_cluster_that_fits_best_not_the_first_that_fits():
    row = Detections(boxes=[[0, 0, 10, 1], [6, 0, 16, 1], [4, 0, 14, 1]], scores=[0.9, 0.8, 0.7], labels=[0, 0, 0])
    fused = merge(row, method="wbf", threshold=0.4)
    assert fused.boxes[:, 0].tolist() == pytest.approx([0, (6 * 0.8 + 4 * 0.7) / 1.5])


@pytest.mark.parametrize("method", sorted(METHODS))
def test_each_class_has_its_threshold(method):
    # IoU 0.6 each; far apart, so that only pairs of one class meet.
    boxes = [[100 * k + s, 0, 100 * k + s + 8, 1] for k in range(3) for s in (0, 2)]
    pairs = Detections(boxes=boxes, scores=[0.9, 0.8] * 3, labels=[0, 0, 1, 1, 7, 7])
    kept = merge(pairs, method=method, decay="linear", min_score=0.5, threshold=0.7, per_class={1: 0.5, 7: 0.6})
    assert np.bincount(kept.labels)[[0, 1, 7]].tolist() == [2, 1, 1]


@pytest.mark.parametrize("method", ["nms", "nmm", "greedy_nmm", "wbf"])
def test_boxes_of_two_classes_must_reach_both_thresholds(method):
    pair = Detections(boxes=[[0, 0, 8, 1], [2, 0, 10, 1]], scores=[0.9, 0.8], labels=[0, 1])
    for own, kept in (({0: 0.5, 1: 0.7}, 2), ({0: 0.7, 1: 0.5}, 2), ({0: 0.5, 1: 0.6}, 1)):
        assert len(merge(pair, method=method, class_agnostic=True, threshold=1.0, per_class=own)) == kept
        assert len(merge(pair, method=method, threshold=0.1, per_class=own)) == 2


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"soft_nms"}))
@given(case=clouds(), rule=rules)
@settings(deadline=None, max_examples=40)
def test_every_raw_box_is_counted_once(method, case, rule):
    cloud, _ = case
    rule = with_known_classes(cloud, rule)
    merged = merge(cloud, method=method, metric=rule.metric, threshold=rule.threshold, per_class=rule.per_class)
    assert merged.n_merged.sum() == cloud.n_merged.sum()


@pytest.mark.parametrize("method", ["nmm", "greedy_nmm"])
@given(case=clouds(), rule=rules)
@settings(deadline=None, max_examples=40)
def test_every_raw_box_lies_in_a_merged_one_of_its_class(method, case, rule):
    cloud, _ = case
    cloud = cloud.with_columns(fragment=cloud.fragment & 16)
    merged = merge(cloud, method=method, metric=rule.metric, threshold=rule.threshold)
    inside = (merged.boxes[:, None, :2] <= cloud.boxes[None, :, :2]).all(2)
    inside &= (merged.boxes[:, None, 2:] >= cloud.boxes[None, :, 2:]).all(2)
    inside &= (merged.labels[:, None] == cloud.labels) & (merged.scores[:, None] >= cloud.scores)
    assert inside.any(axis=0).all()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_piles_are_not_quadratic(method):
    # 200,000 boxes within a pixel of each other have 20,000,000,000 pairs.
    rng = np.random.default_rng(4)
    boxes = np.array([0.0, 0, 90, 90]) + rng.uniform(0, 1, (200_000, 4))
    pile = Detections(boxes=boxes, scores=rng.random(len(boxes)), labels=np.zeros(len(boxes)))
    merged = merge(pile, method=method)
    assert len(merged) == (1 if method != "soft_nms" else len(merged)) < 10
    assert merged.n_merged.sum() == 200_000 or method == "soft_nms"


def test_boxes_that_a_third_one_matches_are_always_linked():
    rng = np.random.default_rng(12)
    tried = farther = 0
    for _ in range(30_000):
        a = np.concatenate([rng.uniform(0, 1, 2), rng.uniform(1.1, 3, 2)])
        between = a + rng.normal(0, 0.6, 4)
        b = between + rng.normal(0, 0.6, 4)
        if (between[2:] <= between[:2]).any() or (b[2:] <= b[:2]).any():
            continue
        near = min(plain_overlap(a, between, "iou"), plain_overlap(between, b, "iou"))
        if near > 0.01:
            tried += 1
            assert linked(a, b, near * (1 - 1e-9))
            farther += plain_overlap(a, b, "iou") < near and not linked(a, b, min(0.99, near * 2))
    assert tried > 10_000
    assert farther > 1000, "other pairs are not linked"


def test_a_rule_is_a_value():
    rule = MergeRule("wbf", per_class={3: 0.4, 1: 0.5})
    assert rule == MergeRule("wbf", per_class=((1, 0.5), (3, 0.4)))
    assert hash(pickle.loads(pickle.dumps(rule))) == hash(rule)
    assert rule.per_class == ((1, 0.5), (3, 0.4))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"method": "nmz"}, "'nmz'.*nms, soft_nms, nmm, greedy_nmm, wbf"),
        ({"decay": "cubic"}, "'cubic'.*gaussian, linear"),
        ({"sigma": 0.0}, "sigma 0.0"),
        ({"sigma": float("inf")}, "sigma inf"),
        ({"min_score": -0.1}, "min_score -0.1"),
        ({"min_score": float("nan")}, "min_score nan"),
        ({"per_class": {2: 1.5}}, "class 2.*1.5"),
        ({"per_class": {2: 0.0}}, "class 2.*0.0"),
        ({"per_class": {"car": 0.5}}, "'car'.*label ids"),
        ({"per_class": [(1, 0.5), (1, 0.6)]}, "twice"),
        ({"per_class": 0.5}, "0.5 must map"),
    ],
)
def test_invalid_rules_are_refused(arguments, named):
    with pytest.raises(ConfigError, match=named):
        merge(Detections.empty(), **arguments)


@pytest.mark.parametrize("label", [1.0, 0.5, "0", None])
def test_label_ids_must_be_integers(label):
    with pytest.raises(ConfigError, match="integer label ids"):
        merge(row_of_three([0.9, 0.8, 0.7]), per_class={label: 0.5})
    assert MergeRule(per_class={np.int32(2): 0.5}).per_class == ((2, 0.5),)


def merged_polygons(d, **options):
    return merge_polygons(d, shapely.box(*d.boxes.T), **options)[0]


@pytest.mark.parametrize("function", [merge, merged_polygons])
def test_thresholds_of_unknown_classes_are_refused(function):
    row = row_of_three([0.9, 0.8, 0.7]).with_columns(labels=[1, 4, 4])
    with pytest.raises(ConfigError, match="label ids 0, 7, but the boxes have only 1, 4"):
        function(row, per_class={0: 0.5, 1: 0.5, 7: 0.5})
    with pytest.raises(ConfigError, match="negative label ids -1"):
        function(row.with_columns(labels=[-1, 1, 1]), per_class={-1: 0.5})
    assert len(function(row, per_class={1: 0.5, 4: 0.4})) == 2
    assert len(function(Detections.empty(), per_class={7: 0.5})) == 0
    with pytest.raises(ConfigError, match="negative label ids -1"):
        function(Detections.empty(), per_class={-1: 0.5})


def test_units_of_a_scene_may_lack_a_class():
    rule = MergeRule(per_class={7: 0.5})
    assert len(settle(row_of_three([0.9, 0.8, 0.7]), Window(0, 0, 20, 20), rule).final) == 3


def test_a_new_method_is_one_line_of_the_registry(monkeypatch):
    def keep_all(detections, index, ranking, rule):
        kept_index = np.full(len(index.order), -1)
        places = places_of(index, ranking)
        kept_index[places] = places
        return Outcome(kept_index, {})

    monkeypatch.setitem(METHODS, "keep_all", Method(keep_all))
    copies = row_of_three([0.9, 0.8, 0.7]).with_columns(boxes=[[0, 0, 9, 9]] * 3)
    assert len(merge(copies)) == 1
    assert columns(merge(copies, method="keep_all")) == columns(copies)
    assert columns(merged_polygons(copies, method="keep_all")) == columns(copies)
    with pytest.raises(ConfigError, match=r"'keep_any'.*keep_all"):
        settle(copies, Window(0, 0, 20, 20), MergeRule("keep_any"))


def test_wbf_refuses_negative_scores():
    pair = row_of_three([0.5, -0.5, 0.5])
    with pytest.raises(ConfigError, match="1 of 3 are negative"):
        merge(pair, method="wbf")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_no_boxes_one_box_and_boxes_without_area(method):
    assert len(merge(Detections.empty(), method=method)) == 0
    dots = Detections(boxes=[[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 5, 1]], scores=[0.5, 0.5, 0.0], labels=[0, 0, 0])
    merged = merge(dots, method=method, min_score=0.0)
    assert columns(merged) == columns(dots[dots.canonical_order()])
