"""The coverage table: statuses partition the scene, and their areas are geodesic."""

from __future__ import annotations

from pathlib import Path

import geoparquet_validator as gpv
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyproj import Geod

from geosod.georeference.polygons import footprint
from geosod.output.coverage import COVERAGE_SCHEMA, area_km2, coverage_table
from geosod.output.geoparquet import write_geoparquet
from geosod.results import FAILED, INSPECTED, NODATA, UNSEEN, Coverage
from tests.output.samples import CRS84, SCENES, make_scene


def coverage_of(scene, codes, cell, **kwargs):
    coverage = Coverage(cell, 0, 0, np.asarray(codes, np.uint8))
    table = coverage_table(scene, coverage, crs=kwargs.pop("crs", CRS84), **kwargs)
    assert table.schema.equals(COVERAGE_SCHEMA)
    return table


def pixel_areas(table) -> dict[str, float]:
    totals: dict[str, float] = {}
    for row in table.to_pylist():
        totals[row["status"]] = totals.get(row["status"], 0) + shapely.from_wkb(row["geometry"]).area
    return totals


def aoi_of(seed: int) -> shapely.Geometry:
    rng = np.random.default_rng(seed)
    return shapely.union_all(shapely.buffer(shapely.points(rng.uniform(-100, 1000, (3, 2))), rng.uniform(50, 300, 3)))


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.uint8, (9, 11), elements=st.integers(0, 3)),
    st.one_of(st.none(), st.integers(0, 10**6)),
    st.one_of(st.none(), st.integers(0, 10**6)),
)
def test_statuses_partition_the_scene(codes: np.ndarray, aoi_seed: int | None, mask_seed: int | None) -> None:
    scene = make_scene(crs=None, transform=None, size=(1050, 820))  # cells of 96 extend beyond both edges
    aoi = None if aoi_seed is None else aoi_of(aoi_seed)
    masked = None if mask_seed is None else aoi_of(mask_seed)
    table = coverage_of(scene, codes, 96, aoi=aoi, masks=None if masked is None else {"cloud": masked})
    polygons = shapely.from_wkb(table["geometry"].to_numpy())
    assert shapely.is_valid(polygons).all()
    assert shapely.area(polygons).sum() == pytest.approx(1050 * 820, abs=1e-3)
    frame = shapely.box(0, 0, 1050, 820)
    assert shapely.union_all(polygons).symmetric_difference(frame).area < 1e-3
    rows, cols = np.indices(codes.shape)
    cells = shapely.intersection(shapely.box(cols * 96, rows * 96, cols * 96 + 96, rows * 96 + 96), frame)
    wanted = frame if aoi is None else frame.intersection(aoi)
    hidden = shapely.Polygon() if masked is None else masked.intersection(wanted)
    visible = wanted.difference(hidden)
    expected = {
        "outside_aoi": frame.area - wanted.area,
        "masked": hidden.area,
        "inspected": shapely.union_all(cells[codes == INSPECTED]).intersection(visible).area,
        "nodata": shapely.union_all(cells[codes == NODATA]).intersection(visible).area,
        "failed": shapely.union_all(cells[(codes == FAILED) | (codes == UNSEEN)]).intersection(visible).area,
    }
    found = pixel_areas(table)
    assert {k: v for k, v in expected.items() if v > 1e-2}.keys() <= found.keys()
    for status, area in found.items():
        assert area == pytest.approx(expected[status], abs=1e-2)


@pytest.mark.parametrize("name", ["utm", "across"])
def test_areas_are_geodesic_and_add_up(name: str) -> None:
    codes = np.random.default_rng(4).integers(1, 4, (8, 10))
    table = coverage_of(SCENES[name], codes, 100)
    whole = abs(Geod(ellps="WGS84").geometry_area_perimeter(footprint(SCENES[name]))[0]) / 1e6
    assert sum(table["area_km2"].to_pylist()) == pytest.approx(whole, rel=1e-6)
    parts = [area_km2(table, status) for status in ("inspected", "nodata", "failed")]
    assert sum(parts) == pytest.approx(whole, rel=1e-6)
    geod = Geod(ellps="WGS84")
    for row in table.to_pylist():
        area = abs(geod.geometry_area_perimeter(shapely.from_wkb(row["geometry"]))[0]) / 1e6
        assert row["area_km2"] == pytest.approx(area, rel=1e-4)


def test_reasons_distinguish_failed_and_unreached_ground() -> None:
    table = coverage_of(SCENES["pixel"], [[FAILED]], 1000)
    assert {(r["status"], r["reason"]) for r in table.to_pylist()} == {
        ("failed", "reading or detection failed; see the failures file")
    }
    table = coverage_of(SCENES["pixel"], [[UNSEEN, INSPECTED]], 500)
    rows = {(r["status"], r["reason"]) for r in table.to_pylist()}
    assert rows == {("failed", "no tile reached it"), ("inspected", None)}
    assert area_km2(table) is None


def test_cells_outside_the_grid_are_unseen() -> None:
    part = Coverage(100, 3, 2, np.full((1, 1), INSPECTED, np.uint8))
    table = coverage_table(SCENES["pixel"], part, crs=CRS84)
    assert pixel_areas(table) == {"inspected": 100 * 100, "failed": 1000 * 800 - 100 * 100}


def test_area_of_interest_elsewhere_leaves_nothing_inspected() -> None:
    table = coverage_of(SCENES["utm"], np.full((8, 10), INSPECTED), 100, aoi=shapely.box(5000, 5000, 6000, 6000))
    assert table["status"].to_pylist() == ["outside_aoi"]
    assert area_km2(table) == 0


def test_long_edges_follow_their_curve() -> None:
    scene = make_scene(crs="EPSG:32633", transform=SCENES["utm"].transform @ SCENES["utm"].transform.scale(200))
    table = coverage_of(scene, [[INSPECTED]], 1000)
    outline = shapely.from_wkb(table["geometry"][0].as_py())
    assert len(outline.exterior.coords) > 60


@pytest.mark.parametrize("name", SCENES)
def test_file_passes_the_validator(tmp_path: Path, name: str) -> None:
    codes = np.random.default_rng(4).integers(0, 4, (16, 20))
    table = coverage_of(SCENES[name], codes, 50, aoi=shapely.box(100, 100, 900, 700))
    write_geoparquet(table, tmp_path / "c.parquet", crs=None if name == "pixel" else CRS84, metadata={})
    assert gpv.failed(gpv.check(str(tmp_path / "c.parquet"))) == []
