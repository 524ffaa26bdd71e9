"""The layout has the properties that its documentation states."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.demo.layout import CLASSES, make_layout
from geosod.demo.sprites import VESSEL, true_boxes
from geosod.demo.terrain import cloudiness, inside_swath
from geosod.errors import ConfigError


@pytest.mark.parametrize(("size", "seed"), [(2048, 7), (2048, 11), (3000, 12), (4096, 7)])
def test_objects_have_the_documented_properties(size: int, seed: int) -> None:
    layout = make_layout(size, seed)
    boxes, labels = layout.boxes, layout.labels
    assert boxes.dtype == np.float64 and labels.dtype == np.int32
    assert np.bincount(labels, minlength=3).min() >= 5 and labels.max() < len(CLASSES)
    longer = (boxes[:, 2:] - boxes[:, :2]).max(1)
    assert longer.min() >= 6 and longer.max() <= 60
    for x, y in boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2):
        assert inside_swath(layout.terrain, x, y, 0.0)
    assert max(cloudiness(layout.terrain, *c) for c in (boxes[:, :2] + boxes[:, 2:]) / 2) < 0.25


@pytest.mark.parametrize(("size", "seed"), [(4096, 7), (4096, 3)])
def test_objects_overlap_little(size: int, seed: int) -> None:
    boxes = make_layout(size, seed).boxes
    shapes = shapely.box(*boxes.T)
    a, b = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    a, b = a[a < b], b[a < b]
    area = shapely.area(shapes)
    ios = shapely.area(shapely.intersection(shapes[a], shapes[b])) / np.minimum(area[a], area[b])
    assert len(ios) > 10
    assert ios.max() <= 0.2 + 1e-9


@pytest.mark.parametrize("size", [2048, 6144])
def test_density_does_not_depend_on_the_size(size: int) -> None:
    counts = [len(make_layout(size, seed).boxes) / size**2 * 2048**2 for seed in range(3)]
    assert 60 < np.mean(counts) < 500


def test_same_seed_same_layout_other_seed_other() -> None:
    a, b, c = make_layout(2048, 5), make_layout(2048, 5), make_layout(2048, 6)
    assert np.array_equal(a.boxes, b.boxes) and np.array_equal(a.shapes, b.shapes)
    assert len(a.boxes) != len(c.boxes) or not np.array_equal(a.boxes, c.boxes)


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from([0, 1, 2]),
    half=st.tuples(st.floats(3, 30), st.floats(2, 12)),
    angle=st.floats(-7, 7),
)
def test_true_box_is_tight_on_the_outline(kind: int, half: tuple[float, float], angle: float) -> None:
    """Against shapely's bounds of the outline that the renderer fills."""
    hl, hw = half
    things = {
        "kind": np.array([kind]),
        "cx": np.array([100.0]),
        "cy": np.array([50.0]),
        "half_length": np.array([hl]),
        "half_width": np.array([hw]),
        "angle": np.array([angle]),
    }
    if kind == VESSEL:
        outline = shapely.Polygon(
            [(-hl, -hw), (0.25 * hl, -hw), (hl, -0.15 * hw), (hl, 0.15 * hw), (0.25 * hl, hw), (-hl, hw)]
        )
    elif kind == 2:
        outline = shapely.Point(0, 0).buffer(hl, quad_segs=256)
    else:
        outline = shapely.box(-hl, -hw, hl, hw)
    rotated = shapely.affinity.translate(
        shapely.affinity.rotate(outline, angle, origin=(0, 0), use_radians=True), 100.0, 50.0
    )
    np.testing.assert_allclose(true_boxes(things)[0], rotated.bounds, atol=1e-3)


@pytest.mark.parametrize(("size", "seed"), [(1023, 7), (4096, -1), (4096, 2**31)])
def test_bad_arguments_are_refused(size: int, seed: int) -> None:
    with pytest.raises(ConfigError, match=r"size|seed"):
        make_layout(size, seed)


@pytest.mark.slow
def test_full_size() -> None:
    layout = make_layout(32768, 7)
    assert 20_000 <= len(layout.boxes) <= 60_000
