"""From the file to GeoParquet: scenes of every kind of georeference, held against formulas of the tests' own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import CRS, Geod
from rasterio.warp import transform as gdal_transform

from geosod.errors import ConfigError
from geosod.running.events import Note
from tests.ground import GOES_EAST, Camera, Dem, thin_plate, write_control
from tests.rasters import noise, write_tif
from tests.running.helpers import detect

Ground = Callable[[np.ndarray], np.ndarray]
WGS84 = Geod(ellps="WGS84")


def rows(out: Path, kind: str = "detections") -> geopandas.GeoDataFrame:
    (path,) = (p for p in (out / kind).rglob("*.parquet"))
    return geopandas.read_parquet(path)


def item(out: Path) -> dict:
    (path,) = (out / "items").glob("*.json")
    return json.loads(path.read_text())


def check_corners(found: geopandas.GeoDataFrame, ground: Ground, *, within: float, least: int = 30) -> None:
    """Every polygon has its box's corners, to within some degrees (or metres on a metric map), and its centre."""
    assert len(found) > least
    found = found[:: max(1, len(found) // 200)]
    boxes = found[["px_xmin", "px_ymin", "px_xmax", "px_ymax"]].to_numpy()
    corners = ground(boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)).reshape(-1, 4, 2)
    assert np.isfinite(corners).all()
    for geometry, wanted in zip(found.geometry, corners, strict=True):
        assert geometry.is_valid and geometry.exterior.is_ccw
        vertices = shapely.get_coordinates(geometry)
        assert len(vertices) == 5
        assert np.abs(vertices[:, None] - wanted[None]).max(axis=2).min(axis=0).max() < within


def check_sizes(found: geopandas.GeoDataFrame, ground: Ground, geod: Geod = WGS84) -> None:
    boxes = found[["px_xmin", "px_ymin", "px_xmax", "px_ymax"]].to_numpy()
    for (x0, y0, x1, y1), width, area in zip(boxes[:40], found.width_m, found.area_m2, strict=False):
        middle = (y0 + y1) / 2
        (west, east) = ground(np.array([[x0, middle], [x1, middle]]))
        assert width == pytest.approx(geod.inv(*west, *east)[2], rel=1e-4)
        ring = shapely.segmentize(shapely.box(x0, y0, x1, y1), (x1 - x0) / 20)
        lonlat = ground(shapely.get_coordinates(ring))
        assert area == pytest.approx(abs(geod.polygon_area_perimeter(*lonlat.T)[0]), rel=1e-3)


def check_coverage(out: Path, square_metres: float, *, within: float = 1e-3) -> geopandas.GeoDataFrame:
    coverage = rows(out, "coverage")
    assert coverage.area_km2.sum() == pytest.approx(square_metres / 1e6, rel=within)
    assert set(coverage.status) == {"inspected"}
    return coverage


def outline(size: tuple[int, int], ground: Ground, geod: Geod = WGS84) -> float:
    """Square metres of a whole scene, its edges followed closely."""
    frame = shapely.segmentize(shapely.box(0, 0, *size), max(size) / 200)
    return abs(geod.polygon_area_perimeter(*ground(shapely.get_coordinates(frame)).T)[0])


def test_a_scene_placed_by_control_points(rgb_bundle: Path, tmp_path: Path) -> None:
    size = (500, 400)
    rng = np.random.default_rng(2)
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, 500, 7), np.linspace(0, 400, 6)))
    lon = 179.98 + 1e-4 * x + 3e-5 * y + rng.normal(0, 1e-4, len(x))
    lat = -16 - 9e-5 * y + 2e-5 * x + rng.normal(0, 1e-4, len(x))
    points = np.stack([x, y, lon, lat], axis=1)
    spline = thin_plate(points.copy())
    points[:, 2] = (points[:, 2] + 180) % 360 - 180
    scene = write_control(tmp_path / "radar.tif", points, "EPSG:4326", size=size)
    result = detect(scene, rgb_bundle, tmp_path / "out")
    assert result.exit_code == 0
    found = rows(tmp_path / "out")
    assert found.crs.to_authority() == ("OGC", "CRS84")
    split = found.geometry.geom_type == "MultiPolygon"
    assert 0 < split.sum() < len(found) / 2 and np.abs(found.total_bounds[[0, 2]]).max() == 180
    east = found[~split & (found.lon > 0)]
    check_corners(east, spline, within=1e-8)
    west = found[~split & (found.lon < 0)]
    check_corners(west, lambda xy: spline(xy) - (360, 0), within=1e-8)
    check_sizes(found, spline)
    check_coverage(tmp_path / "out", outline(size, spline))
    assert item(tmp_path / "out")["geometry"]["type"] == "MultiPolygon"


def write_rpc(path: Path, camera: Camera) -> Path:
    write_tif(path, noise(3, camera.size[1], camera.size[0]), crs=None, photometric="RGB")
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(ns="RPC", **camera.tags())
    return path


