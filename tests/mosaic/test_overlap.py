"""Matches are those of the ground, wherever it is on the map."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import shapely

from geosod.mosaic.match import Boxes, MosaicRule, find_edges
from geosod.mosaic.translate import reprojected


def boxes_of(shapes: np.ndarray, scene: np.ndarray) -> Boxes:
    n = len(shapes)
    return Boxes(
        scene=scene,
        row=np.arange(n),
        bounds=shapely.bounds(shapes),
        label=np.zeros(n, np.int64),
        score=np.ones(n, np.float32),
        cut=np.zeros(n, np.bool_),
        n_merged=np.ones(n, np.int32),
        ids=pa.array([str(i) for i in range(n)]),
        wkb=pa.array(shapely.to_wkb(shapes), pa.binary()),
    )


def turned_boxes(rng: np.random.Generator, n: int, middle: tuple[float, float], reach: float) -> np.ndarray:
    """Rectangles of some tens of metres, each with its own angle, about a place."""
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
def test_on_the_map_of_degrees_it_is_as_on_one_of_metres(crs, middle, reach) -> None:
    rng = np.random.default_rng(5)
    plane, scene = turned_boxes(rng, 300, middle, reach), rng.integers(0, 3, 300)
    degrees = reprojected(plane, crs, "OGC:CRS84", None)
    assert crs != "EPSG:32660" or (shapely.get_type_id(degrees) == shapely.GeometryType.MULTIPOLYGON).sum() > 50
    fresh = np.ones(300, np.bool_)
    found = find_edges(boxes_of(degrees, scene), fresh, MosaicRule(threshold=0.3), turn=360.0)
    a, b = np.nonzero(scene[:, None] < scene[None, :])
    shared, area = shapely.area(shapely.intersection(plane[a], plane[b])), shapely.area(plane)
    true = shared / (area[a] + area[b] - shared)
    told = {(int(i), int(j)): v for i, j, v in zip(*found, strict=True)}
    sure = {(int(i), int(j)): v for i, j, v in zip(a[true > 0.3], b[true > 0.3], true[true > 0.3], strict=True)}
    assert len(sure) > 500
    assert all(abs(v - 0.3) < 2e-3 for pair, v in (told | sure).items() if (pair in told) != (pair in sure))
    assert max(abs(told[pair] - sure[pair]) for pair in told.keys() & sure.keys()) < 2e-3


def test_pairs_without_a_fresh_box_are_left_out() -> None:
    rng = np.random.default_rng(6)
    plane, scene = turned_boxes(rng, 200, (0.0, 0.0), 40.0), rng.integers(0, 3, 200)
    fresh = rng.random(200) < 0.3
    rule = MosaicRule(threshold=0.2)
    every = find_edges(boxes_of(plane, scene), np.ones(200, np.bool_), rule, turn=None)
    some = find_edges(boxes_of(plane, scene), fresh, rule, turn=None)
    wanted = {(int(i), int(j), v) for i, j, v in zip(*every, strict=True) if fresh[i] or fresh[j]}
    assert {(int(i), int(j), v) for i, j, v in zip(*some, strict=True)} == wanted
    assert 0 < len(wanted) < len(every.a)
