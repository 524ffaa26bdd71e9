"""The demo at a small size: the shipped bundle, the real pipeline on Ray, and the accuracy it should reach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import geopandas
import geoparquet_validator as gpv
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rio_cogeo.cogeo import cog_validate

from geosod.demo.run import run_demo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("demo")
    return out, run_demo(out, size=6144, workers=2)


def test_it_finds_the_drawn_objects(demo) -> None:
    out, summary = demo
    assert json.loads((out / "summary.json").read_text()) == summary
    keys = {"objects", "recall", "precision", "recall_at_borders", "duplicates", "megapixels", "seconds"}
    assert keys | {"mpx_per_s", "peak_pss_bytes"} <= summary.keys()
    assert summary["objects"] > 500
    assert summary["recall"] >= 0.9 and summary["precision"] >= 0.9
    # At full size the difference is below 0.01; here too few objects lie at borders for that.
    assert summary["recall_at_borders"] >= summary["recall_elsewhere"] - 0.05
    assert summary["duplicates"] <= max(3, 0.002 * summary["objects"])
    assert summary["peak_pss_bytes"] < 6 << 30


def test_the_folder_contains_all_files(demo) -> None:
    out, summary = demo
    for name in (
        "scene.tif",
        "truth.parquet",
        "overview.png",
        "crops.png",
        "coverage/scene.parquet",
        "items/scene.json",
    ):
        assert (out / name).is_file(), name
    assert cog_validate(out / "scene.tif")[0]
    assert Image.open(out / "overview.png").width > 1000
    truth, found = pq.read_table(out / "truth.parquet"), pq.read_table(out / summary["detections_file"])
    assert len(truth) == summary["objects"] and len(found) == summary["detections"]
    for path in out.rglob("*.parquet"):
        assert gpv.failed(gpv.check(str(path))) == [], path


def test_geopandas_and_duckdb_read_it(demo) -> None:
    out, summary = demo
    whole = geopandas.read_parquet(out / "detections")
    assert len(whole) == summary["detections"] and whole.crs.to_string() == "OGC:CRS84"
    x0, y0, x1, y1 = whole.total_bounds.tolist()
    corner = (x0, y0, (x0 + x1) / 2, (y0 + y1) / 2)
    part = geopandas.read_parquet(out / "detections", bbox=corner)
    query = f"""
        SELECT count(*) FROM '{out}/detections/*/*.parquet'
        WHERE bbox.xmin <= {corner[2]!r} AND bbox.xmax >= {corner[0]!r}
          AND bbox.ymin <= {corner[3]!r} AND bbox.ymax >= {corner[1]!r}"""
    ((count,),) = duckdb.sql(query).fetchall()
    assert 0 < len(part) == count < len(whole)
    # Half a metre a pixel, so a box of n pixels is n / 2 metres wide.
    assert np.allclose(whole.width_m, (whole.px_xmax - whole.px_xmin) * 0.5, rtol=2e-3)


def test_coverage_adds_up(demo) -> None:
    out, _ = demo
    coverage = geopandas.read_parquet(out / "coverage" / "scene.parquet")
    area = coverage.groupby("status").area_km2.sum()
    assert set(area.index) == {"inspected", "nodata"}
    assert area.sum() == pytest.approx((6144 * 0.5) ** 2 / 1e6, rel=2e-3)
    found = geopandas.read_parquet(out / "detections")
    inspected = coverage[coverage.status == "inspected"].geometry.union_all().buffer(1e-6)
    assert found.geometry.centroid.within(inspected).all()