def test_a_scene_placed_by_a_camera(rgb_bundle: Path, tmp_path: Path) -> None:
    camera, dem = Camera(size=(500, 400)), Dem()
    scene = write_rpc(tmp_path / "camera.tif", camera)
    for name, settings, height in (
        ("own", {}, camera.height),
        ("given", {"rpc_height": 50.0}, 50.0),
        ("dem", {"dem": str(dem.write(tmp_path / "dem.tif"))}, dem.at),
    ):
        out = tmp_path / name
        assert detect(scene, rgb_bundle, out, **settings).exit_code == 0
        found = rows(out)

        def ground(xy: np.ndarray, height: object = height) -> np.ndarray:
            return camera.ground(xy, height)

        check_corners(found, ground, within=1e-6 if name == "dem" else 1e-8)
        if name != "dem":
            check_sizes(found, ground)
            check_coverage(out, outline(camera.size, ground))
    with pytest.raises(ConfigError, match=r"none\.tif"):
        detect(scene, rgb_bundle, tmp_path / "none", dem=str(tmp_path / "none.tif"))


def test_a_full_disk(rgb_bundle: Path, tmp_path: Path) -> None:
    side = 700
    transform = GOES_EAST.transform(side)
    wkt = CRS.from_user_input(GOES_EAST.crs).to_wkt()
    scene = write_tif(tmp_path / "disk.tif", noise(3, side, side), crs=wkt, transform=transform, photometric="RGB")
    out = tmp_path / "out"
    told: list[object] = []
    assert detect(scene, rgb_bundle, out, on_event=told.append).exit_code == 0
    found = rows(out)

    def ground(xy: np.ndarray) -> np.ndarray:
        return GOES_EAST.ground(*(transform @ xy.T))

    boxes = found[["px_xmin", "px_ymin", "px_xmax", "px_ymax"]].to_numpy()
    centre = np.hypot(*(transform @ ((boxes[:, :2] + boxes[:, 2:]) / 2).T))
    inner = found[centre < 5e6]
    check_corners(inner, ground, within=1e-6)
    check_corners(found, ground, within=1e-2)
    check_sizes(inner, ground)
    said = item(out)["properties"]
    assert said["geosod:unplaced_detections"] > 100, "noise in space"
    assert said["geosod:detections"] == len(found)
    coverage = check_coverage(out, GOES_EAST.visible_area(), within=5e-3)
    assert coverage.reason.str.contains("no place on the ground").all()
    assert shapely.area(coverage.geometry).sum() > 10_000
    assert any("have no place on the ground" in e.text for e in told if isinstance(e, Note))


def test_a_scene_in_feet(rgb_bundle: Path, tmp_path: Path) -> None:
    transform = Affine.translation(985_000, 205_000) @ Affine.rotation(20) @ Affine.scale(1.5, -1.5)
    scene = write_tif(
        tmp_path / "feet.tif", noise(3, 400, 500), crs="EPSG:2263", transform=transform, photometric="RGB"
    )
    assert detect(scene, rgb_bundle, tmp_path / "out").exit_code == 0
    found = rows(tmp_path / "out")

    def ground(xy: np.ndarray) -> np.ndarray:
        return np.stack(gdal_transform("EPSG:2263", "EPSG:4326", *(list(a) for a in transform @ xy.T)), axis=1)

    check_corners(found, ground, within=1e-9)
    check_sizes(found, ground)
    assert np.allclose(found.width_m, 1.5 * 1200 / 3937 * (found.px_xmax - found.px_xmin), rtol=2e-4)
    check_coverage(tmp_path / "out", outline((500, 400), ground))
    assert item(tmp_path / "out")["properties"]["geosod:unplaced_detections"] == 0


def test_a_scene_of_mars(rgb_bundle: Path, tmp_path: Path) -> None:
    radius = 3_396_190.0
    transform = Affine(25, 0, 4.6e6, 0, -25, 1.1e6)
    scene = write_tif(tmp_path / "jezero.tif", noise(3, 400, 500), crs="IAU_2015:49910", transform=transform)
    refused = detect(scene, rgb_bundle, tmp_path / "a")
    assert refused.exit_code == 2
    (failure,) = refused.failures
    assert (
        "is a CRS of Mars" in failure.message and "give --crs a CRS of Mars, such as IAU_2015:49910" in failure.message
    )
    assert not list((tmp_path / "a").rglob("*.json"))
    out = tmp_path / "out"
    assert detect(scene, rgb_bundle, out, crs="IAU_2015:49900").exit_code == 0
    found = rows(out)

    def ground(xy: np.ndarray) -> np.ndarray:
        x, y = transform @ xy.T
        return np.degrees(np.stack([x, y], axis=1) / radius)

    sphere = Geod(a=radius, b=radius)
    check_corners(found, ground, within=1e-9)
    check_sizes(found, ground, sphere)
    check_coverage(out, outline((500, 400), ground, sphere))
    assert found.lon.isna().all() and found.lat.isna().all()
    (path,) = (out / "detections").rglob("*.parquet")
    crs = json.loads(pq.read_schema(path).metadata[b"geo"])["columns"]["geometry"]["crs"]
    assert CRS.from_json_dict(crs) == CRS.from_user_input("IAU_2015:49900") == found.crs
    told = item(out)
    assert told["geometry"] is None and "bbox" not in told
    other = detect(scene, rgb_bundle, tmp_path / "b", crs="IAU_2015:30100")
    assert other.exit_code == 2 and "one of the Moon" in other.failures[0].message
