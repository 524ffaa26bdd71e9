"""Items: validated against the published schema if it is available, and case by case."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import jsonschema
import pytest
import shapely

from geosod.output.stac_item import PROCESSING_EXTENSION, geographic_bbox, scene_item
from geosod.scene import Scene
from tests.conftest import SHARED
from tests.output.samples import CRS84, PROVENANCE, SCENES, make_scene

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=dt.UTC)
HREFS = {"detections": "../detections/acq_date=unknown/scene.parquet", "coverage": "../coverage/scene.parquet"}


def item_of(scene: Scene, **changes: Any) -> dict[str, Any]:
    arguments = {"detections": 3, "status": "done", "failures": 0, "inspected_km2": 1.5, "crs": CRS84, "processed": NOW}
    return scene_item(scene, PROVENANCE, hrefs=HREFS, **(arguments | changes))


@pytest.mark.parametrize("name", SCENES)
def test_item_is_json_and_passes_the_processing_schema(name: str) -> None:
    item = item_of(SCENES[name])
    assert json.loads(json.dumps(item)) == item
    path = SHARED / "schemas" / "stac" / "processing.json"
    if not path.is_file():
        pytest.skip("the STAC schemas are not available")
    validator = jsonschema.Draft7Validator(json.loads(path.read_text()))
    validator.validate(item)
    wrong = item | {"properties": item["properties"] | {"processing:softwares": {}}}
    assert not validator.is_valid(wrong)


@pytest.mark.parametrize("name", SCENES)
def test_core_fields(name: str) -> None:
    item = item_of(SCENES[name], status="partial", failures=2)
    assert (item["type"], item["stac_version"], item["id"]) == ("Feature", "1.1.0", "scene")
    assert item["stac_extensions"] == [PROCESSING_EXTENSION]
    assert ("bbox" in item) == (item["geometry"] is not None) == (name != "pixel")
    assert item["links"] == [{"rel": "derived_from", "href": "https://example.org/a/scene.tif", "title": "scene.tif"}]
    assert {name: asset["href"] for name, asset in item["assets"].items()} == HREFS
    assert {asset["type"] for asset in item["assets"].values()} == {"application/vnd.apache.parquet"}
    properties = item["properties"]
    assert (properties["geosod:status"], properties["geosod:failures"], properties["geosod:detections"]) == (
        "partial",
        2,
        3,
    )
    assert properties["processing:software"] == {"geosod": "0.1.0"}
    assert properties["processing:datetime"] == "2026-01-02T03:04:05.000678Z"
    assert "secret" not in json.dumps(item)


def test_known_date() -> None:
    when = dt.datetime(2024, 5, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=3)))
    properties = item_of(make_scene(when=when))["properties"]
    assert properties["datetime"] == "2024-04-30T23:00:00Z"
    assert "start_datetime" not in properties


def test_unknown_date_is_an_interval() -> None:
    properties = item_of(make_scene())["properties"]
    assert properties["datetime"] is None
    assert properties["start_datetime"] == "1858-01-01T00:00:00Z"
    assert properties["end_datetime"] == properties["processing:datetime"]


def test_footprint_over_the_antimeridian() -> None:
    item = item_of(SCENES["across"])
    assert item["geometry"]["type"] == "MultiPolygon"
    west, south, east, north = item["bbox"]
    assert (west, south, east, north) == pytest.approx((179.99, -16.016, -179.99, -16))


@pytest.mark.parametrize(
    ("geometry", "bbox"),
    [
        (shapely.box(1, 2, 3, 4), [1, 2, 3, 4]),
        (shapely.box(-180, -90, 180, -80), [-180, -90, 180, -80]),
        (shapely.multipolygons([shapely.box(170, 0, 180, 5), shapely.box(-180, 0, -160, 5)]), [170, 0, -160, 5]),
        (shapely.multipolygons([shapely.box(-5, 0, 180, 5), shapely.box(-180, 0, -5, 5)]), [-180, 0, 180, 5]),
    ],
)
def test_bbox(geometry: shapely.Geometry, bbox: list[float]) -> None:
    assert geographic_bbox(geometry) == bbox
