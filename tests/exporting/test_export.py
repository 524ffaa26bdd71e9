"""Exports, read back by readers that share no code with their writers."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import sqlite3
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import duckdb
import geopandas
import geoparquet_validator as gpv
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pmtiles.reader import MmapSource, Reader, all_tiles
from pycocotools.coco import COCO
from typer.testing import CliRunner

import geosod
from geosod.cli.main import app
from geosod.datasets.read import read_labels
from geosod.detections import Detections
from geosod.errors import ConfigError, OutputError
from geosod.exporting.run import export
from geosod.output.geoparquet import read_metadata
from tests.deduplication.outputs import DAY, ORIGIN, commit, lattice, seen, utm_scene
from tests.exporting.vector_tiles import features
from tests.output.samples import ACROSS, CRS84, make_scene, random_detections
from tests.rasters import noise, write_tif

OBJECTS = lattice(ORIGIN, (44, 34), 20.0)
CLASSES = ("boat", "plane")


def fill(out: Path, *, crs: str = CRS84, names: str = "ab") -> Path:
    """An output with overlapping scenes of two zones and dates."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(names):
        scene = utm_scene(name, 31 + k % 2, when=DAY + dt.timedelta(days=k) if k < 2 else None)
        labels = rng.integers(0, 2, len(OBJECTS))
        commit(out, scene, seen(scene, OBJECTS, scores=rng.random(len(OBJECTS)), labels=labels), crs=crs)
    return out


def rows(out: Path) -> pd.DataFrame:
    """What geosod detect wrote, in the order of the ids."""
    frame = geopandas.GeoDataFrame(
        pd.concat([geopandas.read_parquet(path, partitioning=None) for path in sorted(out.glob("*/*/*.parquet"))]
                  or [geopandas.read_parquet(path) for path in sorted(out.glob("pixel/*.parquet"))])
    )  # fmt: skip
    return frame.sort_values("detection_id").reset_index(drop=True)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("outputs") / "out")


def same_values(found: pd.DataFrame, expected: pd.DataFrame, *, tolerance: float = 0.0) -> None:
    """All columns but the geometry equal to the last bit, geometries within a tolerance."""
    found = found.sort_values("detection_id").reset_index(drop=True)
    for name in expected.columns.drop(["geometry", "bbox", "datetime"], errors="ignore"):
        values, wanted = found[name].to_numpy(), expected[name].to_numpy()
        assert (values.astype(wanted.dtype) == wanted).all(), name
    times = pd.to_datetime(found["datetime"], utc=True, format="ISO8601")
    pd.testing.assert_series_equal(times, expected["datetime"], check_dtype=False)
    shapes, wanted = np.asarray(found.geometry), np.asarray(expected.geometry)
    far = shapely.hausdorff_distance(shapes, wanted)
    assert len(shapes) == len(wanted) and far.max() <= tolerance


@pytest.mark.parametrize(("suffix", "tolerance"), [("gpkg", 0), ("fgb", 0), ("geojson", 1e-7)])
def test_gdal_reads_what_was_detected(suffix, tolerance, out, tmp_path) -> None:
    result = export(out, out=tmp_path / f"x.{suffix}")
    expected = rows(out)
    layer = "detections" if suffix == "gpkg" else None
    assert result.rows == len(expected) == pyogrio.read_info(tmp_path / f"x.{suffix}", layer=layer)["features"]
    found = pyogrio.read_dataframe(tmp_path / f"x.{suffix}", layer=layer).rename(columns={"id": "detection_id"})
    assert found.crs.equals("EPSG:4326") and result.crs == "OGC:CRS84" and result.scenes == 2
    same_values(found, expected, tolerance=tolerance)


def test_the_geopackage_has_the_coverage_and_both_styles(out, tmp_path) -> None:
    export(out, out=tmp_path / "x.gpkg")
    found = pyogrio.read_dataframe(tmp_path / "x.gpkg", layer="coverage")
    expected = pd.concat([geopandas.read_parquet(path) for path in sorted(out.glob("coverage/*"))])
    assert found["area_km2"].tolist() == expected["area_km2"].tolist() and set(found["status"]) == {"inspected"}
    with sqlite3.connect(tmp_path / "x.gpkg") as file:
        styles = dict(file.execute("SELECT f_table_name, styleQML FROM layer_styles WHERE useAsDefault").fetchall())
        columns = file.execute("SELECT table_name, column_name FROM gpkg_geometry_columns").fetchall()
        named = file.execute("SELECT f_table_name, f_geometry_column FROM layer_styles").fetchall()
    assert set(styles) == {"detections", "coverage"} and sorted(columns) == sorted(named)
    assert styles["detections"] == (tmp_path / "x.qml").read_text()


