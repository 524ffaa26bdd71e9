import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.detections import BOTTOM, RIGHT, Detections
from geosod.errors import ConfigError
from geosod.merging.graph import flood
from geosod.merging.index import build_index
from geosod.merging.match import match_of
from geosod.merging.merge import merge
from geosod.merging.order import canonical_order
from geosod.merging.rule import MergeRule
from tests.merging.oracles import columns, match_matrix, merged_by, plain_components, plain_nms, random_boxes

rules = st.builds(
    MergeRule,
    metric=st.sampled_from(["iou", "ios"]),
    threshold=st.sampled_from([1e-9, 0.1, 1 / 3, 0.5, 0.9, 1.0]),
    class_agnostic=st.booleans(),
    borders=st.booleans(),
    margin=st.sampled_from([0.0, 0.0, 1.0, 2.5]),
    gap=st.sampled_from([0.0, 0.0, 1.0, 2.5]),
)


@st.composite
def clouds(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    extent = draw(st.sampled_from([5.0, 60.0, 1000.0]))
    sizes = draw(st.sampled_from([(1.0, 4.0), (8.0, 12.0), (0.01, 300.0)]))
    n, whole = draw(st.integers(0, 60)), draw(st.booleans())
    cloud = random_boxes(rng, n, extent=extent, sizes=sizes, labels=draw(st.integers(1, 3)), whole_numbers=whole)
    copies = rng.integers(0, max(n, 1), n // 4)
    shift = draw(st.sampled_from([0.0, -500.0, 2.0**20]))
    cloud = Detections.concat([cloud, cloud[copies[copies < n]]])
    return cloud.with_columns(boxes=cloud.boxes + shift), rng


corner = st.integers(-3, 6)
box = st.tuples(corner, corner, st.integers(0, 4), st.integers(0, 4)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
row = st.tuples(
    box, st.sampled_from([0.25, 0.5]), st.integers(0, 1), st.integers(0, 16), st.booleans(), st.integers(1, 2)
)


@given(clouds(), rules)
@settings(deadline=None, max_examples=300)
def test_nms_is_plain_nms_in_any_order(case, rule):
    cloud, rng = case
    expected = columns(plain_nms(cloud, rule))
    assert columns(merged_by(cloud, rule)) == expected
    assert columns(merged_by(cloud[rng.permutation(len(cloud))], rule)) == expected


@given(st.lists(row, max_size=12), rules)
@settings(deadline=None, max_examples=300)
def test_small_whole_numbers_full_of_ties(rows, rule):
    boxes, scores, labels, fragment, truncated, n_merged = zip(*rows, strict=True) if rows else [()] * 6
    few = Detections(
        boxes=np.array(boxes, float).reshape(-1, 4),
        scores=scores,
        labels=labels,
        fragment=fragment,
        truncated=truncated,
        n_merged=n_merged,
    )
    assert columns(merged_by(few, rule)) == columns(plain_nms(few, rule))


@given(clouds(), rules)
@settings(deadline=None)
def test_kept_boxes_do_not_match_and_every_box_is_counted(case, rule):
    cloud, rng = case
    cloud = cloud.with_columns(fragment=16 * rng.integers(0, 2, len(cloud)))
    kept = merged_by(cloud, rule)
    assert kept.n_merged.sum() == cloud.n_merged.sum()
    match = match_matrix(kept, rule)
    assert not (match & ~np.eye(len(kept), dtype=bool)).any()
    assert columns(merged_by(kept, rule)) == columns(kept)


@given(clouds(), rules, st.floats(0, 0.3))
@settings(deadline=None)
def test_flood_finds_the_components_of_the_seeds_and_removes_them(case, rule, share):
    cloud, rng = case
    seeds = rng.random(len(cloud)) < share
    index = build_index(cloud, borders=rule.borders)
    found = flood(index, seeds, match_of(rule))
    assert (found == plain_components(cloud, rule, seeds)).all()
    held = index.skip[:-1] == np.arange(len(cloud))
    assert (held == ~found[index.order]).all(), "the index holds all other boxes, and none of these"


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_torchvision_agrees_where_there_are_no_fragments(threshold):
    rng = np.random.default_rng(5)
    cloud = random_boxes(rng, 4000, extent=400, sizes=(5, 60), labels=5).with_columns(
        fragment=np.zeros(4000, int), scores=rng.permutation(4000) / 4000, n_merged=np.ones(4000)
    )
    boxes, scores = torch.from_numpy(cloud.boxes), torch.from_numpy(cloud.scores).double()
    one = torchvision.ops.nms(boxes, scores, threshold).numpy()
    expected = cloud[one].boxes
    assert (merge(cloud, threshold=threshold, class_agnostic=True).boxes == expected).all()
    many = torchvision.ops.batched_nms(boxes, scores, torch.from_numpy(cloud.labels), threshold).numpy()
    assert (merge(cloud, threshold=threshold).boxes == cloud[many].boxes).all()
    assert len(one) < len(many) < 4000


@pytest.mark.parametrize(
    "spread",
    [
        pytest.param(lambda rng: rng.choice([0, 1e6, 1e9, -1e9], (700, 1)), id="clusters far apart"),
        pytest.param(lambda rng: 2.0**40 + rng.integers(0, 2, (700, 1)) * 2.0**-10, id="few bits left"),
        pytest.param(lambda rng: np.zeros((700, 1)), id="one pile"),
    ],
)
@pytest.mark.parametrize("sizes", [(1e-6, 1e6), (3.0, 3.0001), (1e-9, 1e-8)])
def test_any_extent_and_any_mixture_of_sizes(spread, sizes):
    rng = np.random.default_rng(8)
    cloud = random_boxes(rng, 700, extent=4 * np.sqrt(sizes[0] * sizes[1]), sizes=sizes, labels=1)
    cloud = cloud.with_columns(boxes=cloud.boxes + spread(rng), scores=rng.random(700))
    for metric in ("iou", "ios"):
        rule = MergeRule(metric=metric, threshold=0.2)
        assert columns(merged_by(cloud, rule)) == columns(plain_nms(cloud, rule))


def test_piles_are_not_quadratic():
    # 300,000 copies of a box have 45,000,000,000 pairs.
    n = 300_000
    pile = Detections(boxes=np.tile([0.0, 0, 9, 9], (n, 1)), scores=np.linspace(0, 1, n), labels=np.zeros(n))
    kept = merge(pile)
    assert kept.n_merged.tolist() == [n]
    assert kept.scores.tolist() == [1.0]


def test_a_small_object_inside_a_large_fragment_does_not_remove_it():
    both = Detections(boxes=[[0, 0, 90, 90], [40, 40, 50, 50]], scores=[0.3, 0.9], labels=[0, 0], fragment=[RIGHT, 0])
    assert len(merge(both)) == 2


def test_a_fragment_is_assigned_to_the_whole_object_even_with_a_higher_score():
    both = Detections(boxes=[[0, 0, 10, 20], [0, 0, 10, 8]], scores=[0.3, 0.9], labels=[0, 0], fragment=[0, BOTTOM])
    kept = merge(both)
    assert kept.boxes.tolist() == [[0, 0, 10, 20]]
    assert kept.n_merged.tolist() == [2]
    # IoU is 0.4: without the flag these are two objects.
    assert len(merge(both.with_columns(fragment=[0, 0]))) == len(merge(both, borders=False)) == 2


def test_the_threshold_itself_matches():
    # Intersection 1 of union 3.
    pair = Detections(boxes=[[0, 0, 2, 1], [1, 0, 3, 1]], scores=[0.9, 0.8], labels=[0, 0])
    assert len(merge(pair, threshold=1 / 3)) == 1
    assert len(merge(pair, threshold=np.nextafter(1 / 3, 1))) == 2
    assert len(merge(pair, threshold=0.5, metric="ios")) == 1


def test_touching_boxes_and_boxes_without_area_match_nothing():
    boxes = [[0, 0, 1, 1], [1, 0, 2, 1], [0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], [0, 0.5, 1, 0.5]]
    boxes = Detections(boxes=boxes, scores=np.ones(5), labels=np.zeros(5), fragment=[1, 1, 1, 1, 1])
    assert len(merge(boxes, threshold=1e-9)) == 5


def test_a_suppressed_box_is_counted_once_at_the_best_box_that_suppresses_it():
    # The middle box matches both others, which do not match each other.
    row = Detections(boxes=[[0, 0, 10, 1], [4, 0, 14, 1], [8, 0, 18, 1]], scores=[0.7, 0.5, 0.9], labels=[0, 0, 0])
    kept = merge(row, threshold=0.4)
    assert kept.boxes[:, 0].tolist() == [8, 0]
    assert kept.n_merged.tolist() == [2, 1]


def test_negative_zero_is_zero():
    row = Detections(boxes=[[-0.0, -0.0, 5, 5], [0.0, 0.0, 5, 5]], scores=[-0.0, 0.0], labels=[0, 0])
    assert columns(merge(row)) == columns(merge(row[[1, 0]]))


@pytest.mark.parametrize("empty", [Detections.empty()])
def test_no_boxes(empty):
    assert len(merge(empty)) == 0


@given(clouds())
@settings(deadline=None)
def test_canonical_order_is_that_of_detections(case):
    cloud, _ = case
    negative = cloud.with_columns(scores=(cloud.scores * 4).round() - 2, boxes=-cloud.boxes[:, [2, 3, 0, 1]])
    for d in (cloud, negative):
        assert columns(d[canonical_order(d)]) == columns(d[d.canonical_order()])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"method": "nmz"}, "'nmz'.*nms"),
        ({"metric": "giou"}, "'giou'.*iou, ios"),
        ({"threshold": 0.0}, "0.0"),
        ({"threshold": 1.01}, "1.01"),
        ({"threshold": float("nan")}, "nan"),
    ],
)
def test_invalid_rules_are_refused(arguments, named):
    with pytest.raises(ConfigError, match=named):
        merge(Detections.empty(), **arguments)


def test_invalid_boxes_are_counted():
    boxes = [[0, 0, 1, 1], [np.nan, 0, 1, 1], [0, 0, np.inf, 1], [2, 0, 1, 1], [0, 2, 1, 1], [0, 3, 1, 1]]
    bad = Detections(boxes=boxes, scores=[1, 1, 1, 1, 1, np.nan], labels=np.zeros(6))
    counts = "Of 6 boxes, 2 have NaN or infinite coordinates, 1 have NaN or infinite scores, and 3 are inverted"
    with pytest.raises(ConfigError, match=counts):
        merge(bad)
