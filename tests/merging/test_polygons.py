import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.detections import Detections
from geosod.errors import ConfigError
from geosod.merging import areas
from geosod.merging.merge import merge
from geosod.merging.polygons import merge_polygons
from geosod.merging.rule import MergeRule
from tests.merging.oracles import columns, merged_by, plain_merge, random_boxes, ranking, with_known_classes

METHODS = ["greedy_nmm", "nmm", "nms", "soft_nms"]
rules = st.builds(
    MergeRule,
    method=st.sampled_from(METHODS),
    metric=st.sampled_from(["iou", "ios"]),
    threshold=st.sampled_from([0.1, 1 / 3, 0.5, 0.9]),
    class_agnostic=st.booleans(),
    min_score=st.sampled_from([0.0, 0.001, 0.3]),
    per_class=st.dictionaries(st.integers(0, 2), st.sampled_from([0.25, 0.6]), max_size=2),
    decay=st.sampled_from(["gaussian", "linear"]),
    borders=st.booleans(),
)


def by_rule(d, outlines, rule):
    rule = with_known_classes(d, rule)
    options = {"metric": rule.metric, "threshold": rule.threshold, "class_agnostic": rule.class_agnostic}
    options |= {"min_score": rule.min_score, "per_class": rule.per_class, "decay": rule.decay}
    options |= {"borders": rule.borders}
    return merge_polygons(d, outlines, method=rule.method, **options)