def test_geojson_is_that_of_rfc_7946(out, tmp_path) -> None:
    export(out, out=tmp_path / "x.geojson")
    document = json.loads((tmp_path / "x.geojson").read_text())
    assert "crs" not in document and document["type"] == "FeatureCollection"
    assert len({feature["id"] for feature in document["features"]}) == len(document["features"])
    for feature in document["features"]:
        ring = np.array(feature["geometry"]["coordinates"][0])
        assert shapely.LinearRing(ring).is_ccw and (ring[0] == ring[-1]).all()


@pytest.mark.parametrize("suffix", ["gpkg", "fgb", "geojson", "parquet"])
def test_boxes_over_the_antimeridian_stay_split(suffix, tmp_path) -> None:
    scene = make_scene("pacific", crs="EPSG:4326", transform=ACROSS)
    commit(tmp_path / "o", scene, random_detections(0, 200))
    export(tmp_path / "o", out=tmp_path / f"x.{suffix}")
    expected = rows(tmp_path / "o").set_index("detection_id")
    read = geopandas.read_parquet if suffix == "parquet" else pyogrio.read_dataframe
    found = read(tmp_path / f"x.{suffix}").rename(columns={"id": "detection_id"}).set_index("detection_id")
    assert (expected.geom_type == "MultiPolygon").any() and (expected.geom_type == "Polygon").any()
    shapes = found.geometry.loc[expected.index]
    areas = expected.geometry.area
    shared = shapely.area(shapely.intersection(np.asarray(shapes), np.asarray(expected.geometry)))
    assert np.allclose(shared, areas, rtol=0.01) and np.allclose(shapes.area, areas, rtol=0.01)
    assert (np.abs(shapes.bounds.to_numpy()) <= 180).all()


def test_pmtiles_hold_every_box_at_the_last_zoom(out, tmp_path) -> None:
    """Read by the package pmtiles and by the tests' own reader of tiles, which share nothing with GDAL."""
    result = export(out, out=tmp_path / "x.pmtiles")
    expected = rows(out).set_index("detection_id")
    with (tmp_path / "x.pmtiles").open("rb") as file:
        source = MmapSource(file)
        header = Reader(source).header()
        tiles = [(place, gzip.decompress(data)) for place, data in all_tiles(source) if place[0] == header["max_zoom"]]
    west, south, east, north = expected.total_bounds
    assert (header["min_lon_e7"] / 1e7, header["min_lat_e7"] / 1e7) <= (west + 1e-6, south + 1e-6)
    assert (header["max_lon_e7"] / 1e7, header["max_lat_e7"] / 1e7) >= (east - 1e-6, north - 1e-6)
    found: dict[str, Any] = {}
    for (zoom, x, y), data in tiles:
        circle = 40_075_016.685578488
        side = circle / 2**zoom
        left, top = x * side - circle / 2, circle / 2 - y * side
        for properties, polygon in features(data, "detections"):
            scale = lambda xy, left=left, top=top, side=side: (left, top) + xy * (1, -1) * side / 4096  # noqa: E731
            known = found.setdefault(properties["detection_id"], (properties, []))
            known[1].append(shapely.transform(polygon, scale))
    assert found.keys() == set(expected.index) and result.rows == len(expected)
    mercator = expected.geometry.to_crs("EPSG:3857")
    for name, (properties, shapes) in found.items():
        whole = shapely.union_all(shapes)
        assert whole.envelope.hausdorff_distance(mercator[name].envelope) < 0.5
        assert properties["label"] == expected["label"][name]
        assert properties["score"] == pytest.approx(expected["score"][name], abs=1e-6)


def test_csv_is_read_by_duckdb_and_gdal(out, tmp_path) -> None:
    export(out, out=tmp_path / "x.csv")
    found = duckdb.sql(f"SELECT * FROM read_csv('{tmp_path}/x.csv')").df()
    shapes = geopandas.GeoSeries.from_wkt(found["WKT"])
    same_values(geopandas.GeoDataFrame(found, geometry=shapes), rows(out))
    assert len(pyogrio.read_dataframe(tmp_path / "x.csv")) == len(found)


