"""Vector tiles, read by GDAL and by the package pmtiles, which share nothing with their writer but directories."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pyogrio
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pmtiles.reader import MmapSource, Reader, all_tiles
from pmtiles.tile import zxy_to_tileid

from geosod.detections import Detections
from geosod.exporting.formats import FORMATS
from geosod.exporting.layers import write_table
from geosod.exporting.run import export
from geosod.exporting.tiles import archive, sorting
from geosod.exporting.tiles.archive import Archive, tile_ids
from geosod.exporting.tiles.sorting import Sorter
from geosod.output.geoparquet import geometry_columns
from tests.deduplication.outputs import commit, utm_scene
from tests.exporting.vector_tiles import features
from tests.output.samples import make_scene

CIRCLE = 40_075_016.685578488
#: The sides of a cell of which coarse levels keep one box, in 512 pixels of a tile, and of the smallest box there.
CELL, SMALLEST = 8, 2


def level(path: Path, zoom: int) -> geopandas.GeoDataFrame:
    """What GDAL reads of a zoom level, in EPSG:3857."""
    return pyogrio.read_dataframe(path, ZOOM_LEVEL=str(zoom))


def tiles(path: Path) -> dict[tuple[int, int, int], bytes]:
    with path.open("rb") as file:
        return {place: gzip.decompress(data) for place, data in all_tiles(MmapSource(file))}


def table_of(shapes: Any, crs: str, **columns: Any) -> pa.Table:
    geometry, bbox = geometry_columns(np.asarray(geopandas.GeoSeries(shapes), object))
    rows = {"name": [f"n{i}" for i in range(len(shapes))], "score": np.ones(len(shapes), np.float32), **columns}
    return pa.table({**rows, "geometry": geometry, "bbox": bbox})


def write(shapes: Any, path: Path, crs: str = "OGC:CRS84", **columns: Any) -> None:
    table = table_of(shapes, crs, **columns)
    write_table(iter([table]), table.schema, path, FORMATS["pmtiles"], crs=crs, types={"Polygon"}, metadata={})


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """Tiles of 5,000 boxes of 1 to 4 m, some of them close together, and their rows."""
    folder, rng, n = tmp_path_factory.mktemp("crowd"), np.random.default_rng(0), 5_000
    centres = np.where(rng.random((n, 1)) < 0.5, rng.uniform(20, 2480, (n, 2)), rng.normal(1200, 50, (n, 2)))
    half = rng.uniform(1, 4, (n, 2))
    found = Detections(
        boxes=np.hstack([centres - half, centres + half]),
        scores=rng.random(n, np.float32),
        labels=rng.integers(0, 2, n),
    )
    table = commit(folder / "o", utm_scene("a", size=(2500, 2500), rotation=20.0), found)
    export(folder / "o", out=folder / "x.pmtiles")
    return folder / "x.pmtiles", table.to_pandas()


def test_coarse_levels_hold_the_best_box_of_every_cell(crowd) -> None:
    """Every box is in a cell whose best box is there, whose `count` says how many boxes it represents."""
    path, rows = crowd
    shapes = geopandas.GeoSeries.from_wkb(rows["geometry"], crs="EPSG:4326").to_crs("EPSG:3857")
    middle = (shapes.bounds[["minx", "miny"]].to_numpy() + shapes.bounds[["maxx", "maxy"]].to_numpy()) / 2
    finer = set(rows["detection_id"])
    for zoom in range(15, -1, -1):
        found = level(path, zoom).drop_duplicates("detection_id").set_index("detection_id")
        cell = np.floor((middle * (1, -1) + CIRCLE / 2) / (CIRCLE / 2**zoom / 512 * CELL)).astype(int)
        best = rows.assign(x=cell[:, 0], y=cell[:, 1]).sort_values("score").groupby(["x", "y"])
        wanted = best.agg(detection_id=("detection_id", "last"), count=("score", "size")).set_index("detection_id")
        # Centres are rounded to 15 cm before cells are chosen.
        assert len(found.index.symmetric_difference(wanted.index)) <= 0.02 * len(wanted)
        both = found.index.intersection(wanted.index)
        assert found["count"].sum() == len(rows)
        assert np.abs(found["count"][both] - wanted["count"][both]).sum() < 0.01 * len(rows)
        assert finer >= set(found.index), "what is on a level is on all finer ones"
        finer = set(found.index)


def test_coarse_levels_are_small_and_can_be_seen(crowd) -> None:
    path, rows = crowd
    for (zoom, _, _), data in tiles(path).items():
        found = list(features(data, "detections"))
        sides = np.array([np.ptp(np.array(shape.exterior.coords), axis=0) for _, shape in found]) / 8
        if zoom < 16:
            # Besides its own cells a tile shows those around it.
            assert len(found) <= (512 / CELL + 2 * CELL) ** 2
            assert (sides.max(axis=1) >= SMALLEST).all()
            assert all("px_xmin" not in properties for properties, _ in found)
        else:
            assert all("count" not in properties for properties, _ in found)
            assert sides.min() > 0
    assert len(level(path, 16)["detection_id"].unique()) == len(rows)


def test_large_polygons_are_cut_at_tiles(tmp_path) -> None:
    """A lake of 3 km, and a box that is no wider than half a tile, which is whole in each of its tiles."""
    lake = shapely.affinity.rotate(shapely.box(1e6, 6e6, 1.003e6, 6.0015e6), 30)
    shapes = geopandas.GeoSeries([lake, shapely.box(1.01e6, 6e6, 1.0101e6, 6.0002e6)], crs="EPSG:3857")
    write(shapes.to_crs("EPSG:4326"), tmp_path / "x.pmtiles")
    for zoom, tolerance in ((16, 0.3), (13, 2.5)):
        found = level(tmp_path / "x.pmtiles", zoom)
        for name, shape in zip(("n0", "n1"), shapes, strict=True):
            whole = shapely.union_all(found.geometry[found["name"] == name].to_numpy())
            assert whole.symmetric_difference(shape).area < tolerance * shape.length
    corners = [
        shapely.get_coordinates(shape) for (zoom, _, _), data in tiles(tmp_path / "x.pmtiles").items()
        for _, shape in features(data, "detections") if zoom > 12
    ]  # fmt: skip
    # Map libraries double these, and hold them as 16-bit numbers.
    assert len(corners) > 30 and np.abs(np.concatenate(corners) - 2048).max() < 6144


def test_other_crs_antimeridian_poles_and_holes(tmp_path) -> None:
    whole = shapely.box(500_000, 5_000_000, 500_100, 5_000_100)
    write(geopandas.GeoSeries([whole]), tmp_path / "utm.pmtiles", "EPSG:32631")
    expected = geopandas.GeoSeries([whole], crs="EPSG:32631").to_crs("EPSG:3857")[0]
    assert level(tmp_path / "utm.pmtiles", 16).geometry.union_all().hausdorff_distance(expected) < 0.3
    across = shapely.MultiPolygon([shapely.box(179.999, 1, 180, 1.001), shapely.box(-180, 1, -179.999, 1.001)])
    pole, hole = (
        shapely.box(5, 89, 6, 89.5),
        shapely.box(2, 1, 2.001, 1.001) - shapely.box(2.0004, 1.0004, 2.0006, 1.0006),
    )
    write([across, pole, hole], tmp_path / "x.pmtiles")
    found = level(tmp_path / "x.pmtiles", 16)
    assert set(found["name"]) == {"n0", "n2"}
    x = shapely.get_coordinates(found.geometry[found["name"] == "n0"].to_numpy())[:, 0]
    assert np.abs(x).min() > CIRCLE / 2 - 200 and np.abs(x).max() < CIRCLE / 2 + 20 and {*np.sign(x)} == {-1, 1}


def test_values_of_all_types(tmp_path) -> None:
    when = pd.to_datetime(["2024-05-01T10:30:00.5Z", None])
    columns = {
        "text": ["é" * 200, None], "whole": pa.array([-3, 2**40]), "yes": [True, False], "wide": [np.pi, None],
        "narrow": np.array([0.1, 1e-30], np.float32), "when": pa.array(when, pa.timestamp("us", "UTC")),
        "list": [["a", "b"], []],
    }  # fmt: skip
    write([shapely.box(k, 0, k + 0.0001, 0.0001) for k in range(2)], tmp_path / "x.pmtiles", **columns)
    found = {}
    for (zoom, _, _), data in tiles(tmp_path / "x.pmtiles").items():
        found |= {properties["name"]: properties for properties, _ in features(data, "detections") if zoom == 16}
    first, second = found["n0"], found["n1"]
    assert first == {
        "name": "n0", "score": 1.0, "text": "é" * 200, "whole": -3, "yes": True, "wide": np.pi,
        "narrow": np.float32(0.1), "when": "2024-05-01T10:30:00.500000+00:00", "list": "a,b",
    }  # fmt: skip
    assert second == {"name": "n1", "score": 1.0, "whole": 2**40, "yes": False, "narrow": np.float32(1e-30), "list": ""}
    with (tmp_path / "x.pmtiles").open("rb") as file:
        (about,) = Reader(MmapSource(file)).metadata()["vector_layers"]
    assert about["fields"]["when"] == "String" and about["fields"]["yes"] == "Boolean" and "count" in about["fields"]
    assert about["maxzoom"] == 16 and "geometry" not in about["fields"]


@given(st.integers(0, 16), st.integers(0, 2**32))
def test_tile_ids_are_those_of_pmtiles(zoom, seed) -> None:
    x, y = np.random.default_rng(seed).integers(0, 2**zoom, (2, 50))
    wanted = [zxy_to_tileid(zoom, int(a), int(b)) for a, b in zip(x, y, strict=True)]
    assert tile_ids(zoom, x, y).tolist() == wanted


def test_an_archive_of_many_tiles_has_directories_below_the_first(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(archive, "_LEAF", 50)
    rng = np.random.default_rng(0)
    wanted, new = {}, Archive(tmp_path)
    for zoom in (9, 3):
        x, y = rng.integers(0, 2**zoom, (2, 300))
        ids, first = np.unique(tile_ids(zoom, x, y), return_index=True)
        content = [rng.bytes(rng.integers(1, 50)) for _ in ids]
        new.add(zoom, ids, content)
        wanted |= {(zoom, int(x[i]), int(y[i])): data for i, data in zip(first, content, strict=True)}
    new.finish(tmp_path / "x.pmtiles", bounds=(-1, -2, 3, 4), metadata={"a": "b"})
    with (tmp_path / "x.pmtiles").open("rb") as file:
        source = MmapSource(file)
        reader = Reader(source)
        assert {place: bytes(data) for place, data in all_tiles(source)} == wanted
        place, data = next(iter(wanted.items()))
        assert reader.get(*place) == data and reader.metadata() == {"a": "b"}
        header = reader.header()
    assert header["leaf_directory_length"] > 0 and (header["min_zoom"], header["max_zoom"]) == (3, 9)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pmtiles"]


@settings(max_examples=50, deadline=None)
@given(parts=st.lists(st.lists(st.integers(0, 60), max_size=40), max_size=12), rows=st.integers(5, 40))
def test_sorting_is_that_of_numpy_and_keeps_keys_together(parts, rows, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("sorted") / "files"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "_ROWS", rows)
        patch.setattr(sorting, "_SAMPLED", 3)
        sorter, number = Sorter(folder), 0
        for keys in parts:
            numbers = range(number, number + len(keys))
            sorter.add(pa.table({"_key": pa.array(keys, pa.int64()), "number": pa.array(numbers, pa.int64())}))
            number += len(keys)
        found = [table.to_pandas() for table in sorter.tables()]
    every = [key for keys in parts for key in keys]
    together = pd.concat(found) if found else pd.DataFrame({"_key": [], "number": []})
    assert together["_key"].tolist() == sorted(every)
    assert [every[int(k)] for k in together["number"]] == sorted(every)
    assert set(together["number"]) == set(range(number))
    assert sum(table["_key"].nunique() for table in found) == len(set(every))
    assert not list(folder.iterdir())


def test_boxes_beyond_the_map_are_left_out_and_said_so(tmp_path: Path) -> None:
    north = make_scene("north", crs="EPSG:3413", transform=Affine(10, 0, 0, 0, -10, -300_000), size=(1000, 800))
    boxes = Detections(
        boxes=np.array([[10.0, 10, 30, 30], [500, 400, 520, 420]]), scores=np.full(2, 0.5), labels=[0, 1]
    )
    commit(tmp_path / "out", north, boxes)
    result = export(tmp_path / "out", out=tmp_path / "north.pmtiles")
    assert len(result.notes) == 1 and "beyond 85.05 degrees of latitude" in result.notes[0]
    with (tmp_path / "north.pmtiles").open("rb") as file:
        assert not list(all_tiles(MmapSource(file)))
    commit(tmp_path / "south", utm_scene("south"), boxes)
    assert not export(tmp_path / "south", out=tmp_path / "south.pmtiles").notes
