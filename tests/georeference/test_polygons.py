"""Pixels ↔ ground, against pyproj.Geod, brute force and hand-computed cases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Geod, Transformer

from geosod.errors import ConfigError, SceneError
from geosod.georeference.crs import crs_name
from geosod.georeference.points import georeferenced, on_earth, placed, project, unplaced_share
from geosod.georeference.polygons import (
    clip_to_ground,
    densify,
    footprint,
    ground_geometries,
    ground_polygons,
    lonlat_centres,
    pixel_polygons,
)
from geosod.georeference.sizes import check_ground, equal_area, ground_size
from geosod.scene import GroundControl, RationalPolynomials, Scene, SceneRef
from tests import ground

WGS84 = Geod(ellps="WGS84")
FEET = 1200 / 3937


def make_scene(crs: str | None, transform: Affine | None, width: int = 10_000, height: int = 10_000) -> Scene:
    wkt = None if crs is None else CRS.from_user_input(crs).to_wkt()
    ref = SceneRef("scene.tif", "scene")
    return Scene(
        ref,
        width,
        height,
        3,
        "uint8",
        wkt,
        transform,
        (None,) * 3,
        (False,) * 3,
        None,
        ("",) * 3,
        (512, 512),
        (),
        None,
    )


UTM = make_scene("EPSG:32633", Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000))
SCENES = {
    "utm": UTM,
    "rotated": make_scene("EPSG:32633", Affine.translation(5e5, 5.2e6) @ Affine.rotation(33) @ Affine.scale(0.5, -0.7)),
    "south-up": make_scene("EPSG:32733", Affine(0.5, 0, 500_000, 0, 0.5, 5_200_000)),
    "degrees": make_scene("EPSG:4326", Affine(1e-5, 0, 13, 0, -1e-5, 60)),
    "mercator": make_scene("EPSG:3857", Affine(1, 0, 1.5e6, 0, -1, 8.4e6)),
    "feet": make_scene("EPSG:2263", Affine(1, 0, 980_000, 0, -1, 200_000)),
    "polar": make_scene("EPSG:3031", Affine(10, 0, -50_000, 0, -10, 50_000)),
    "antimeridian": make_scene("EPSG:32660", Affine(10, 0, 650_000, 0, -10, 7_000_000)),
}


def some_boxes(seed: int, n: int = 60, size: float = 80.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 9_900, (n, 2))
    return np.hstack([corner, corner + rng.uniform(1, size, (n, 2))])


@pytest.mark.parametrize("name", SCENES)
def test_polygons_have_the_projected_corners(name: str) -> None:
    scene, boxes = SCENES[name], some_boxes(1)
    transformer = Transformer.from_crs(scene.crs, "OGC:CRS84", always_xy=True)
    for polygon, (x0, y0, x1, y1) in zip(ground_polygons(scene, boxes, "OGC:CRS84"), boxes, strict=True):
        if polygon.geom_type == "MultiPolygon":
            continue
        expected = [
            transformer.transform(*(scene.transform @ corner)) for corner in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
        ]
        got = np.array(polygon.exterior.coords)[:4]
        assert polygon.exterior.is_ccw
        for corner in expected:
            assert np.abs(got - corner).max(axis=1).min() < 1e-9


@pytest.mark.parametrize("name", SCENES)
def test_sizes_agree_with_geodesics(name: str) -> None:
    scene, boxes = SCENES[name], some_boxes(2, 40)
    geodetic = CRS.from_wkt(scene.crs).geodetic_crs
    transformer, geod = Transformer.from_crs(scene.crs, geodetic, always_xy=True), geodetic.get_geod()
    width, height, area = ground_size(scene, boxes)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        xc, yc = (x0 + x1) / 2, (y0 + y1) / 2
        lonlat = [transformer.transform(*(scene.transform @ p)) for p in ((x0, yc), (x1, yc), (xc, y0), (xc, y1))]
        assert width[i] == pytest.approx(geod.inv(*lonlat[0], *lonlat[1])[2], rel=1e-9)
        assert height[i] == pytest.approx(geod.inv(*lonlat[2], *lonlat[3])[2], rel=1e-9)
        ring = [transformer.transform(*(scene.transform @ p)) for p in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
        assert area[i] == pytest.approx(abs(geod.polygon_area_perimeter(*zip(*ring, strict=True))[0]), rel=1e-3)


def test_true_size_where_units_are_not_metres() -> None:
    box = np.array([[5000.0, 5000.0, 5100.0, 5100.0]])
    width, height, area = ground_size(SCENES["feet"], box)
    assert width[0] == pytest.approx(100 * FEET, rel=2e-4)
    assert area[0] == pytest.approx((100 * FEET) ** 2, rel=4e-4)
    # Web Mercator stretches by 1/cos(latitude): 100 map metres near 60° N are about 50 m.
    width, height, _ = ground_size(SCENES["mercator"], box)
    latitude = lonlat_centres(SCENES["mercator"], box)[0, 1]
    assert width[0] == pytest.approx(100 * np.cos(np.radians(latitude)), rel=4e-3)
    width, height, _ = ground_size(SCENES["degrees"], box)
    assert height[0] / width[0] == pytest.approx(1 / np.cos(np.radians(60)), rel=0.01)


def test_box_over_the_antimeridian_is_split() -> None:
    scene = make_scene("EPSG:4326", Affine(0.001, 0, 179.0, 0, -0.001, -16))
    polygons = ground_polygons(scene, np.array([[990.0, 100, 1020, 120], [100, 100, 120, 120]]), "OGC:CRS84")
    split, whole = polygons
    assert (split.geom_type, whole.geom_type) == ("MultiPolygon", "Polygon")
    parts = sorted(part.bounds for part in split.geoms)
    assert parts[0] == pytest.approx((-180, -16.12, -179.98, -16.1))
    assert parts[1] == pytest.approx((179.99, -16.12, 180, -16.1))
    centre = lonlat_centres(scene, np.array([[1000.0, 100, 1020, 120]]))
    assert centre[0] == pytest.approx((-179.99, -16.11))


def test_box_over_the_antimeridian_reaches_both_edges_of_mercator() -> None:
    scene = SCENES["antimeridian"]
    boxes = some_boxes(3, 3000, 300.0)
    split = [p.geom_type == "MultiPolygon" for p in ground_polygons(scene, boxes, "OGC:CRS84")]
    assert 0 < sum(split) < 1000
    mercator = ground_polygons(scene, boxes, "EPSG:3857")
    assert [p.geom_type == "MultiPolygon" for p in mercator] == split
    widest = max(part.bounds[2] - part.bounds[0] for p in mercator for part in shapely.get_parts(p))
    assert widest < 10 * 300 * 3


def test_refuses_boxes_over_another_edge_of_a_map() -> None:
    scene = make_scene("EPSG:4326", Affine(0.001, 0, -30.5, 0, -0.001, 10))
    with pytest.raises(SceneError, match="across the edge of the map"):
        ground_polygons(scene, np.array([[450.0, 100, 550, 120]]), "EPSG:3832")


def test_scene_around_a_pole_covers_it() -> None:
    outline = footprint(SCENES["polar"])
    assert outline.is_valid
    assert outline.bounds[:2] == (-180, -90)
    assert outline.bounds[2] == 180
    assert outline.contains(shapely.Point(77, -89.9))
    assert not outline.contains(shapely.Point(77, -89))
    box = ground_polygons(SCENES["polar"], np.array([[4990.0, 4990, 5011, 5013]]), "OGC:CRS84")[0]
    assert box.is_valid
    assert box.contains(shapely.Point(-120, -89.9995))


def test_whole_earth_keeps_its_extent_and_area() -> None:
    scene = make_scene("EPSG:4326", Affine(0.036, 0, -180, 0, -0.018, 90))
    assert footprint(scene).bounds == (-180, -90, 180, 90)
    frame = densify(scene, pixel_polygons(np.array([[0.0, 0, 10_000, 10_000]])))
    flat = shapely.transform(frame, lambda xy: equal_area(scene, xy))
    # 510 065 621.7 km²: area of the WGS 84 ellipsoid.
    assert shapely.area(flat)[0] / 1e6 == pytest.approx(510_065_621.7, rel=1e-6)


def test_areas_are_true_far_from_the_centre() -> None:
    scene = make_scene("EPSG:3031", Affine(300, 0, -1_500_000, 0, -300, 1_500_000))
    boxes = np.array([[0.0, 0, 30, 30], [9970, 9970, 10_000, 10_000], [4980, 4980, 5010, 5010], [0, 5000, 30, 5030]])
    area = ground_size(scene, boxes)[2]
    corners = project(scene, boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2), "EPSG:4326").reshape(-1, 4, 2)
    expected = [abs(WGS84.polygon_area_perimeter(*ring.T)[0]) for ring in corners]
    assert area == pytest.approx(expected, rel=1e-5)


def polygon_with_hole(seed: int) -> shapely.Polygon:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(3000, 7000, 2)
    shell, hole = rng.uniform(600, 2500), rng.uniform(100, 500)
    return shapely.box(x - shell, y - shell, x + shell, y + shell).difference(
        shapely.box(x - hole, y - hole, x + hole, y + hole)
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["polar", "antimeridian"]))
def test_split_polygons_keep_their_area_and_holes(seed: int, name: str) -> None:
    scene, polygon = SCENES[name], polygon_with_hole(seed)
    out = ground_geometries(scene, np.array([shapely.segmentize(polygon, 2)], object), "OGC:CRS84")[0]
    assert out.is_valid
    west, south, east, north = out.bounds
    assert west >= -180 and east <= 180 and south >= -90 and north <= 90
    # Back on the plane of the scene, points inside and outside must stay so.
    back = Transformer.from_crs("OGC:CRS84", scene.crs, always_xy=True)
    lon, lat = np.random.default_rng(seed).uniform((west, south), (east, north), (300, 2)).T
    pixels = np.array([~scene.transform @ xy for xy in zip(*back.transform(lon, lat), strict=True)])
    points = shapely.points(pixels)
    clear = shapely.distance(polygon.boundary, points) > 2  # near a pole, chords of 2 pixels stray by half of that
    assert np.array_equal(
        shapely.contains(out, shapely.points(lon, lat))[clear], shapely.contains(polygon, points)[clear]
    )


def test_scene_without_georeference_is_refused() -> None:
    for scene in (make_scene(None, None), make_scene(None, Affine.identity()), make_scene("EPSG:32633", None)):
        assert not georeferenced(scene)
        with pytest.raises(SceneError, match="no georeference"):
            lonlat_centres(scene, np.array([[0.0, 0, 1, 1]]))


LOCAL = 'ENGCRS["site",EDATUM["site"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'


@pytest.mark.parametrize("crs", [LOCAL, "EPSG:5773", "EPSG:4978"], ids=["engineering", "vertical", "geocentric"])
def test_a_crs_without_position_is_refused(crs: str) -> None:
    scene = make_scene(crs, Affine(1, 0, 0, 0, -1, 0))
    for ask in (lambda: ground_polygons(scene, BOX, "OGC:CRS84"), lambda: ground_size(scene, BOX)):
        with pytest.raises(SceneError, match="gives no position on the ground"):
            ask()


BOX = np.array([[10.0, 20.0, 50.0, 40.0]])
MARS = make_scene("IAU_2015:49910", Affine(100, 0, 4e6, 0, -100, 1e6))
BODIES = {
    "mars": (MARS, "Mars", 3_396_190.0),
    "custom mars": (make_scene("+proj=eqc +a=3396190 +b=3376200", Affine(100, 0, 0, 0, -100, 0)), "Mars", 3_396_190.0),
    "moon": (make_scene("+proj=longlat +R=1737400", Affine(1e-3, 0, 30, 0, -1e-3, 10)), "the Moon", 1_737_400.0),
    "nameless": (make_scene("+proj=eqc +R=250000", Affine(1, 0, 0, 0, -1, 0)), "a body of 250 km", 250_000.0),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_are_distinguished_by_their_size(name: str) -> None:
    scene, body, radius = BODIES[name]
    assert georeferenced(scene) and not on_earth(scene)
    for crs in ("OGC:CRS84", "EPSG:32633", "IAU_2015:19900"):
        with pytest.raises(SceneError, match=f"a CRS of {body}.* is one of .*; give --crs"):
            ground_polygons(scene, BOX, crs)
        with pytest.raises(SceneError, match="give --crs a CRS of"):
            check_ground(scene, crs)
    own = scene.crs
    corners = np.array([scene.transform @ p for p in ((10, 20), (50, 20), (50, 40), (10, 40))])
    got = np.array(ground_polygons(scene, BOX, own)[0].exterior.coords)[:4]
    assert all(np.abs(got - corner).max(axis=1).min() < 1e-9 * radius for corner in corners)
    assert check_ground(scene, own) is None
    width, height, area = ground_size(scene, BOX)
    geod = CRS.from_user_input(own).get_geod()
    geodetic = CRS.from_user_input(own).geodetic_crs
    lon, lat = Transformer.from_crs(own, geodetic, always_xy=True).transform(*corners.T)
    assert geod.a == radius and area[0] == pytest.approx(abs(geod.polygon_area_perimeter(lon, lat)[0]), rel=1e-4)
    assert width[0] > height[0] > 0


def test_the_message_about_another_body_suggests_a_crs() -> None:
    with pytest.raises(SceneError, match=r"such as IAU_2015:49910$"):
        footprint(MARS)
    outline = footprint(MARS, "IAU_2015:49900")
    assert outline.bounds[0] == pytest.approx(np.degrees(4e6 / 3_396_190))
    earth = make_scene("EPSG:32633", Affine(10, 0, 5e5, 0, -10, 5e6))
    with pytest.raises(SceneError, match=r"is a CRS of the Earth.* one of Mars"):
        footprint(earth, "IAU_2015:49900")


def test_spheres_of_the_earth_are_the_earth() -> None:
    for crs in ("+proj=sinu +R=6371007.181", "+proj=longlat +R=6370997", "+proj=longlat +a=6378137 +b=6378137"):
        scene = make_scene(crs, Affine(0.01, 0, 10, 0, -0.01, 10), 100, 100)
        assert on_earth(scene) and footprint(scene).is_valid


def test_positions_of_a_resampled_scene() -> None:
    points = tuple((x, y, 10 + x / 1e4 + x * y / 1e9, 50 - y / 1e4) for x in (0.0, 400, 900) for y in (0.0, 300, 800))
    whole = ground.make_scene("EPSG:4326", size=(900, 800), locator=GroundControl(points))
    half = ground.make_scene("EPSG:4326", size=(450, 400), locator=GroundControl(points), scale=0.5)
    boxes = some_boxes(4) / 20
    assert project(half, boxes[:, :2] / 2, "EPSG:4326") == pytest.approx(
        project(whole, boxes[:, :2], "EPSG:4326"), abs=1e-12
    )
    for at_half, at_whole in zip(ground_size(half, boxes / 2), ground_size(whole, boxes), strict=True):
        assert at_half == pytest.approx(at_whole, rel=1e-6)
    assert footprint(half).equals_exact(footprint(whole), 1e-9)
    affine = make_scene("EPSG:4326", Affine(2e-4, 0, 10, 0, -2e-4, 50), 450, 400)
    assert project(replace(affine, scale=0.5), [[100.0, 50]], "EPSG:4326")[0] == pytest.approx((10.02, 49.99))


def test_a_grid_whose_rows_are_centred_on_the_poles_ends_there() -> None:
    grid = make_scene("EPSG:4326", Affine(0.5, 0, -180.25, 0, -0.5, 90.25), 720, 361)
    assert check_ground(grid, "OGC:CRS84") is None
    assert footprint(grid).bounds == (-180, -90, 180, 90)
    top = ground_polygons(grid, np.array([[10.0, 0, 12, 1]]), "OGC:CRS84")[0]
    assert top.bounds == pytest.approx((-175.25, 89.75, -174.25, 90))
    beyond = make_scene("EPSG:4326", Affine(0.5, 0, 0, 0, -0.5, 100), 100, 100)
    assert placed(beyond, np.array([[0.0, 0, 5, 5], [0, 50, 5, 60]])).tolist() == [False, True]
    assert unplaced_share(beyond) == pytest.approx(0.19, abs=0.01)
    assert footprint(beyond).bounds == pytest.approx((0, 50, 50, 90), abs=0.01)


def test_ground_without_known_height_has_no_position(tmp_path: Path) -> None:
    camera, dem = ground.Camera(), ground.Dem()
    path = dem.write(tmp_path / "dem.tif", hole=slice(90, 160))
    locator = RationalPolynomials(tuple(sorted(camera.tags().items())), 0.0, str(path))
    scene = ground.make_scene("EPSG:4326", size=camera.size, locator=locator)
    rng = np.random.default_rng(5)
    corner = rng.uniform((0, 0), np.array(camera.size) - 30, (500, 2))
    boxes = np.hstack([corner, corner + rng.uniform(3, 30, (500, 2))])
    kept = placed(scene, boxes)
    east = camera.ground((boxes[:, :2] + boxes[:, 2:]) / 2, dem.at)[:, 0]
    edge = dem.west + 90 * dem.step
    clear = np.abs(east - edge) > 0.0006
    assert np.array_equal(kept[clear], (east < edge)[clear]) and 0.2 < kept.mean() < 0.8
    share = unplaced_share(scene)
    assert "have no place on the ground" in check_ground(scene, "OGC:CRS84")
    assert share == pytest.approx(1 - kept.mean(), abs=0.08)
    frame, _ = clip_to_ground(scene, pixel_polygons(np.array([[0.0, 0, *camera.size]])))
    outlines = ground_geometries(scene, frame, "OGC:CRS84")
    assert shapely.union_all(outlines).bounds[2] == pytest.approx(edge, abs=0.001)
    quads = ground_polygons(scene, boxes[kept], "OGC:CRS84")
    truth = camera.ground(boxes[kept][:, [0, 1]], dem.at)
    got = np.array(
        [np.abs(shapely.get_coordinates(q) - t).max(axis=1).min() for q, t in zip(quads, truth, strict=True)]
    )
    assert np.quantile(got, 0.95) < 0.01 * camera.degrees[1] * 2 / camera.size[1]


def test_points_off_the_map_are_refused() -> None:
    off = make_scene("EPSG:4326", Affine(1, 0, 0, 0, -1, 600), 100, 100)
    with pytest.raises(SceneError, match="no pixel has a position"):
        ground_polygons(off, np.array([[0.0, 0, 1, 1]]), "EPSG:32633")
    far = make_scene("EPSG:4326", Affine(0.1, 0, -120, 0, -0.1, 50), 100, 100)
    with pytest.raises(
        SceneError, match=r"pixel \(1\.0, 0\.0\) at -119\.9, 50 .* no coordinates in .* choose another CRS"
    ):
        ground_polygons(far, np.array([[0.0, 0, 1, 1]]), "+proj=gnom +lat_0=0 +lon_0=60")


def test_unknown_crs_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="EPSG:32633"):
        ground_polygons(UTM, np.array([[0.0, 0, 1, 1]]), "EPSG:0")


def test_names() -> None:
    assert crs_name(CRS.from_epsg(32633).to_wkt()) == "EPSG:32633"
    assert crs_name(CRS.from_user_input("OGC:CRS84").to_json()) == "OGC:CRS84"
    assert crs_name("+proj=laea +lat_0=10 +lon_0=20 +type=crs").startswith("PROJCRS")


def test_no_boxes() -> None:
    none = np.empty((0, 4))
    assert len(ground_polygons(UTM, none, "OGC:CRS84")) == 0
    assert lonlat_centres(UTM, none).shape == (0, 2)
    assert [column.shape for column in ground_size(UTM, none)] == [(0,)] * 3
