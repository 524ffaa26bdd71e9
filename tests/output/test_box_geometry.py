"""Boxes become the same columns as the polygons that shapely and the splitting at edges of maps make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.georeference.polygons import ground_polygons, pixel_polygons
from geosod.output.box_geometry import box_columns
from geosod.output.geoparquet import geometry_columns
from geosod.scene import Scene, SceneRef
from geosod.scenes.open import open_scene
from tests.rasters import noise, write_tif

#: Where scenes lie: far from everything, across the antimeridian, around a pole, rotated, and over the whole globe.
PLACES = {
    "utm": ("EPSG:32631", Affine(0.5, 0, 480_000, 0, -0.5, 6_020_000)),
    "rotated": ("EPSG:32631", Affine.translation(480_000, 6_020_000) @ Affine.rotation(33) @ Affine.scale(0.5, -0.5)),
    "south up": ("EPSG:32731", Affine(0.5, 0, 480_000, 0, 0.5, 6_020_000)),
    "antimeridian": ("EPSG:32601", Affine(300, 0, 120_000, 0, -300, 6_000_000)),
    "pole": ("EPSG:3413", Affine(500, 0, -50_000, 0, -500, 50_000)),
    "globe": ("EPSG:4326", Affine(1.8, 0, -180, 0, -0.9, 90)),
    "beyond 180": ("EPSG:4326", Affine(0.1, 0, 172, 0, -0.1, 20)),
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scene]:
    folder = tmp_path_factory.mktemp("scenes")
    found = {}
    for name, (crs, transform) in PLACES.items():
        path: Path = write_tif(folder / f"{name}.tif", noise(1, 200, 200), crs=crs, transform=transform)
        found[name] = open_scene(SceneRef(str(path), name))
    return found


def some_boxes(seed: int, count: int, side: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 200 - side, (count, 2))
    return np.hstack([low, low + rng.uniform(0.1, side, (count, 2))])


@pytest.mark.parametrize("crs", ["OGC:CRS84", "EPSG:3857", "EPSG:32631"])
@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 9999), count=st.integers(0, 40), side=st.sampled_from([3.0, 30.0, 120.0]))
def test_columns_are_those_of_polygons(place, crs, scenes, seed, count, side) -> None:
    if crs == "EPSG:32631" and place not in ("utm", "rotated"):
        pytest.skip("far outside the zone")
    if crs == "EPSG:3857" and place in ("globe", "pole"):
        pytest.skip("poles are not on that map")
    boxes = some_boxes(seed, count, side)
    expected = geometry_columns(ground_polygons(scenes[place], boxes, crs))
    found = box_columns(scenes[place], boxes, crs)
    assert found[0].equals(expected[0]) and found[1].equals(expected[1])


def test_boxes_of_pixel_scenes(scenes) -> None:
    boxes = some_boxes(1, 50, 30.0)
    expected = geometry_columns(pixel_polygons(boxes))
    found = box_columns(scenes["utm"], boxes, None)
    assert found[0].equals(expected[0]) and found[1].equals(expected[1])
