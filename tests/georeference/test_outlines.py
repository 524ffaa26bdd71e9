"""Outlines of equal codes, against unions of unit cells found by a flood fill."""

from __future__ import annotations

import numpy as np
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geosod.georeference.outlines import code_outlines, lattice, polygon_parts, samples

SIDES = st.integers(1, 40_000)
GRIDS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.integers(0, 3))


@given(SIDES, SIDES)
def test_samples_are_every_16_pixels_or_as_many_as_allowed_and_have_the_centre(width: int, height: int) -> None:
    n = samples(width, height, 65)
    assert 9 <= n <= 65 and samples(width, height, 33) == min(n, 33)
    assert n == 65 or max(width, height) / (n - 1) <= 16
    points = lattice(np.linspace(0, width, n), np.linspace(0, height, n))
    assert len(points) == n * n and (points[n * n // 2] == (width / 2, height / 2)).all()
    finest = {tuple(point) for point in lattice(np.linspace(0, width, 65), np.linspace(0, height, 65))}
    assert {tuple(point) for point in points} <= finest


def squares(cells: np.ndarray) -> shapely.Geometry:
    rows, cols = cells.T
    return shapely.union_all(shapely.box(cols, rows, cols + 1, rows + 1))


def regions(grid: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """The code and the cells (row, column) of every 4-connected region."""
    left, found = {(r, c) for r in range(grid.shape[0]) for c in range(grid.shape[1])}, []
    while left:
        cells = [min(left)]
        left.remove(cells[0])
        for r, c in cells:
            for near in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
                if near in left and grid[near] == grid[r, c]:
                    left.remove(near)
                    cells.append(near)
        found.append((int(grid[cells[0]]), np.array(cells)))
    return found


def without_collinear(ring: shapely.LinearRing) -> np.ndarray:
    xy = shapely.get_coordinates(ring)[:-1]
    before, after = xy - np.roll(xy, 1, axis=0), np.roll(xy, -1, axis=0) - xy
    return xy[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def canonical(code: int, polygon: shapely.Polygon) -> tuple[int, bytes]:
    rings = [without_collinear(ring) for ring in (polygon.exterior, *polygon.interiors)]
    return code, shapely.to_wkb(shapely.normalize(shapely.Polygon(rings[0], rings[1:])))


@settings(max_examples=300, deadline=None)
@given(GRIDS)
def test_outlines_are_the_regions_found_by_a_flood_fill(grid: np.ndarray) -> None:
    polygons, codes = code_outlines(grid)
    found = [
        (int(code), shapely.to_wkb(polygon)) for code, polygon in zip(codes, shapely.normalize(polygons), strict=True)
    ]
    assert sorted(found) == sorted(canonical(code, squares(cells)) for code, cells in regions(grid))
    assert all(polygon.exterior.is_ccw and not any(ring.is_ccw for ring in polygon.interiors) for polygon in polygons)


@settings(max_examples=300, deadline=None)
@given(GRIDS)
def test_outlines_are_the_unions_of_cells(grid: np.ndarray) -> None:
    polygons, codes = code_outlines(grid)
    assert shapely.is_valid(polygons).all()
    assert shapely.area(polygons).sum() == grid.size
    for code in np.unique(grid):
        expected = squares(np.argwhere(grid == code))
        found = polygons[codes == code]
        assert shapely.union_all(found).equals(expected)
        # As many polygons as 4-connected regions, which are the parts of GEOS's union.
        assert len(found) == len(shapely.get_parts(expected))


def test_outline_of_one_code_has_four_corners() -> None:
    polygons, _ = code_outlines(np.full((50, 70), 2, np.uint8))
    assert len(polygons) == 1
    assert len(polygons[0].exterior.coords) == 5


def test_a_mask_a_transform_and_a_limit() -> None:
    grid = np.indices((4, 6)).sum(axis=0).astype(np.uint8) % 2
    polygons, codes = code_outlines(grid, mask=grid == 1, transform=Affine(2, 0, 100, 0, -3, 50))
    assert len(polygons) == 12 and set(codes) == {1} and shapely.area(polygons).sum() == 12 * 6
    assert shapely.union_all(polygons).bounds == (100, 38, 112, 50)
    assert all(polygon.exterior.is_ccw for polygon in polygons)
    assert len(code_outlines(grid, limit=5)[0]) == 5


def test_parts_of_any_geometry_are_its_polygons() -> None:
    box, line = shapely.box(0, 0, 2, 2), shapely.LineString([(0, 0), (1, 1)])
    several = shapely.MultiPolygon([box, shapely.box(5, 5, 6, 6)])
    parts, origin = polygon_parts([line, shapely.GeometryCollection([line, several]), box], min_area=1.0)
    assert [part.equals(box) for part in parts] == [True, True] and origin.tolist() == [1, 2]
    assert len(polygon_parts(several)[0]) == 2 and len(polygon_parts(shapely.Polygon())[0]) == 0
