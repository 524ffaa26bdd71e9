"""Files: conformance, reading with geopandas and DuckDB, and URIs without secrets."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import geopandas
import geoparquet_validator as gpv
import jsonschema
import pyarrow.parquet as pq
import pyproj
import pytest
import shapely

from geosod.errors import OutputError
from geosod.output.geoparquet import file_metadata, read_metadata, write_geoparquet
from geosod.output.table import detection_table
from tests.conftest import SHARED
from tests.output.samples import CRS84, PROVENANCE, SCENES, random_detections


def write(path: Path, name: str, n: int, crs: str = CRS84) -> Path:
    scene = SCENES[name]
    table = detection_table(scene, random_detections(3, n), PROVENANCE, crs=crs)
    write_geoparquet(table, path, crs=None if name == "pixel" else crs, metadata=file_metadata(scene, PROVENANCE))
    return path


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("crs", [CRS84, "EPSG:3857", "EPSG:4326"])
def test_passes_the_validator(tmp_path: Path, name: str, crs: str) -> None:
    report = gpv.check(str(write(tmp_path / "x.parquet", name, 300, crs)))
    assert gpv.failed(report) == []
    empty = gpv.check(str(write(tmp_path / "e.parquet", name, 0, crs)))
    assert gpv.failed(empty, "core") == gpv.failed(empty, "covering") == []


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("n", [0, 5])
def test_metadata_match_the_published_schema(tmp_path: Path, name: str, n: int) -> None:
    path = SHARED / "schemas" / "geoparquet" / "1.1.0.json"
    if not path.is_file():
        pytest.skip("the GeoParquet schema is not available")
    projjson = json.loads((Path(pyproj.datadir.get_data_dir()) / "projjson.schema.json").read_text())
    schema = json.loads(path.read_text().replace("https://proj.org/schemas/v0.7/projjson.schema.json", projjson["$id"]))
    geo = read_metadata(write(tmp_path / "x.parquet", name, n), key="geo")
    assert geo is not None and ("bbox" in geo["columns"]["geometry"]) == (n > 0)
    from referencing import Registry, Resource

    registry = Registry().with_resource(projjson["$id"], Resource.from_contents(projjson))
    jsonschema.Draft7Validator(schema, registry=registry).validate(geo)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema, registry=registry).validate(geo | {"version": "9"})


def test_geopandas_reads_and_filters(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", "utm", 400)
    frame = geopandas.read_parquet(path)
    assert frame.crs == CRS84
    assert len(frame) == 400
    middle = tuple(frame.total_bounds[:2]) + tuple(frame.total_bounds.reshape(2, 2).mean(axis=0))
    part = geopandas.read_parquet(path, bbox=middle)
    assert set(part["detection_id"]) == set(frame["detection_id"][frame.intersects(shapely.box(*middle))])
    assert 0 < len(part) < 400


def test_duckdb_reads_and_filters(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", "utm", 400)
    frame = geopandas.read_parquet(path)
    x = float(frame.bounds["minx"].median())
    count = duckdb.sql(f"select count(*) from '{path}' where bbox.xmin > {x!r}").fetchall()
    assert count == [(int((frame.bounds["minx"] > x).sum()),)]


def test_split_boxes_are_declared_and_stay_in_range(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", "across", 400)
    geo = read_metadata(path, key="geo")
    assert geo is not None
    assert geo["columns"]["geometry"]["geometry_types"] == ["MultiPolygon", "Polygon"]
    west, _, east, _ = geo["columns"]["geometry"]["bbox"]
    assert (west, east) == (-180, 180)


def test_pixel_file_has_no_crs(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", "pixel", 5)
    geo = read_metadata(path, key="geo")
    assert geo is not None
    assert geo["columns"]["geometry"]["crs"] is None
    assert geopandas.read_parquet(path).crs is None


def test_row_groups_and_compression(tmp_path: Path) -> None:
    metadata = pq.read_metadata(write(tmp_path / "x.parquet", "utm", 100_001))
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [50_000, 50_000, 1]
    assert {metadata.row_group(0).column(i).compression for i in range(metadata.num_columns)} == {"ZSTD"}


def test_provenance_holds_no_secret(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", "utm", 3)
    stored = read_metadata(path)
    assert stored is not None
    assert stored["source"] == "https://example.org/a/scene.tif"
    assert (stored["model_digest"], stored["gsd"], stored["options"]) == ("ab" * 32, 0.5, {"threshold": 0.3})
    assert b"secret" not in path.read_bytes()
    assert b"signature" not in path.read_bytes()


def test_unwritable_path_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write(tmp_path / "missing" / "x.parquet", "utm", 1)


def test_read_metadata_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("no parquet")
    assert read_metadata(tmp_path / "x.parquet") is None
    assert read_metadata(tmp_path / "absent.parquet") is None
