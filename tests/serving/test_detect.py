"""`POST /detect`: the same detections as `geosod.detect` on the file, as GeoJSON or GeoParquet."""

from __future__ import annotations

import io
import json
from pathlib import Path

import geopandas
import numpy as np
import pytest

import geosod
from tests.rasters import write_tif
from tests.serving.running import SETTINGS, Running, check_envelope, drawn

PARQUET = "application/vnd.apache.parquet"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tif(tmp_path_factory.mktemp("scene") / "upload.tif", np.moveaxis(drawn(200, 300), 2, 0))


def local(scene: Path, model: Path) -> geopandas.GeoDataFrame:
    settings = SETTINGS | {"batch": 1, "engine": "serial"}
    return geosod.detect(scene, model=model, **settings).to_geopandas()  # type: ignore[arg-type]


def test_geoparquet_is_what_detect_writes(served: Running, scene: Path, rgb_bundle: Path) -> None:
    answer = served.post("/detect", data=scene.read_bytes(), headers={"Accept": PARQUET})
    assert answer.status_code == 200 and answer.headers["content-type"] == PARQUET
    found = geopandas.read_parquet(io.BytesIO(answer.content))
    expected = local(scene, rgb_bundle)
    assert len(found) > 10 and found.crs == expected.crs
    same = [name for name in expected.columns if name not in ("detection_id", "bbox")]
    assert found[same].equals(expected[same])


def test_geojson_has_the_same_rows(served: Running, scene: Path, rgb_bundle: Path) -> None:
    for accept in ("application/geo+json", "*/*", "application/json", f"{PARQUET};q=0.5, application/geo+json"):
        answer = served.post("/detect", data=scene.read_bytes(), headers={"Accept": accept})
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/geo+json"
    found = geopandas.read_file(io.BytesIO(answer.content))
    expected = local(scene, rgb_bundle)
    assert found.crs.to_epsg() == 4326  # RFC 7946
    assert np.array_equal(found.bounds.to_numpy().round(9), expected.bounds.to_numpy().round(9))
    assert found["label"].tolist() == expected["label"].tolist()
    assert np.allclose(found["score"], expected["score"])


def test_without_georeference_boxes_are_in_pixels(served: Running, tmp_path: Path) -> None:
    scene = write_tif(tmp_path / "a.tif", np.moveaxis(drawn(), 2, 0), crs=None)
    found = json.loads(served.post("/detect", data=scene.read_bytes()).content)
    assert found["type"] == "FeatureCollection" and len(found["features"]) > 5
    for feature in found["features"]:
        assert feature["geometry"] is None
        assert 0 <= feature["properties"]["px_xmin"] < feature["properties"]["px_xmax"] <= 120


def test_a_threshold(served: Running, scene: Path) -> None:
    every = served.post("/detect", data=scene.read_bytes()).json()["features"]
    middle = sorted(one["properties"]["score"] for one in every)[len(every) // 2]
    some = served.post(f"/detect?threshold={middle}", data=scene.read_bytes()).json()["features"]
    assert 0 < len(some) < len(every)
    assert min(one["properties"]["score"] for one in some) >= middle
    for wrong in ("2", "-1", "nan", "x"):
        found = check_envelope(served.post(f"/detect?threshold={wrong}", data=scene.read_bytes()), 422)
        assert "threshold" in found["errorMsg"]


def test_refusals(served: Running, scene: Path, tmp_path: Path) -> None:
    content = scene.read_bytes()
    check_envelope(served.post("/detect", data=content, headers={"Accept": "text/html"}), 406)
    form = check_envelope(served.post("/detect", files={"file": content}), 415)
    assert "--data-binary" in form["errorMsg"]
    check_envelope(served.post("/detect", data=b""), 422)
    check_envelope(served.post("/detect", data=content[: len(content) // 2]), 422)
    other = write_tif(tmp_path / "b.tif", np.ones((2, 64, 64), np.uint8))
    message = check_envelope(served.post("/detect", data=other.read_bytes()), 422)["errorMsg"]
    assert "bands" in message and "/tmp" not in message and "upload" not in message
