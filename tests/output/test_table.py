"""Rows of a detections file: contents, order, identifiers."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.detections import Detections
from geosod.errors import ModelError
from geosod.output.geoparquet import file_metadata, write_geoparquet
from geosod.output.table import DETECTION_SCHEMA, detection_ids, detection_table
from tests.output.samples import CRS84, PROVENANCE, SCENES, make_scene, random_detections

CONTRACT = [
    *("detection_id", "geometry", "bbox", "label", "label_id", "score", "px_xmin", "px_ymin", "px_xmax", "px_ymax"),
    *("lon", "lat", "width_m", "height_m", "area_m2", "truncated", "n_merged", "level", "scene_id", "datetime"),
]


def test_columns_are_those_of_the_contract() -> None:
    assert DETECTION_SCHEMA.names == CONTRACT
    types = {
        name: str(DETECTION_SCHEMA.field(name).type) for name in ("score", "label_id", "lon", "area_m2", "datetime")
    }
    assert types == {
        "score": "float",
        "label_id": "int32",
        "lon": "double",
        "area_m2": "float",
        "datetime": "timestamp[us, tz=UTC]",
    }


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("n", [0, 1, 50])
def test_schema_does_not_depend_on_the_rows(name: str, n: int) -> None:
    table = detection_table(SCENES[name], random_detections(0, n), PROVENANCE, crs=CRS84)
    assert table.schema.equals(DETECTION_SCHEMA)
    assert table.num_rows == n
    table.validate(full=True)


def test_every_row_keeps_its_values() -> None:
    detections = random_detections(1, 200)
    table = detection_table(SCENES["utm"], detections, PROVENANCE, crs=CRS84)
    by_corner = {tuple(box): i for i, box in enumerate(detections.boxes)}
    for row in table.to_pylist():
        i = by_corner.pop((row["px_xmin"], row["px_ymin"], row["px_xmax"], row["px_ymax"]))
        assert row["score"] == detections.scores[i]
        assert row["label"] == ("boat", "plane")[detections.labels[i]]
        assert (row["label_id"], row["truncated"], row["n_merged"]) == (
            detections.labels[i],
            detections.truncated[i],
            detections.n_merged[i],
        )
        assert row["level"] == detections.level[i]
        polygon = shapely.from_wkb(row["geometry"])
        assert tuple(row["bbox"].values()) == polygon.bounds
        assert polygon.contains(shapely.Point(row["lon"], row["lat"]))
        assert row["width_m"] == pytest.approx((row["px_xmax"] - row["px_xmin"]) * 0.5, rel=1e-3)
        assert row["area_m2"] == pytest.approx(row["width_m"] * row["height_m"], rel=1e-4)
        assert row["scene_id"] == "scene"
    assert not by_corner


def test_pixel_scene_has_pixel_polygons_and_nulls_on_the_ground() -> None:
    detections = Detections(boxes=[[10, 20, 30, 50]], scores=[0.5], labels=[1])
    (row,) = detection_table(SCENES["pixel"], detections, PROVENANCE, crs=CRS84).to_pylist()
    assert shapely.from_wkb(row["geometry"]).bounds == (10, 20, 30, 50)
    assert [row[name] for name in ("lon", "lat", "width_m", "height_m", "area_m2")] == [None] * 5


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (None, None),
        (dt.datetime(2024, 5, 1, 12, 0), dt.datetime(2024, 5, 1, 12, 0, tzinfo=dt.UTC)),
        (
            dt.datetime(2024, 5, 1, 1, 0, tzinfo=dt.timezone(dt.timedelta(hours=3))),
            dt.datetime(2024, 4, 30, 22, 0, tzinfo=dt.UTC),
        ),
    ],
)
def test_time_is_utc(when: dt.datetime | None, expected: dt.datetime | None) -> None:
    table = detection_table(make_scene(when=when), random_detections(0, 1), PROVENANCE, crs=CRS84)
    assert table["datetime"].to_pylist() == [expected]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 80), st.booleans(), st.sampled_from(sorted(SCENES)))
def test_bytes_depend_only_on_the_set_of_boxes(
    tmp_path_factory, seed: int, n: int, duplicates: bool, name: str
) -> None:
    scene, detections = SCENES[name], random_detections(seed, n, duplicates=duplicates)
    folder: Path = tmp_path_factory.mktemp("bytes")
    digests = set()
    for order in (np.arange(n), np.random.default_rng(seed).permutation(n), np.arange(n)[::-1]):
        table = detection_table(scene, detections[order], PROVENANCE, crs=CRS84)
        assert len(set(table["detection_id"].to_pylist())) == n
        write_geoparquet(table, folder / "x.parquet", crs=CRS84, metadata=file_metadata(scene, PROVENANCE))
        digests.add(hashlib.sha256((folder / "x.parquet").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_rows_follow_the_hilbert_curve() -> None:
    table = detection_table(SCENES["utm"], random_detections(5, 500), PROVENANCE, crs="EPSG:32633")
    x, y = ((table[f"px_{a}min"].to_numpy() + table[f"px_{a}max"].to_numpy()) / 2 for a in "xy")
    distance = geopandas.GeoSeries.from_xy(x, y).hilbert_distance(total_bounds=(0, 0, 1000, 800), level=16)
    assert (np.diff(distance.to_numpy().astype(np.int64)) >= 0).all()
    # Neighbours in the file are neighbours on the ground: much nearer than in random order.
    assert np.hypot(np.diff(x), np.diff(y)).mean() < 80


def test_identifiers_are_stable_and_unique() -> None:
    boxes = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4], [-0.0, 2, 3, 4], [0.0, 2, 3, 4], [1, 2, 3, 4]])
    labels = np.array([0, 0, 0, 1, 1], np.int32)
    names = detection_ids("s", boxes, labels).to_pylist()
    assert len(set(names)) == 5
    assert names[1] == names[0] + "-1"
    assert (
        detection_ids("s", boxes[2:3], labels[:1]).to_pylist() == detection_ids("s", boxes[3:4], labels[:1]).to_pylist()
    )
    # Pinned: an identifier must not change between versions, or reruns would not match earlier results.
    assert names[0] == detection_ids("s", boxes[:1], labels[:1]).to_pylist()[0] == "s-bf4777d7f100da71"


def test_hashes_are_well_distributed() -> None:
    grid = np.stack(np.meshgrid(np.arange(300.0), np.arange(300.0)), axis=-1).reshape(-1, 2)
    boxes = np.hstack([grid, grid + 1])
    names = detection_ids("s", boxes, np.zeros(len(boxes), np.int32)).to_pylist()
    assert len({name[:11] for name in names}) > 80_000  # 36 bits are enough for nearly all of 90,000 to differ
    assert not any(name.count("-") > 1 for name in names)


def test_unnamed_label_is_refused() -> None:
    with pytest.raises(ModelError, match="lists 2 classes"):
        detection_table(SCENES["utm"], Detections(boxes=[[0, 0, 1, 1]], scores=[1], labels=[2]), PROVENANCE, crs=CRS84)