def test_geoparquet_1_1_is_one_valid_file(out, tmp_path) -> None:
    export(out, out=tmp_path / "x.parquet")
    assert gpv.failed(gpv.check(str(tmp_path / "x.parquet"))) == []
    same_values(geopandas.read_parquet(tmp_path / "x.parquet"), rows(out))
    own = read_metadata(tmp_path / "x.parquet")
    assert own is not None and own["classes"] == list(CLASSES) and set(own["scenes"]) == {"a", "b"}


@pytest.mark.parametrize("crs", [CRS84, "EPSG:32631"])
def test_geoparquet_2_has_native_geometries_with_statistics(crs, out, tmp_path) -> None:
    export(out, out=tmp_path / "x.parquet", geoparquet="2.0", crs=crs)
    expected = rows(out).to_crs(crs)
    same_values(geopandas.read_parquet(tmp_path / "x.parquet"), expected, tolerance=1e-6)
    footer = pq.read_metadata(tmp_path / "x.parquet")
    names = footer.schema.to_arrow_schema().names
    statistics = footer.row_group(0).column(names.index("geometry")).geo_statistics
    bounds = (statistics.xmin, statistics.ymin, statistics.xmax, statistics.ymax)
    assert np.allclose(bounds, expected.total_bounds, atol=1e-6) and statistics.geospatial_types == [3]
    geo = read_metadata(tmp_path / "x.parquet", key="geo")
    assert geo is not None and geo["version"] == "2.0.0" and "covering" not in geo["columns"]["geometry"]
    ((kind,),) = duckdb.sql(f"SELECT typeof(geometry) FROM '{tmp_path}/x.parquet' LIMIT 1").fetchall()
    assert kind.startswith("GEOMETRY") and "bbox" not in names


def test_pycocotools_reads_boxes_scores_and_images(out, tmp_path) -> None:
    result = export(out, out=tmp_path / "x.json")
    coco, expected = COCO(str(tmp_path / "x.json")), rows(out)
    found = pd.DataFrame(coco.loadAnns(coco.getAnnIds())).sort_values("detection_id")
    assert result.rows == len(found) == len(expected) and found["id"].is_unique
    boxes = np.array(found["bbox"].tolist())
    assert np.allclose(boxes[:, :2], expected[["px_xmin", "px_ymin"]], atol=0)
    assert np.allclose(boxes[:, :2] + boxes[:, 2:], expected[["px_xmax", "px_ymax"]])
    assert (found["score"].to_numpy(np.float32) == expected["score"].to_numpy()).all()
    names = {entry["id"]: entry["name"] for entry in coco.loadCats(coco.getCatIds())}
    assert [names[k] for k in found["category_id"]] == expected["label"].tolist()
    images = {entry["id"]: entry["file_name"] for entry in coco.loadImgs(coco.getImgIds())}
    assert [images[k] for k in found["image_id"]] == [f"/{name}.tif" for name in expected["scene_id"]]
    # As results for an evaluation of them.
    assert len(coco.loadRes(coco.dataset["annotations"]).getAnnIds()) == len(found)


