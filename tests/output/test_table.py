"""Rows of a detections file: contents, order, identifiers."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.detections import Detections
from geosod.errors import ModelError, SceneError
from geosod.output.geoparquet import file_metadata, write_geoparquet
from geosod.output.table import DETECTION_SCHEMA, detection_rows, detection_table
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


def test_unnamed_label_is_refused() -> None:
    with pytest.raises(ModelError, match="lists 2 classes"):
        detection_table(SCENES["utm"], Detections(boxes=[[0, 0, 1, 1]], scores=[1], labels=[2]), PROVENANCE, crs=CRS84)


def written(folder: Path, name: str, detections: Detections) -> bytes:
    rows = detection_rows(SCENES[name], detections, PROVENANCE, crs=CRS84)
    write_geoparquet(rows, folder / "x.parquet", crs=CRS84, metadata={})
    return (folder / "x.parquet").read_bytes()


@pytest.mark.parametrize("name", ["utm", "across"])
def test_bytes_do_not_depend_on_parts_and_cores(tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.setattr("geosod.output.geoparquet.ROW_GROUP_ROWS", 500)
    detections = random_detections(8, 1730, duplicates=True)
    expected = written(tmp_path, name, detections)
    table = detection_table(SCENES[name], detections, PROVENANCE, crs=CRS84)
    write_geoparquet(table, tmp_path / "t.parquet", crs=CRS84, metadata={})
    assert (tmp_path / "t.parquet").read_bytes() == expected
    for rows, cpus in ((37, 1), (37, 5), (500, 2), (1729, 2)):
        monkeypatch.setattr("geosod.output.parts.PART_ROWS", rows)
        monkeypatch.setattr("geosod.output.parts.usable_cpus", lambda cpus=cpus: cpus)
        assert written(tmp_path, name, detections) == expected, (rows, cpus)


def test_rows_are_made_while_they_are_read(monkeypatch) -> None:
    monkeypatch.setattr("geosod.output.parts.PART_ROWS", 10)
    reader = detection_rows(SCENES["utm"], random_detections(2, 95), PROVENANCE, crs=CRS84)
    assert [len(batch) for batch in reader] == [10] * 9 + [5]


def test_an_error_of_a_part_reaches_the_reader(monkeypatch) -> None:
    monkeypatch.setattr("geosod.output.parts.PART_ROWS", 10)
    beyond = make_scene(crs="EPSG:4326", transform=Affine(1, 0, 0, 0, -1, 95), size=(20, 200))
    boxes = np.array([[1.0, 20 + i, 3, 21 + i] for i in range(170)])
    rows = detection_rows(
        beyond, Detections(boxes=boxes, scores=np.ones(170), labels=np.zeros(170)), PROVENANCE, crs="EPSG:3857"
    )
    with pytest.raises(SceneError, match="has no coordinates"):
        rows.read_all()
