"""Matches are those on the ground, wherever the boxes are on the map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.deduplication.boxes import Boxes
from geosod.deduplication.candidates import components, index_candidates, next_round
from geosod.deduplication.match import MatchRule, match_values
from geosod.deduplication.reproject import reprojected
from tests.deduplication.brute import measure


def boxes_of(shapes: np.ndarray, scene: np.ndarray, **columns: np.ndarray) -> Boxes:
    """Boxes of one class, with score 1 and not truncated unless `columns` say otherwise."""
    n = len(shapes)
    plain = {
        "row": np.arange(n),
        "bounds": shapely.bounds(shapes),
        "label": np.zeros(n, np.int64),
        "score": np.ones(n, np.float32),
        "truncated": np.zeros(n, np.bool_),
        "n_merged": np.ones(n, np.int32),
        "area": shapely.area(shapes),
        "parts": shapely.get_num_geometries(shapes),
        "ids": pa.array([f"{i:06}" for i in range(n)]),
        "wkb": pa.array(shapely.to_wkb(shapes), pa.binary()),
    }
    return Boxes(scene=scene, **(plain | columns))


def matches(boxes: Boxes, rule: MatchRule, full_circle: float | None) -> dict[tuple[int, int], float]:
    """The metric of every match, the box of the lower scene first."""
    rank, many = np.arange(len(boxes)), 1 << 20
    index = index_candidates(boxes, rule, full_circle=full_circle)
    found = next_round(index, rank, rank, max_pairs=many, max_speculative=many, max_waiting=many)
    value = match_values(boxes, found.keeper, found.candidate, rule, full_circle=full_circle)
    pairs = np.stack([found.keeper, found.candidate], axis=1)[value > 0]
    pairs = np.where((boxes.scene[pairs[:, 0]] > boxes.scene[pairs[:, 1]])[:, None], pairs[:, ::-1], pairs)
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    return dict(zip(map(tuple, pairs.tolist()), value[value > 0].tolist(), strict=True))


def rotated_boxes(rng: np.random.Generator, n: int, middle: tuple[float, float], reach: float) -> np.ndarray:
    """Rectangles of some tens of metres at random angles around a point."""
    half, angle = rng.uniform(5, 20, (n, 2)), rng.uniform(0, np.pi, n)
    corners = half[:, None] * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = corners[..., 0] * cos - corners[..., 1] * sin, corners[..., 0] * sin + corners[..., 1] * cos
    centre = rng.uniform(-reach, reach, (n, 1, 2)) + middle
    return np.asarray(shapely.polygons(np.stack([x, y], axis=-1) + centre), object)


@pytest.mark.parametrize(
    ("crs", "middle", "reach"),
    [
        ("EPSG:3413", (0.0, 0.0), 40.0),
        ("EPSG:3413", (200.0, -100.0), 40.0),
        ("EPSG:3031", (0.0, 0.0), 40.0),
        ("EPSG:32660", (833_978.6, 0.0), 40.0),
        ("EPSG:32633", (500_000.0, 9_000_000.0), 40.0),
    ],
)
def test_matches_in_degrees_are_those_in_metres(crs, middle, reach) -> None:
    rng = np.random.default_rng(5)
    plane, scene = rotated_boxes(rng, 300, middle, reach), rng.integers(0, 3, 300)
    degrees = reprojected(plane, crs, "OGC:CRS84", None)
    assert crs != "EPSG:32660" or (shapely.get_type_id(degrees) == shapely.GeometryType.MULTIPOLYGON).sum() > 50
    boxes, rule = boxes_of(degrees, scene), MatchRule(threshold=0.3)
    found = matches(boxes, rule, 360.0)
    a, b = np.nonzero(scene[:, None] < scene[None, :])
    shared, area = shapely.area(shapely.intersection(plane[a], plane[b])), shapely.area(plane)
    true = shared / (area[a] + area[b] - shared)
    expected = {(int(i), int(j)): v for i, j, v in zip(a[true > 0.3], b[true > 0.3], true[true > 0.3], strict=True)}
    assert len(expected) > 500
    assert all(abs(v - 0.3) < 2e-3 for pair, v in (found | expected).items() if (pair in found) != (pair in expected))
    assert max(abs(found[pair] - expected[pair]) for pair in found.keys() & expected.keys()) < 2e-3
    component = components(index_candidates(boxes, rule, full_circle=360.0))
    assert all(component[i] == component[j] for i, j in found)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    metric=st.sampled_from(["iou", "ios"]),
    threshold=st.sampled_from([0.01, 0.3, 0.5, 0.8, 1.0]),
    class_agnostic=st.booleans(),
    split=st.booleans(),
)
def test_every_match_is_a_link(seed, metric, threshold, class_agnostic, split) -> None:
    """Pairs that bounds exclude do not match, also for polygons in parts; linked boxes are in one component."""
    rng = np.random.default_rng(seed)
    shapes = rotated_boxes(rng, 60, (3.0, 0.0), rng.choice([15.0, 60.0, 300.0]))
    shapes[:20] = shapes[20:40]
    wholes = shapes.copy()
    if split:
        sides = [shapely.box(-1e4, -1e4, 0, 1e4), shapely.box(0, -1e4, 1e4, 1e4)]
        parts = [shapely.intersection(shapes, side) for side in sides]
        several = ~shapely.is_empty(parts[0]) & ~shapely.is_empty(parts[1])
        shapes[several] = shapely.multipolygons(np.stack([p[several] for p in parts], axis=1))
    boxes = boxes_of(shapes, rng.integers(0, 4, 60), label=rng.integers(0, 2, 60), truncated=rng.random(60) < 0.3)
    rule = MatchRule(metric=metric, threshold=threshold, class_agnostic=class_agnostic)
    rows = [row | {"shape": whole} for row, whole in zip(rows_of(boxes), wholes, strict=True)]
    expected = {}
    for i, j in np.argwhere(boxes.scene[:, None] < boxes.scene):
        value = measure(rows[i], rows[j], metric)
        if value > 0 and value >= threshold - 1e-6 and (class_agnostic or boxes.label[i] == boxes.label[j]):
            expected[int(i), int(j)] = value
    found = matches(boxes, rule, None)
    assert found.keys() == expected.keys() and all(abs(found[pair] - expected[pair]) < 1e-9 for pair in found)
    component = components(index_candidates(boxes, rule, full_circle=None))
    assert all(component[i] == component[j] for i, j in expected)
    # No component can be divided by the bounds of its boxes.
    bounds, alone = shapely.box(*boxes.bounds.T), np.bincount(component)[component] == 1
    for one in np.unique(component[~alone]):
        own = component == one
        assert len(np.unique(boxes.scene[own])) > 1 and shapely.union_all(bounds[own]).geom_type == "Polygon"


def rows_of(boxes: Boxes) -> list[dict[str, Any]]:
    """The boxes as `brute` takes them."""
    shapes = shapely.from_wkb(boxes.wkb.to_numpy(zero_copy_only=False))
    shapes = np.where(shapely.is_valid(shapes), shapes, shapely.make_valid(shapes, method="structure"))
    names = boxes.ids.to_pylist()
    return [
        {
            "scene": int(boxes.scene[i]), "id": names[i], "shape": shapes[i], "truncated": bool(boxes.truncated[i]),
            "label": int(boxes.label[i]), "score": float(boxes.score[i]), "date": None,
        }
        for i in range(len(boxes))
    ]  # fmt: skip