@pytest.fixture(scope="module")
def searched(rgb_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes without georeference that a model has searched."""
    folder = tmp_path_factory.mktemp("searched")
    for k in range(2):
        write_tif(folder / f"s{k}.tif", noise(3, 200, 300, seed=k), block=64, crs=None, transform=None)
    geosod.detect([folder / "s0.tif", folder / "s1.tif"], model=rgb_bundle, out=folder / "out", engine="serial")
    return folder


def test_yolo_is_read_back_as_labels(searched, tmp_path) -> None:
    result = export(searched / "out", out=tmp_path / "yolo", format="yolo", threshold=0.5)
    expected = rows(searched / "out")
    expected = expected[expected["score"] >= 0.5]
    labels = read_labels(tmp_path / "yolo").labels
    found = pd.DataFrame(labels.boxes).sort_values([0, 1, 2, 3]).to_numpy()
    wanted = expected[["px_xmin", "px_ymin", "px_xmax", "px_ymax"]]
    assert result.rows == len(labels) > 10 and not result.notes
    assert np.allclose(found, wanted.sort_values(wanted.columns.tolist()), atol=1e-6)
    assert sorted(image.id for image in labels.images) == ["s0", "s1"]


def test_pixel_scenes_have_no_place_on_a_map(searched, out, tmp_path) -> None:
    with pytest.raises(ConfigError, match="has no georeference; export it to coco"):
        export(searched / "out", out=tmp_path / "x.geojson")
    with pytest.raises(OutputError, match=r"GeoParquet 2\.0 cannot hold pixels"):
        export(searched / "out", out=tmp_path / "x.parquet", geoparquet="2.0")
    assert not any(tmp_path.iterdir())
    result = export(searched / "out", out=tmp_path / "x.gpkg")
    assert result.crs is None and result.rows == len(rows(searched / "out"))
    both = export([searched / "out", out], out=tmp_path / "both.fgb")
    assert both.scenes == 2 and "2 of 4 scenes have no georeference" in both.notes[0]
    assert export([searched / "out", out], out=tmp_path / "both.json").scenes == 4


def test_outputs_of_two_crs_become_one(tmp_path) -> None:
    fill(tmp_path / "x", crs="EPSG:32631", names="a")
    fill(tmp_path / "y", names="b")
    result = export([tmp_path / "x", tmp_path / "y"], out=tmp_path / "x.fgb", crs="EPSG:3857")
    found = pyogrio.read_dataframe(tmp_path / "x.fgb")
    assert found.crs.to_epsg() == 3857 and len(found) == result.rows and result.crs == "EPSG:3857"
    export([tmp_path / "x", tmp_path / "y"], out=tmp_path / "x.geojson")
    for frame in (found.to_crs("EPSG:4326"), pyogrio.read_dataframe(tmp_path / "x.geojson")):
        # Centres of parallelograms are close to the centres on the ground.
        x, y = shapely.get_coordinates(shapely.centroid(np.asarray(frame.geometry))).T
        assert np.abs(x - frame["lon"]).max() < 1e-6 and np.abs(y - frame["lat"]).max() < 1e-6


def test_a_deduplicated_output_is_exported_with_its_columns(out, tmp_path) -> None:
    geosod.deduplicate(out, out=tmp_path / "new")
    export(tmp_path / "new", out=tmp_path / "x.gpkg")
    found = pyogrio.read_dataframe(tmp_path / "x.gpkg", layer="detections").set_index("detection_id")
    expected = rows(tmp_path / "new").set_index("detection_id")
    assert (found["n_scenes"].loc[expected.index] == expected["n_scenes"]).all()
    joined = found["merged_ids"].loc[expected.index].fillna("")
    assert joined.tolist() == [",".join(ids) for ids in expected["merged_ids"]] and joined.str.len().max() > 0
    # Columns that only some outputs have are null for the others.
    scene = utm_scene("c", shift=(5000.0, 0.0))
    commit(tmp_path / "o", scene, random_detections(0, 10))
    export([tmp_path / "new", tmp_path / "o"], out=tmp_path / "y.parquet")
    both = geopandas.read_parquet(tmp_path / "y.parquet")
    assert both["n_scenes"].isna().sum() == 10 and both["n_scenes"].sum() == expected["n_scenes"].sum()


@pytest.mark.parametrize("suffix", ["gpkg", "fgb", "geojson", "pmtiles", "csv", "parquet", "json"])
def test_nothing_found_is_an_empty_file(suffix, tmp_path) -> None:
    commit(tmp_path / "o", utm_scene("a"), Detections.empty())
    result = export(tmp_path / "o", out=tmp_path / f"x.{suffix}")
    assert result.rows == 0
    if suffix == "json":
        assert COCO(str(tmp_path / "x.json")).getAnnIds() == []
    elif suffix == "csv":
        assert len(pd.read_csv(tmp_path / "x.csv").columns) == 19
    else:
        read = geopandas.read_parquet if suffix == "parquet" else pyogrio.read_dataframe
        assert len(read(tmp_path / f"x.{suffix}")) == 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(threshold=st.floats(0, 1), classes=st.lists(st.sampled_from(CLASSES), min_size=1, unique=True))
def test_the_selection_is_that_of_pandas(threshold, classes, out, tmp_path) -> None:
    result = export(out, out=tmp_path / "x.fgb", threshold=threshold, classes=classes, overwrite=True)
    frame = rows(out)
    expected = frame[(frame["score"] >= np.float32(threshold)) & frame["label"].isin(classes)]
    found = pyogrio.read_dataframe(tmp_path / "x.fgb")
    assert result.rows == len(found) and set(found["detection_id"]) == set(expected["detection_id"])


def test_the_style_has_every_class(out, tmp_path) -> None:
    export(out, out=tmp_path / "x.fgb")
    root = ET.fromstring((tmp_path / "x.qml").read_text().partition("\n")[2])
    renderer = root.find("renderer-v2")
    assert renderer is not None and renderer.get("attr") == "label"
    assert [c.get("value") for c in renderer.iter("category")] == list(CLASSES)
    symbols = {s.get("name") for s in renderer.iter("symbol")}
    assert {c.get("symbol") for c in renderer.iter("category")} == symbols
    colours = [o.get("value") for o in renderer.iter("Option") if o.get("name") == "outline_color"]
    assert len(set(colours)) == len(colours) == 2


def test_nothing_is_replaced_unasked_and_nothing_left_half(out, tmp_path) -> None:
    (tmp_path / "x.gpkg").write_text("mine")
    with pytest.raises(OutputError, match="exists; use --overwrite"):
        export(out, out=tmp_path / "x.gpkg")
    assert (tmp_path / "x.gpkg").read_text() == "mine"
    export(out, out=tmp_path / "x.gpkg", overwrite=True)
    assert not export(out, out=tmp_path / "x.csv").notes  # the same style
    (tmp_path / "x.csv").unlink()
    (tmp_path / "x.qml").write_text("my style")
    assert "x.qml was there already" in export(out, out=tmp_path / "x.fgb").notes[0]
    assert (tmp_path / "x.qml").read_text() == "my style"
    (tmp_path / "x.fgb").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.gpkg", "x.qml"]
    with pytest.raises(OutputError, match="is, or holds, what is exported"):
        export(out, out=next(out.glob("*/*/*.parquet")), overwrite=True)
    with pytest.raises(OutputError, match="is, or holds, what is exported"):
        export(out, out=out, format="yolo", overwrite=True)


def test_a_broken_scene_is_left_out_and_reported(tmp_path) -> None:
    fill(tmp_path / "o")
    path = next(tmp_path.glob("o/*/*/b.parquet"))
    content = path.read_bytes()
    path.write_bytes(bytes(len(content) // 2) + content[len(content) // 2 :])
    result = export(tmp_path / "o", out=tmp_path / "x.gpkg")
    assert result.exit_code == 3 and result.skipped[0].scene_id == "b" and result.scenes == 1
    found = pyogrio.read_dataframe(tmp_path / "x.gpkg", layer="detections")
    assert set(found["scene_id"]) == {"a"} and len(found) == result.rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out": "x.shp"}, "suffix '.shp' names no format"),
        ({"out": "x.gpkg", "format": "shp"}, "format 'shp' is not known"),
        ({"out": "x.gpkg", "geoparquet": "2.0"}, "geoparquet 2.0 is not for gpkg"),
        ({"out": "x.parquet", "geoparquet": "3"}, "geoparquet '3' is not known"),
        ({"out": "x.geojson", "crs": "EPSG:3857"}, "geojson has longitude and latitude"),
        ({"out": "x.json", "crs": "EPSG:3857"}, "coco has pixels"),
        ({"out": "x.gpkg", "classes": ["ship"]}, "class 'ship' is not in the outputs; they have boat, plane"),
        ({"out": "x.gpkg", "threshold": 2}, "threshold 2 is not a score"),
        ({"out": "x.gpkg", "images": "link"}, "image-files is for YOLO"),
        ({"out": "x.gpkg", "crs": "EPSG:0"}, "not known to PROJ"),
        ({"out": "ftp://x/x.gpkg"}, "outputs cannot be written there"),
    ],
)
def test_what_cannot_be_done_is_refused_first(arguments: dict[str, Any], message, out, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, OutputError), match=message):
        export(out, **arguments)
    assert not any(tmp_path.iterdir())


def test_the_command_line(out, tmp_path) -> None:
    line = ["export", str(out), "-o", str(tmp_path / "x.gpkg"), "--threshold", "0.5", "--classes", "boat", "--json"]
    done = CliRunner().invoke(app, line)
    values = json.loads(done.stdout)
    assert done.exit_code == 0 and values["rows"] == pyogrio.read_info(tmp_path / "x.gpkg", layer=0)["features"]
    refused = CliRunner().invoke(app, line)
    assert refused.exit_code == 2 and "exists; use --overwrite" in refused.stderr
