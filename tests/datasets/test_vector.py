"""Ground coordinates in any CRS against scenes that lie in any way."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from geosod.datasets.labels import Labels
from geosod.datasets.read import read_labels
from geosod.errors import LabelError, SceneError
from tests.rasters import UTM31, noise, write_tif

PLACES: dict[str, tuple[str, Affine]] = {
    "north up": (UTM31, Affine(0.5, 0, 500_000, 0, -0.5, 5_800_000)),
    "rotated": (UTM31, Affine(0.4, 0.3, 500_000, 0.3, -0.4, 5_800_000)),
    "south up": (UTM31, Affine(0.5, 0, 500_000, 0, 0.5, 5_800_000)),
    "degrees": ("EPSG:4326", Affine(1e-5, 0, 3.0, 0, -1e-5, 52.0)),
    "antimeridian": ("EPSG:4326", Affine(1e-4, 0, 179.995, 0, -1e-4, -17.0)),
    "mercator across it": ("EPSG:3857", Affine(10, 0, 20_037_008, 0, -10, -1_900_000)),
    "polar": ("EPSG:3413", Affine(30, 0, -1_000, 0, -30, 1_000)),
}


def boxes_in(folder: Path, place: str) -> tuple[Path, np.ndarray]:
    """A scene, and boxes in pixels."""
    crs, transform = PLACES[place]
    path = write_tif(folder / "s.tif", noise(1, 100, 120), crs=crs, transform=transform)
    rng = np.random.default_rng(0)
    corner = rng.uniform(2, 75, (15, 2))
    return path, np.hstack([corner, corner + rng.uniform(4, 20, (15, 2))])


def on_ground(path: Path, boxes: np.ndarray, crs: str) -> geopandas.GeoDataFrame:
    """Polygons of boxes, by rasterio's transform and geopandas."""
    with rasterio.open(path) as dataset:
        shapes = [
            shapely.Polygon([dataset.transform @ (x, y) for x, y in ((a, b), (c, b), (c, d), (a, d))])
            for a, b, c, d in boxes.tolist()
        ]
        return geopandas.GeoDataFrame(
            {"class": "car"}, geometry=shapes, crs=dataset.crs, index=range(len(boxes))
        ).to_crs(crs)


def sorted_boxes(labels: Labels) -> np.ndarray:
    return labels.boxes[np.argsort(labels.ids)]


@pytest.mark.parametrize("crs", ["OGC:CRS84", "own", "EPSG:3857"])
@pytest.mark.parametrize("place", PLACES)
def test_polygons_come_back_where_they_were(tmp_path: Path, place: str, crs: str) -> None:
    if crs == "EPSG:3857" and place == "polar":
        pytest.skip("beyond the map")
    path, boxes = boxes_in(tmp_path, place)
    frame = on_ground(path, boxes, PLACES[place][0] if crs == "own" else crs)
    if place == "antimeridian" and crs == "OGC:CRS84":
        # Longitudes as they are written: within -180 and 180, polygons across the line split in two.
        west = shapely.transform(frame.geometry.values, lambda xy: xy - [360, 0])
        parts = [(shapely.box(-180, -90, 180, 90), g) for g in (frame.geometry.values, west)]
        frame.geometry = [
            shapely.union_all([shapely.intersection(f, g[k]) for f, g in parts]) for k in range(len(frame))
        ]
        assert (frame.geometry.geom_type == "MultiPolygon").any()
    frame.to_file(tmp_path / "l.gpkg", layer="l")
    labels = read_labels(tmp_path / "l.gpkg", scenes=[str(path)]).labels
    assert sorted_boxes(labels) == pytest.approx(boxes, abs=0.05 if place == "polar" else 0.01)
    assert not labels.truncated.any() and not labels.ignore.any() and labels.images[0].id == "s"


def test_objects_at_the_edge_are_clipped_and_slivers_ignored(tmp_path: Path) -> None:
    path, _ = boxes_in(tmp_path, "north up")
    boxes = np.array(
        [[-5, 10, 5, 20], [100, 80, 130, 110], [118, 50, 138, 60], [119, 99, 160, 140], [200, 0, 210, 10]], float
    )
    on_ground(path, boxes, "EPSG:3035").to_parquet(tmp_path / "l.parquet")
    reading = read_labels(tmp_path / "l.parquet", scenes=[str(path)])
    labels = reading.labels[np.argsort(reading.labels.ids)]
    assert labels.boxes == pytest.approx(
        np.array([[0, 10, 5, 20], [100, 80, 120, 100], [118, 50, 120, 60], [119, 99, 120, 100]]), abs=0.01
    )
    assert labels.truncated.all() and labels.ignore.tolist() == [False, False, True, True]
    assert labels.area == pytest.approx([50, 400, 20, 1], rel=0.02)
    assert "1 of 5 objects lie in none of the scenes" in reading.notes[0]


