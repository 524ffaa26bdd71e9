"""Outputs of overlapping scenes, deduplicated: each object once, and no object lost."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import duckdb
import geopandas
import geoparquet_validator as gpv
import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import shapely
from affine import Affine
from pyproj import CRS

from geosod import deduplicate
from geosod.detections import Detections
from geosod.output.failures import failures_of
from geosod.output.folder import parse_item
from geosod.output.geoparquet import read_metadata
from geosod.results import Failure
from geosod.scene import Window
from tests.deduplication.outputs import DAY, ORIGIN, commit, lattice, rows_of, seen, utm_scene
from tests.output.samples import CRS84, make_scene, random_detections

LATER = DAY + dt.timedelta(days=40)
OBJECTS = lattice(ORIGIN, (44, 34), 20.0)


def every(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def harbour(tmp_path: Path) -> list[Path]:
    """Scenes of two zones and two dates, one of them rotated: objects 20 m apart, each visible in one to three."""
    rng = np.random.default_rng(0)
    for out, name, zone, shift, rotation, when in (
        ("may", "a", 31, (0.0, 0.0), 0.0, DAY),
        ("may", "b", 32, (250.0, -50.0), 0.0, DAY),
        ("june", "c", 31, (100.0, 100.0), -20.0, LATER),
    ):
        scene = utm_scene(name, zone, shift=shift, rotation=rotation, when=when)
        lost = [Failure(name, f"/{name}.tif", Window(0, 0, 8, 8), "read", "ReadError", "worn")] if name == "c" else []
        commit(tmp_path / out, scene, seen(scene, OBJECTS, scores=rng.random(len(OBJECTS))), failures=lost)
    return [tmp_path / "may", tmp_path / "june"]


def nearest(frame: geopandas.GeoDataFrame, objects: np.ndarray, crs: str = "EPSG:32631") -> np.ndarray:
    """The object next to the middle of each whole box."""
    whole = frame[~frame["truncated"]]
    centre = shapely.centroid(whole.to_crs(crs).geometry.to_numpy())
    return np.asarray(shapely.STRtree(shapely.points(objects)).nearest(centre))


def test_every_object_occurs_once(harbour, tmp_path) -> None:
    before = [every(output) for output in harbour]
    result = deduplicate(harbour, out=tmp_path / "new")
    assert [every(output) for output in harbour] == before
    old, new = geopandas.pd.concat([rows_of(output) for output in harbour]), rows_of(tmp_path / "new")
    assert len(old) == result.rows_in == len(new) + result.merged and result.exit_code == 0
    objects = nearest(new, OBJECTS)
    assert len(set(objects)) == len(objects) and set(objects) == set(nearest(old, OBJECTS))
    # Truncated boxes remain only where no scene shows the whole object.
    middles = new.to_crs("EPSG:32631").geometry.centroid
    gap = middles[new["truncated"]].apply(lambda point: middles[~new["truncated"]].distance(point).min())
    assert new["truncated"].sum() < old["truncated"].sum() and gap.min() > 5
    assert new["n_merged"].sum() == old["n_merged"].sum() and new["n_scenes"].sum() == len(old)
    assert set(new["n_scenes"]) == {1, 2, 3}


def test_kept_rows_are_unchanged(harbour, tmp_path) -> None:
    deduplicate(harbour, out=tmp_path / "new")
    for output in harbour:
        for path in output.glob("detections/*/*.parquet"):
            old = pq.read_table(path, partitioning=None)
            new = pq.read_table(tmp_path / "new" / path.relative_to(output), partitioning=None)
            assert new.schema.names == [*old.schema.names, "merged_ids", "n_scenes"]
            ids = set(new["detection_id"].to_pylist())
            unchanged = [row for row in old.to_pylist() if row["detection_id"] in ids]
            added = {"n_merged", "merged_ids", "n_scenes"}
            assert [{k: v for k, v in row.items() if k not in added} for row in new.to_pylist()] == [
                {k: v for k, v in row.items() if k not in added} for row in unchanged
            ]
            gone = pq.read_table(tmp_path / "new" / "duplicates.parquet").to_pylist()
            lost = {row["detection_id"]: row for row in old.to_pylist() if row["detection_id"] not in ids}
            recorded = {r["detection_id"]: r for r in gone if r["scene_id"] == path.stem}
            assert {k: {n: v for n, v in r.items() if n != "kept_id"} for k, r in recorded.items()} == lost


def test_the_folder_is_an_output(harbour, tmp_path) -> None:
    new = tmp_path / "new"
    result = deduplicate(harbour, out=new)
    for path in new.rglob("*.parquet"):
        if path.name != "failures.parquet":
            assert gpv.failed(gpv.check(str(path))) == [], path
    assert len(geopandas.read_parquet(new / "duplicates.parquet")) == result.merged
    assert rows_of(new).crs == CRS84
    assert ds.dataset(new / "detections", partitioning="hive").count_rows() == result.rows_out
    query = f"select count(*), count(distinct detection_id) from '{new}/detections/*/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(result.rows_out, result.rows_out)]
    days = {p.parent.name for p in new.glob("detections/*/*.parquet")}
    assert days == {"acq_date=2024-05-01", "acq_date=2024-06-10"}
    assert [f.message for f in failures_of(new / "failures.parquet")] == ["worn"]
    for output, name in (("may", "a"), ("june", "c")):
        coverage = Path("coverage") / f"{name}.parquet"
        assert (new / coverage).read_bytes() == (tmp_path / output / coverage).read_bytes()
    item = parse_item((new / "items" / "b.json").read_bytes())
    assert item is not None
    assert all((new / "items" / asset["href"]).is_file() for asset in item["assets"].values())
    origin = [link["href"] for link in item["links"] if link["rel"] == "derived_from"]
    assert origin == ["/b.tif", "../../may/items/b.json"] and (new / "items" / origin[1]).is_file()
    [path] = new.glob("detections/*/b.parquet")
    properties, metadata = item["properties"], read_metadata(path)
    assert metadata is not None and metadata["model"] == "boats"
    assert properties["geosod:detections"] == pq.read_metadata(path).num_rows
    assert properties["geosod:deduplication"] == metadata["deduplication"]
    assert metadata["deduplication"]["scenes"] == ["a", "c"] and metadata["deduplication"]["metric"] == "iou"


@pytest.mark.parametrize("prefer", ["score", "newest"])
def test_which_box_is_kept(tmp_path, prefer) -> None:
    box = [[100, 100, 130, 120]]
    for name, score, when, truncated in (
        ("old", 0.8, DAY, False), ("new", 0.5, LATER, False), ("undated", 0.6, None, False),
        ("edge", 0.9, LATER, True),
    ):  # fmt: skip
        d = Detections(boxes=box, scores=[score], labels=[0], truncated=[truncated])
        commit(tmp_path / name, utm_scene(name, when=when), d)
    deduplicate([tmp_path / n for n in ("edge", "undated", "new", "old")], out=tmp_path / "x", prefer=prefer)
    [row] = rows_of(tmp_path / "x").to_dict("records")
    assert row["scene_id"] == {"score": "old", "newest": "new"}[prefer]
    assert row["n_scenes"] == 4 and len(row["merged_ids"]) == 3
    order = {"score": ["undated", "edge"], "newest": ["old", "undated"]}[prefer]
    deduplicate([tmp_path / n for n in order], out=tmp_path / "y", prefer=prefer)
    assert rows_of(tmp_path / "y")["scene_id"].tolist() == order[:1]


def test_a_neighbour_is_not_merged_too(tmp_path) -> None:
    """A box that matches two of one scene suppresses the one it overlaps best."""
    one = Detections(boxes=[[100, 100, 140, 120]], scores=[0.9], labels=[0])
    two = Detections(boxes=[[85, 100, 125, 120], [110, 100, 150, 120]], scores=[0.8, 0.3], labels=[0, 0])
    commit(tmp_path / "a", utm_scene("a"), one)
    ids = commit(tmp_path / "b", utm_scene("b"), two)
    result = deduplicate([tmp_path / "a", tmp_path / "b"], out=tmp_path / "new", threshold=0.3)
    assert result.merged == 1
    gone = pq.read_table(tmp_path / "new" / "duplicates.parquet")["detection_id"].to_pylist()
    assert gone == [r["detection_id"] for r in ids.to_pylist() if r["px_xmin"] == 110]


def test_classes_agree_by_name(tmp_path) -> None:
    box = Detections(boxes=[[100, 100, 140, 120]], scores=[0.9], labels=[0])
    commit(tmp_path / "a", utm_scene("a"), box, classes=("boat", "plane"))
    commit(tmp_path / "b", utm_scene("b"), box, classes=("plane", "boat"))
    commit(tmp_path / "c", utm_scene("c"), box.with_columns(labels=[1]), classes=("plane", "boat"))
    outs = [tmp_path / n for n in "abc"]
    assert deduplicate(outs, out=tmp_path / "n1").merged == 1
    assert deduplicate(outs, out=tmp_path / "n2", class_agnostic=True).merged == 2


def test_scenes_of_one_output_are_merged_and_single_files_too(harbour, tmp_path) -> None:
    both = deduplicate(harbour[:1], out=tmp_path / "both")
    assert both.merged > 100
    rng = np.random.default_rng(0)
    for name, zone, shift in (("a", 31, (0.0, 0.0)), ("b", 32, (250.0, -50.0))):
        scene = utm_scene(name, zone, shift=shift)
        commit(tmp_path / f"{name}.parquet", scene, seen(scene, OBJECTS, scores=rng.random(len(OBJECTS))))
    files = deduplicate([tmp_path / "b.parquet", tmp_path / "a.parquet"], out=tmp_path / "files")
    assert (files.rows_in, files.merged) == (both.rows_in, both.merged)
    for name in ("coverage/a.parquet", "detections/acq_date=2024-05-01/a.parquet"):
        assert (tmp_path / "files" / name).read_bytes() == (tmp_path / "both" / name).read_bytes()
    item = parse_item((tmp_path / "files" / "items" / "a.json").read_bytes())
    assert item is not None and item["assets"]["coverage"]["href"] == "../coverage/a.parquet"


def test_scenes_without_georeference_are_copied(harbour, tmp_path) -> None:
    photo = make_scene("photo", crs=None, transform=None)
    commit(harbour[0], photo, random_detections(1, 50))
    twin = make_scene("twin", crs=None, transform=None)
    commit(harbour[1], twin, random_detections(1, 50))
    result = deduplicate(harbour, out=tmp_path / "new")
    assert result.pixel_scenes == 2
    for name in ("photo", "twin"):
        new = geopandas.read_parquet(tmp_path / "new" / "pixel" / f"{name}.parquet")
        assert len(new) == 50 and new.crs is None and set(new["n_scenes"]) == {1}
        assert gpv.failed(gpv.check(str(tmp_path / "new" / "pixel" / f"{name}.parquet"))) == []
    alone = deduplicate(harbour[1:], out=tmp_path / "alone")
    assert (alone.merged, alone.pixel_scenes) == (0, 1) and not (tmp_path / "alone" / "duplicates.parquet").exists()


@pytest.mark.parametrize(("crs", "wanted"), [(None, CRS84), ("EPSG:3857", "EPSG:3857"), ("EPSG:32632", "EPSG:32632")])
def test_outputs_in_several_crss(tmp_path, crs, wanted) -> None:
    rng, counts = np.random.default_rng(0), []
    for kinds, out in (((CRS84, CRS84), "same"), (("EPSG:32631", CRS84), "mixed")):
        outputs = []
        for name, zone, shift, kind in (("a", 31, (0.0, 0.0), kinds[0]), ("b", 32, (250.0, -50.0), kinds[1])):
            scene = utm_scene(name, zone, shift=shift)
            d = seen(scene, OBJECTS, scores=rng.permutation(len(OBJECTS)) / len(OBJECTS))
            commit(tmp_path / f"{out}-{name}", scene, d, crs=kind)
            outputs.append(tmp_path / f"{out}-{name}")
        result = deduplicate(outputs, out=tmp_path / out, crs=crs)
        counts.append((result.rows_in, result.merged))
        frame = rows_of(tmp_path / out)
        assert frame.crs == CRS.from_user_input(wanted) and result.crs == wanted
        # The columns lon and lat are the same in every CRS.
        middle = shapely.centroid(frame.to_crs(CRS84).geometry.to_numpy())
        assert np.allclose(
            np.stack([frame["lon"], frame["lat"]]), [shapely.get_x(middle), shapely.get_y(middle)], atol=1e-6
        )
        for path in (tmp_path / out).rglob("*.parquet"):
            assert gpv.failed(gpv.check(str(path))) == [], path
        covered = geopandas.read_parquet(tmp_path / out / "coverage" / "a.parquet").to_crs("EPSG:32631")
        assert covered.area.sum() == pytest.approx(500 * 400, rel=1e-3)
        objects = nearest(frame, OBJECTS)
        assert len(set(objects)) == len(objects)
        item = parse_item((tmp_path / out / "items" / "a.json").read_bytes())
        assert item is not None and item["assets"]["detections"]["geosod:crs"] == wanted
    assert counts[0] == counts[1]


@pytest.mark.parametrize("crs", [CRS84, "EPSG:3857", "EPSG:32660"])
def test_duplicates_on_both_sides_of_the_antimeridian(tmp_path, crs) -> None:
    """Objects at the line: boxes of one scene extend slightly across it, those of the next do not."""
    objects = lattice((833_773.5, 100.0), (20, 10), 20.0)
    rng, names = np.random.default_rng(2), ("EPSG:32660", "EPSG:32601", "EPSG:4326")
    places = (
        Affine(0.5, 0, 833_700, 0, -0.5, 200),
        Affine.translation(165_780, 210) @ Affine.rotation(4) @ Affine.scale(0.5, -0.5),
        Affine(4.5e-6, 0, 179.9978, 0, -4.5e-6, 0.0018),
    )
    for k, (name, place) in enumerate(zip(names, places, strict=True)):
        scene = make_scene(f"s{k}", crs=name, transform=place, size=(1100, 800), when=DAY, uri=f"/{k}.tif")
        d = seen(scene, objects, scores=rng.random(len(objects)), crs="EPSG:32660")
        error = rng.uniform(-2, 2, (len(d), 2))
        commit(tmp_path / f"o{k}", scene, d.with_columns(boxes=d.boxes + np.hstack([error, error])))
    outputs = sorted(tmp_path.glob("o?"))
    old = geopandas.pd.concat([rows_of(output) for output in outputs])
    split = shapely.get_type_id(old.geometry.to_numpy()) == shapely.GeometryType.MULTIPOLYGON
    assert 3 < split.sum() < 27
    result = deduplicate(outputs, out=tmp_path / "new", crs=crs)
    new = rows_of(tmp_path / "new")
    assert result.rows_in > 500 and result.rows_out == 200 and set(new["n_scenes"]) <= {2, 3}
    centres = geopandas.points_from_xy(new["lon"], new["lat"])
    places = geopandas.GeoDataFrame({"truncated": new["truncated"].to_numpy()}, geometry=centres, crs=CRS84)
    assert len(set(nearest(places, objects, "EPSG:32660"))) == 200
    if crs == "EPSG:32660":
        assert set(shapely.get_type_id(new.geometry.to_numpy())) == {shapely.GeometryType.POLYGON}
        assert new.geometry.area.max() < 110


def test_duplicates_around_the_pole(tmp_path) -> None:
    objects = lattice((-150.0, 150.0), (16, 16), 20.0)
    assert (objects == (-10, 10)).all(axis=1).any()
    rng = np.random.default_rng(3)
    objects = np.concatenate([objects, [(0.0, 0.0)]])
    for k, rotation in enumerate((0.0, 33.0, 140.0)):
        place = Affine.rotation(rotation) @ Affine.translation(-230, 230) @ Affine.scale(0.5, -0.5)
        scene = make_scene(f"s{k}", crs="EPSG:3413", transform=place, size=(920, 920), when=DAY, uri=f"/{k}.tif")
        commit(tmp_path / f"o{k}", scene, seen(scene, objects, scores=rng.random(len(objects)), crs="EPSG:3413"))
    result = deduplicate(sorted(tmp_path.glob("o?")), out=tmp_path / "new")
    assert result.rows_in == 3 * len(objects)
    assert result.rows_out == len(objects)
    assert set(rows_of(tmp_path / "new")["n_scenes"]) == {3}


def test_files_do_not_depend_on_the_run(harbour, tmp_path) -> None:
    """The same parquet files for any order of outputs; items differ only in their time."""
    deduplicate(harbour, out=tmp_path / "one")
    deduplicate(harbour[::-1], out=tmp_path / "two", rows=100)
    one, two = every(tmp_path / "one"), every(tmp_path / "two")
    assert {k: v for k, v in one.items() if k.endswith(".parquet")} == {
        k: v for k, v in two.items() if k.endswith(".parquet")
    }
    times = [json.loads(files["items/a.json"]) for files in (one, two)]
    for item in times:
        assert item["properties"].pop("updated").endswith("Z")
    assert times[0] == times[1]