@st.composite
def shapes(draw):
    """Rotated rectangles and rings around some objects, several for each object."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(0, 12))
    outlines = []
    for _ in range(n):
        side, centre = rng.uniform(3, 20, 2), rng.uniform(0, 40, 2)
        for _ in range(rng.integers(1, 4)):
            shape = shapely.box(*(-side / 2), *(side / 2))
            if rng.random() < 0.2:
                shape = shape.difference(shape.buffer(-0.2 * side.min()))
            shape = shapely.affinity.rotate(shape, rng.choice([0.0, 30.0, 45.0, rng.uniform(0, 180)]))
            outlines.append(shapely.affinity.translate(shape, *(centre + rng.normal(0, 0.5, 2))))
    outlines = np.array(outlines + outlines[: n // 3], object)
    rows = random_boxes(rng, len(outlines), labels=2).with_columns(
        scores=rng.integers(1, draw(st.sampled_from([2, 5, 10**6])), len(outlines)) / 10**6 + 0.4
    )
    return rows, outlines, rng


def on_common_ground(d, outlines, a, b):
    """Area of polygon a on the ground that the tiles of both show."""
    ground = [-1e6, -1e6, 1e6, 1e6]
    for i in (a, b):
        for k in range(4):
            if d.fragment[i] & (1 << k):
                ground[k] = (max if k < 2 else min)(ground[k], d.boxes[i, k])
    return outlines[a].intersection(shapely.box(*ground)).area if ground[0] < ground[2] and ground[1] < ground[3] else 0


def plain(d, outlines, rule):
    """The plain methods with overlaps by shapely, one pair at a time, the better-ranked of the two first."""
    d = d.with_columns(boxes=shapely.bounds(outlines).reshape(-1, 4))
    order = ranking(d, rule)
    place = {row: k for k, row in enumerate(order)}
    overlap = np.zeros((len(d), len(d)))
    for i in range(len(d)):
        for j in range(len(d)):
            a, b = (i, j) if place[i] < place[j] else (j, i)
            shared = outlines[a].intersection(outlines[b]).area
            flags = d.fragment[[a, b]] * rule.borders
            touching = flags & 15 > 0
            union = outlines[a].area + outlines[b].area - shared
            smaller = min(outlines[a].area, outlines[b].area)
            value = shared / (smaller if rule.metric == "ios" else union)
            if touching.all():
                one, two = on_common_ground(d, outlines, a, b), on_common_ground(d, outlines, b, a)
                value = shared > 0 and shared >= 0.7 * max(one, two)
            elif touching.any():
                fragment, whole = (a, b) if touching[0] else (b, a)
                away = (d.boxes[whole] - d.boxes[fragment]) * [1, 1, -1, -1] > 0
                ends = any(away[k] for k in range(4) if d.fragment[fragment] & (1 << k))
                value = not ends and shared >= 0.5 * outlines[fragment].area
            elif (flags & 32).any():
                value = 0
            elif (flags > 0).any() and not (flags > 0).all():
                value = shared / outlines[a if flags[0] else b].area
            if rule.class_agnostic or d.labels[i] == d.labels[j]:
                overlap[i, j] = value if shared > 0 else 0.0
    return d, overlap


@given(shapes(), rules, st.sampled_from([1, 7, 1 << 17]))
@settings(deadline=None, max_examples=200)
def test_polygons_against_plain_loops_in_any_order(case, rule, chunk):
    d, outlines, rng = case
    rows, overlap = plain(d, outlines, rule)
    with pytest.MonkeyPatch.context() as patch:
        expected = plain_merge(rows, rule, overlap)
        patch.setattr(areas, "_CHUNK", chunk)
        kept, shapes = by_rule(d, outlines, rule)
        mixed = rng.permutation(len(d))
        again, shapes_again = by_rule(d[mixed], outlines[mixed], rule)
    assert columns(kept) == columns(again)
    assert (shapely.to_wkb(shapes) == shapely.to_wkb(shapes_again)).all()
    assert np.array_equal(shapely.bounds(shapes).reshape(-1, 4), kept.boxes)
    assert np.allclose(kept.boxes, expected.boxes, atol=1e-9)
    same = ("scores", "labels", "truncated", "fragment", "n_merged", "level")
    assert all(np.array_equal(getattr(kept, name), getattr(expected, name)) for name in same)


@given(st.integers(0, 2**32 - 1), rules)
@settings(deadline=None, max_examples=100)
def test_upright_rectangles_merge_as_their_boxes(seed, rule):
    rng = np.random.default_rng(seed)
    d = random_boxes(rng, 40, extent=40, sizes=(2, 20), whole_numbers=True)
    solid = (d.boxes[:, 2:] > d.boxes[:, :2]).all(axis=1)
    d = d[np.flatnonzero(solid)]
    kept, outlines = by_rule(d, shapely.box(*d.boxes.T), rule)
    assert columns(kept) == columns(merged_by(d, rule))
    assert np.array_equal(shapely.bounds(outlines), kept.boxes)


def test_crossing_bars_overlap_as_boxes_but_not_as_polygons():
    bar = shapely.box(-20, -1, 20, 1)
    turned = [shapely.affinity.rotate(bar, angle) for angle in (45, 135)]
    d = Detections(boxes=np.zeros((2, 4)), scores=[0.9, 0.8], labels=[0, 0])
    kept, outlines = merge_polygons(d, np.array(turned, object))
    assert len(kept) == 2
    assert len(merge(kept)) == 1
    kept, outlines = merge_polygons(d, np.array(turned, object), method="nmm", threshold=0.01)
    assert outlines[0].area == pytest.approx(80 + 80 - 4), "the union, not its hull"


def test_equal_rows_are_ordered_by_their_outlines():
    up, down = shapely.Polygon([(0, 0), (9, 0), (9, 9)]), shapely.Polygon([(0, 0), (0, 9), (9, 9)])
    more = shapely.Polygon([(0, 0), (9, 0), (9, 9), (0, 1)])
    d = Detections(boxes=np.zeros((3, 4)), scores=[0.5] * 3, labels=[0] * 3)
    one = merge_polygons(d, np.array([up, down, more], object))
    two = merge_polygons(d, np.array([more, down, up], object))
    assert columns(one[0]) == columns(two[0])
    assert (one[1] == two[1]).all()


def test_many_polygons_in_bounded_chunks():
    rng = np.random.default_rng(6)
    n = 20_000
    centres = np.repeat(rng.uniform(0, 4000, (n // 2, 2)), 2, axis=0) + rng.normal(0, 0.3, (n, 2))
    angle = rng.uniform(0, np.pi, n)
    u, v = np.stack([np.cos(angle), np.sin(angle)], 1) * 9, np.stack([-np.sin(angle), np.cos(angle)], 1) * 4
    corners = np.stack([centres + u + v, centres + u - v, centres - u - v, centres - u + v], axis=1)
    outlines = shapely.polygons(corners)
    d = Detections(boxes=np.zeros((n, 4)), scores=rng.random(n), labels=np.zeros(n))
    kept, shapes = merge_polygons(d, outlines, threshold=0.3)
    tree = shapely.STRtree(shapes)
    one, two = tree.query(shapes, predicate="intersects")
    one, two = one[one < two], two[one < two]
    shared = shapely.area(shapely.intersection(shapes[one], shapes[two]))
    assert n / 3 < len(kept) < n
    assert (shared / (shapely.area(shapes[one]) + shapely.area(shapes[two]) - shared)).max() < 0.3
    assert kept.n_merged.sum() == n


@pytest.mark.parametrize(
    ("shapes", "named"),
    [
        ([shapely.box(0, 0, 1, 1)], r"shape \(1,\), expected \(2,\)"),
        ([shapely.box(0, 0, 1, 1), shapely.Point(0, 0)], "1 are not polygons"),
        ([shapely.box(0, 0, 1, 1), None], "1 are not polygons"),
        ([shapely.box(0, 0, 1, 1), shapely.Polygon()], "1 are empty"),
        ([shapely.box(0, 0, 1, 1), shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])], "1 are invalid"),
    ],
)
def test_invalid_geometries_are_counted(shapes, named):
    d = Detections(boxes=np.zeros((2, 4)), scores=[0.5, 0.5], labels=[0, 0])
    with pytest.raises(ConfigError, match=named):
        merge_polygons(d, np.array(shapes, object))


def test_fusion_is_for_boxes():
    with pytest.raises(ConfigError, match=r"wbf averages corners.*nms, soft_nms, nmm, greedy_nmm"):
        merge_polygons(Detections.empty(), np.empty(0, object), method="wbf")