def test_outlines_become_boxes_with_their_own_area(tmp_path: Path) -> None:
    path, _ = boxes_in(tmp_path, "north up")
    frame = on_ground(path, np.array([[10, 10, 30, 30]], float), UTM31)
    frame.geometry = [frame.geometry.iloc[0].centroid.buffer(5)]
    frame.to_file(tmp_path / "l.gpkg", layer="l")
    labels = read_labels(tmp_path / "l.gpkg", scenes=[str(path)]).labels
    assert labels.boxes[0] == pytest.approx([10, 10, 30, 30], abs=0.1) and labels.area[0] == pytest.approx(
        np.pi * 100, rel=0.02
    )


def test_points_lie_in_the_scene_that_contains_them(tmp_path: Path) -> None:
    path, _ = boxes_in(tmp_path, "rotated")
    with rasterio.open(path) as dataset:
        places = [dataset.transform @ xy for xy in ((0.5, 0.5), (119.9, 99.9), (-0.1, 5), (60, 100.1))]
    geopandas.GeoDataFrame({"label": list("abcd")}, geometry=shapely.points(places), crs=UTM31).to_crs(4326).to_file(
        tmp_path / "p.geojson"
    )
    labels = read_labels(tmp_path / "p.geojson", scenes=[str(path)]).labels
    assert labels.points and labels.boxes[:, :2] == pytest.approx(np.array([[0.5, 0.5], [119.9, 99.9]]), abs=0.01)
    assert [labels.classes[k] for k in labels.labels] == ["a", "b"]


def test_each_scene_gets_the_objects_that_it_shows(tmp_path: Path) -> None:
    place = PLACES["north up"][1]
    paths = [
        write_tif(tmp_path / f"{k}.tif", noise(1, 50, 50), transform=place @ Affine.translation(40 * k, 0))
        for k in range(3)
    ]
    boxes = np.array([[5, 5, 15, 15], [42, 5, 48, 15], [100, 5, 110, 15]], float)
    on_ground(paths[0], boxes, "OGC:CRS84").to_file(tmp_path / "l.geojson")
    labels = read_labels(tmp_path / "l.geojson", scenes=[str(tmp_path / "*.tif")]).labels
    assert [(labels.images[i].id, n) for i, n in zip(labels.image, labels.ids, strict=True)] == [
        ("0", 1),
        ("0", 2),
        ("1", 2),
        ("2", 3),
    ]
    assert labels.boxes[2] == pytest.approx([2, 5, 8, 15], abs=0.01)


def test_which_column_holds_the_classes(tmp_path: Path) -> None:
    path, boxes = boxes_in(tmp_path, "north up")
    frame = on_ground(path, boxes[:3], UTM31).rename(columns={"class": "kind"})
    frame["number"] = [1.0, 2.0, 2.0]
    frame.to_file(tmp_path / "l.gpkg", layer="l")
    with pytest.raises(LabelError, match="which column holds the classes"):
        read_labels(tmp_path / "l.gpkg", scenes=[str(path)])
    assert read_labels(tmp_path / "l.gpkg", scenes=[str(path)], classes=["x"]).labels.classes == ("x",)
    assert read_labels(tmp_path / "l.gpkg", scenes=[str(path)], label_column="number").labels.classes == ("1", "2")
    with pytest.raises(LabelError, match="feature 2: is of a class that is not given"):
        read_labels(tmp_path / "l.gpkg", scenes=[str(path)], label_column="number", classes=["1"])


def test_scenes_and_files_without_a_place_are_refused(tmp_path: Path) -> None:
    path, boxes = boxes_in(tmp_path, "north up")
    frame = on_ground(path, boxes, UTM31)
    flat = write_tif(tmp_path / "flat.tif", noise(1, 20, 20), crs=None)
    frame.to_file(tmp_path / "l.gpkg", layer="l")
    with pytest.raises(SceneError, match="has no georeference"):
        read_labels(tmp_path / "l.gpkg", scenes=[str(flat)])
    frame.set_crs(None, allow_override=True).to_parquet(tmp_path / "l.parquet")
    with pytest.raises(LabelError, match="has no CRS"):
        read_labels(tmp_path / "l.parquet", scenes=[str(path)])
    assert len(read_labels(tmp_path / "l.parquet", scenes=[str(path)], crs=UTM31).labels) == len(boxes)
    with pytest.raises(LabelError, match=r"none\.tif: no such file"):
        read_labels(tmp_path / "l.gpkg", scenes=[str(tmp_path / "none.tif")])


@pytest.mark.slow
def test_detections_are_read_as_labels(rgb_bundle: Path, tmp_path: Path) -> None:
    """What geosod wrote belongs to the scene that it was found in, with the boxes in its frame."""
    import geosod

    path = write_tif(tmp_path / "s.tif", noise(3, 160, 160))
    geosod.detect(
        [str(path)], model=str(rgb_bundle), out=tmp_path / "out.parquet", engine="serial", device="cpu", backend="eager"
    )
    frame = geopandas.read_parquet(tmp_path / "out.parquet")
    labels = read_labels(tmp_path / "out.parquet", scenes=[str(path)]).labels
    pixels = frame[["px_xmin", "px_ymin", "px_xmax", "px_ymax"]].to_numpy()
    assert len(labels) == len(frame) > 0
    assert sorted_boxes(labels) == pytest.approx(pixels, abs=0.01)
