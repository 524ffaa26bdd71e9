"""Positions and areas against GDAL's own transformation and pyproj's geodesics, over CRSs, affines and positions.

The oracle never calls the package: corners go through the affine by hand, through GDAL with rasterio, and areas are
those of geodesic polygons with densified edges.
"""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyproj import CRS, Geod, Transformer
from rasterio.warp import transform as gdal_transform

from geosod.errors import SceneError
from geosod.georeference.points import ground_region, pixel_to_lonlat, placed, project, unplaced_share
from geosod.georeference.polygons import clip_to_ground, footprint, ground_polygons, lonlat_centres, pixel_polygons
from geosod.georeference.sizes import check_ground, equal_area, ground_size
from geosod.scene import Scene
from tests.ground import GOES_EAST, HIMAWARI, METEOSAT, Satellite, make_scene

WGS84 = Geod(ellps="WGS84")
#: A CRS, the degrees it is used in (west, south, east, north), and the metres in one of its units.
PLACES = {
    "utm": ("EPSG:32633", (11, 1, 19, 80), 1),
    "utm south": ("EPSG:32733", (11, -79, 19, -1), 1),
    "degrees": ("EPSG:4326", (-179, -80, 179, 80), 111_320),
    "grads from Paris": ("EPSG:4807", (-4, 42.5, 8, 51), 100_000),
    "mercator": ("EPSG:3857", (-179, -88, 179, 88), 1),
    "US survey feet": ("EPSG:2263", (-74.2, 40.5, -72, 41.2), 1200 / 3937),
    "international feet": ("EPSG:2225+5703", (-124, 39, -120, 42), 1200 / 3937),
    "feet of 0.3048": ("EPSG:2224", (-114.2, 31.5, -113.3, 36.5), 0.3048),
    "south orientated": ("EPSG:2053", (28, -33, 30, -23), 1),
    "compound": ("EPSG:7405", (-5, 51, 1, 57.5), 1),
    "laea": ("EPSG:3035", (-8, 36, 28, 70), 1),
    "no authority": ("+proj=omerc +lat_0=4 +lonc=115 +alpha=53 +k=0.99984 +gamma=53 +ellps=WGS84", (110, 1, 118, 7), 1),
    "polar": ("EPSG:3413", (-180, 62, 180, 89.9), 1),
    "polar south": ("EPSG:3031", (-180, -89.9, 180, -62), 1),
}  # fmt: skip

affines = st.tuples(
    st.floats(0, 360), st.floats(0.2, 30), st.floats(0.5, 2), st.floats(-25, 25), st.sampled_from([1.0, -1.0])
)
spots = st.tuples(st.floats(0, 1), st.floats(0, 1))


def scene_at(
    crs: str, lonlat: tuple[float, float], metres: float, affine: tuple[float, ...], size: int = 2000
) -> Scene:
    """A scene centred on a position, with a rotated, sheared, perhaps mirrored affine."""
    angle, pixel, ratio, shear, mirror = affine
    (x,), (y,) = gdal_transform("EPSG:4326", plain(crs), [lonlat[0]], [lonlat[1]])
    spread = (
        Affine.rotation(angle) @ Affine.shear(shear) @ Affine.scale(pixel / metres, -mirror * ratio * pixel / metres)
    )
    return make_scene(
        crs, Affine.translation(x, y) @ spread @ Affine.translation(-size / 2, -size / 2), size=(size, size)
    )


def plain(crs: str) -> rasterio.CRS:
    return rasterio.CRS.from_wkt(CRS.from_user_input(crs).to_wkt())


def oracle(scene: Scene, xy: np.ndarray, target: str = "EPSG:4326") -> np.ndarray:
    """(N, 2) coordinates computed by the affine and GDAL alone."""
    assert scene.transform is not None and scene.crs is not None
    x, y = scene.transform @ np.asarray(xy, float).T
    found = gdal_transform(plain(scene.crs), target, list(x), list(y))
    return np.stack(found, axis=1)


def boxes_in(scene: Scene, seed: int, n: int = 12, most: float = 200) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, min(scene.width, scene.height) - most, (n, 2))
    return np.hstack([corner, corner + rng.uniform(2, most, (n, 2))])


def corners_of(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)


def metres_apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(WGS84.inv(*a.T, *b.T)[2])


def geodesic_area(scene: Scene, box: np.ndarray, pieces: int = 40) -> float:
    """The area of a box with split edges, on the ellipsoid of the scene's own CRS."""
    x0, y0, x1, y1 = box
    ring = shapely.segmentize(shapely.box(x0, y0, x1, y1), max(x1 - x0, y1 - y0) / pieces)
    geodetic = CRS.from_wkt(scene.crs).geodetic_crs.to_2d()
    degrees = np.degrees(geodetic.axis_info[0].unit_conversion_factor)
    lonlat = oracle(scene, shapely.get_coordinates(ring), plain(geodetic.to_wkt())) * degrees
    return abs(geodetic.get_geod().polygon_area_perimeter(*lonlat.T)[0])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(PLACES)), spots, affines, st.integers(0, 10**6))
def test_boxes_lie_where_gdal_puts_them(name: str, spot: tuple[float, float], affine: tuple, seed: int) -> None:
    crs, (west, south, east, north), metres = PLACES[name]
    scene = scene_at(crs, (west + spot[0] * (east - west), south + spot[1] * (north - south)), metres, affine)
    pixel = affine[1] * min(1, affine[2]) * np.cos(np.radians(25))
    boxes = boxes_in(scene, seed)
    expected = oracle(scene, corners_of(boxes).reshape(-1, 2)).reshape(-1, 4, 2)
    for polygon, corners, box in zip(ground_polygons(scene, boxes, "OGC:CRS84"), expected, boxes, strict=True):
        vertices = shapely.get_coordinates(polygon)
        assert (np.abs(vertices) <= (180, 90)).all()
        apart = metres_apart(np.repeat(corners, len(vertices), axis=0), np.tile(vertices, (4, 1)))
        scale = np.cos(np.radians(corners[0, 1])) if name == "mercator" else 1.0
        assert apart.reshape(4, -1).min(axis=1).max() < 0.01 * pixel * scale + 1e-4, box
        assert polygon.is_valid
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert metres_apart(lonlat_centres(scene, boxes), oracle(scene, centres)).max() < 0.01 * pixel + 1e-4


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(PLACES)), spots, affines, st.integers(0, 10**6))
def test_areas_are_geodesic(name: str, spot: tuple[float, float], affine: tuple, seed: int) -> None:
    crs, (west, south, east, north), metres = PLACES[name]
    lon, lat = west + spot[0] * (east - west), south + spot[1] * (north - south)
    scene = scene_at(crs, (lon, lat), metres, affine)
    boxes = boxes_in(scene, seed, 4)
    width, height, area = ground_size(scene, boxes)
    for i, box in enumerate(boxes):
        assert area[i] == pytest.approx(geodesic_area(scene, box), rel=1e-3)
    assert (width > 0).all() and (height > 0).all()


@pytest.mark.parametrize("lonlat", [(-6.235, 49.9), (-9.0, 51.0), (2.88, 52.0), (-3.0, 61.33)])
def test_one_transformation_is_used_for_the_whole_scene(lonlat: tuple[float, float]) -> None:
    """Around Britain PROJ switches between transformations to WGS 84 that differ by a hundred metres."""
    scene = scene_at("EPSG:7405", lonlat, 1, (10, 20, 1, 0, 1), size=4000)
    xs = np.linspace(0, 4000, 41)
    grid = np.stack(np.meshgrid(xs, xs), axis=-1).reshape(-1, 2)
    found = project(scene, grid, "OGC:CRS84").reshape(41, 41, 2)
    bend = np.concatenate([np.abs(np.diff(found, 2, axis=k)).reshape(-1, 2) for k in (0, 1)])
    assert bend.max() < 2e-5, "degrees; a tear would be some 1e-3"


def test_feet_are_true_metres() -> None:
    for name, foot in (
        ("US survey feet", 1200 / 3937),
        ("international feet", 1200 / 3937),
        ("feet of 0.3048", 0.3048),
    ):
        crs, (west, south, east, north), _ = PLACES[name]
        (x,), (y,) = gdal_transform("EPSG:4326", plain(crs), [(west + east) / 2], [(south + north) / 2])
        scene = make_scene(crs, Affine(2, 0, x, 0, -2, y))
        width, height, area = ground_size(scene, np.array([[0.0, 0.0, 500.0, 250.0]]))
        # The scale of these maps is within 1 in 10,000 of true.
        assert (width[0], height[0], area[0]) == pytest.approx((1000 * foot, 500 * foot, 5e5 * foot**2), rel=3e-4)


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(["EPSG:4326", "EPSG:32601", "EPSG:32760", "EPSG:3857", "EPSG:3832"]),
    st.floats(-70, 70), affines, st.integers(0, 10**6),
)  # fmt: skip
def test_boxes_across_the_antimeridian_keep_their_position_and_area(
    crs: str, lat: float, affine: tuple, seed: int
) -> None:
    lat = abs(lat) if crs == "EPSG:32601" else -abs(lat) if crs == "EPSG:32760" else lat
    metres = 111_320 if CRS.from_user_input(crs).is_geographic else 1
    affine = (affine[0], affine[1] * 20, *affine[2:])
    scene = scene_at(crs, (179.99 if crs != "EPSG:32601" else -179.99, lat), metres, affine)
    boxes = np.vstack([boxes_in(scene, seed, 30), [[900, 900, 1100, 1100]]])
    polygons = ground_polygons(scene, boxes, "OGC:CRS84")
    split = shapely.get_type_id(polygons) == shapely.GeometryType.MULTIPOLYGON
    local = Transformer.from_crs(4326, f"+proj=laea +lon_0=180 +lat_0={lat} +ellps=WGS84", always_xy=True)
    for polygon, box, is_split in zip(polygons, boxes, split, strict=True):
        assert polygon.is_valid and np.abs(shapely.bounds(polygon))[[0, 2]].max() <= 180
        corners = oracle(scene, corners_of(box[None])[0])
        assert is_split == (len(set(corners[:, 0] % 360 > 180)) > 1) or np.abs(np.abs(corners[:, 0]) - 180).min() < 1e-6
        # Sides are straight in degrees, whatever the map.
        corners[:, 0] %= 360
        expected = carried(local, shapely.segmentize(shapely.Polygon(corners), 0.005))
        got = carried(local, shapely.segmentize(polygon, 0.005))
        assert shapely.symmetric_difference(got, expected).area < 1e-3 * expected.area


def carried(way: Transformer, geometry: shapely.Geometry) -> shapely.Geometry:
    """A geometry in degrees, reprojected and dissolved."""
    parts = shapely.get_parts(geometry)
    return shapely.union_all(
        [shapely.make_valid(shapely.transform(p, lambda xy: np.stack(way.transform(*xy.T), axis=1))) for p in parts]
    )


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["EPSG:3413", "EPSG:3031", "EPSG:3571", "EPSG:5041", "EPSG:5042"]), st.floats(-0.4, 0.4),
    st.floats(-0.4, 0.4), affines, st.integers(0, 10**6),
)  # fmt: skip
def test_boxes_at_a_pole_keep_their_position_and_area(crs: str, dx: float, dy: float, affine: tuple, seed: int) -> None:
    pole = -90 if crs in ("EPSG:3031", "EPSG:5042") else 90
    (x,), (y,) = gdal_transform("EPSG:4326", plain(crs), [0], [pole])
    angle, pixel, ratio, shear, mirror = affine
    spread = Affine.rotation(angle) @ Affine.shear(shear) @ Affine.scale(pixel, -mirror * ratio * pixel)
    middle = 1000 + np.array([dx, dy]) * 1000
    scene = make_scene(crs, Affine.translation(x, y) @ spread @ Affine.translation(*-middle), size=(2000, 2000))
    around = np.array([[*(middle - 90), *(middle + 70)]])
    boxes = np.vstack([boxes_in(scene, seed, 10), around])
    local = Transformer.from_crs(4326, f"+proj=laea +lon_0=0 +lat_0={pole} +ellps=WGS84", always_xy=True)
    polygons = ground_polygons(scene, boxes, "OGC:CRS84")
    assert abs(polygons[-1].bounds[1 if pole < 0 else 3]) == 90
    for polygon, box in zip(polygons, boxes, strict=True):
        assert polygon.is_valid and (np.abs(shapely.get_coordinates(polygon)) <= (180, 90)).all()
        corners = np.stack(local.transform(*oracle(scene, corners_of(box[None])[0]).T), axis=1)
        expected, got = shapely.Polygon(corners), carried(local, shapely.segmentize(polygon, 0.5))
        vertices = shapely.get_coordinates(got)
        near = np.hypot(*(corners[:, None] - vertices[None]).transpose(2, 0, 1)).min(axis=1)
        assert near.max() < 0.01 * pixel
        # Between corners, sides that are straight in degrees bulge round the pole, by less the farther it is.
        if shapely.distance(expected, shapely.Point(0, 0)) > 20 * np.sqrt(expected.area):
            assert got.area == pytest.approx(expected.area, rel=0.1)
        assert (shapely.distance(got, shapely.Point(0, 0)) < 1e-6) == expected.intersects(shapely.Point(0, 0))
        assert np.hypot(*vertices.T).max() < np.hypot(*corners.T).max() + 0.01 * pixel


@pytest.mark.parametrize("satellite", [GOES_EAST, METEOSAT, HIMAWARI], ids=["goes", "meteosat", "himawari"])
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1000, 3712, 5500]))
def test_positions_on_a_full_disk(satellite: Satellite, seed: int, side: int) -> None:
    scene = make_scene(satellite.crs, satellite.transform(side), size=(side, side))
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, side - 20, (400, 2))
    boxes = np.hstack([corner, corner + rng.uniform(1, 20, (400, 2))])
    points = corners_of(boxes).reshape(-1, 2)
    truth = satellite.ground(*(scene.transform @ points.T))
    on_disk = np.isfinite(truth).all(axis=1).reshape(-1, 4).all(axis=1)
    kept = placed(scene, boxes)
    assert np.array_equal(kept, on_disk)
    found = pixel_to_lonlat(scene, points)
    seen = np.isfinite(found).all(axis=1)
    difference = np.abs(found - truth)[seen]
    difference[:, 0] = np.minimum(difference[:, 0], 360 - difference[:, 0])
    assert np.array_equal(seen, np.isfinite(truth).all(axis=1))
    # Within a millionth of a degree, but where the ground is seen edgeways and a rounding error grows without limit.
    grazing = np.hypot(*((scene.transform @ points.T) - np.zeros((2, 1))))[seen] > 5.40e6
    assert difference[~grazing].max() < 1e-6
    assert difference.max() < 1e-3
    geod = Geod(a=satellite.equator, b=satellite.pole)
    inner = kept & (np.hypot(*(scene.transform @ ((boxes[:, :2] + boxes[:, 2:]) / 2).T)) < 5.0e6)
    assume(inner.sum() > 3)
    chosen = boxes[inner][:5]
    area = ground_size(scene, chosen)[2]
    for box, found_area in zip(chosen, area, strict=True):
        ring = shapely.segmentize(shapely.box(*box), 1.0)
        lonlat = satellite.ground(*(scene.transform @ shapely.get_coordinates(ring).T))
        assert found_area == pytest.approx(abs(geod.polygon_area_perimeter(*lonlat.T)[0]), rel=1e-3)


@pytest.mark.parametrize("satellite", [GOES_EAST, METEOSAT, HIMAWARI], ids=["goes", "meteosat", "himawari"])
def test_the_footprint_of_a_full_disk_is_the_visible_earth(satellite: Satellite) -> None:
    scene = make_scene(satellite.crs, satellite.transform(3000), size=(3000, 3000))
    outline = footprint(scene)
    assert outline.is_valid
    area = abs(Geod(a=satellite.equator, b=satellite.pole).geometry_area_perimeter(outline)[0])
    assert area == pytest.approx(satellite.visible_area(), rel=3e-3)
    assert shapely.contains_xy(outline, satellite.lon, 0) and not shapely.contains_xy(outline, satellite.lon - 90, 0)
    frame, origin = clip_to_ground(scene, pixel_polygons(np.array([[0.0, 0, 3000, 3000]])))
    flat = shapely.transform(frame, lambda xy: equal_area(scene, xy))
    assert shapely.area(flat).sum() == pytest.approx(area, rel=3e-3) and set(origin) == {0}
    assert unplaced_share(scene) == pytest.approx(1 - satellite.disk_area() / 10.9e6**2, abs=2e-4)


def test_crops_of_a_full_disk() -> None:
    whole = GOES_EAST.transform(3000)
    inner = make_scene(GOES_EAST.crs, whole @ Affine.translation(1200, 1200), size=(600, 600))
    assert ground_region(inner) is None and check_ground(inner, "OGC:CRS84") is None
    corner = make_scene(GOES_EAST.crs, whole @ Affine.translation(300, 300), size=(600, 600))
    assert 0 < unplaced_share(corner) < 0.5
    assert "have no place" in (check_ground(corner, "OGC:CRS84") or "")
    space = make_scene(GOES_EAST.crs, whole, size=(300, 300))
    with pytest.raises(SceneError, match="no pixel has a position"):
        footprint(space)


def test_small_crops_along_the_limb_are_known_to_look_past_it() -> None:
    """Few points are sampled in a small scene."""
    whole, rng, partly = GOES_EAST.transform(3000), np.random.default_rng(3), 0
    for angle in rng.uniform(0, 2 * np.pi, 24):
        away = rng.uniform(1380, 1500)
        col, row = (round(1500 + away * side) - 100 for side in (np.cos(angle), np.sin(angle)))
        crop = make_scene(GOES_EAST.crs, whole @ Affine.translation(col, row), size=(200, 200))
        x, y = np.meshgrid(*[np.linspace(0, 200, 101)] * 2)
        seen = np.isfinite(GOES_EAST.ground(*(crop.transform @ (x.ravel(), y.ravel())))).all(axis=1)
        assert (ground_region(crop) is None) == seen.all()
        assert unplaced_share(crop) == pytest.approx(1 - seen.mean(), abs=0.02)
        partly += 0.5 < seen.mean() < 1
    assert partly > 8


def test_the_corners_of_a_sinusoidal_world_have_no_position() -> None:
    """PROJ returns the coordinates of another position for them."""
    radius = 6371007.181
    scene = make_scene(f"+proj=sinu +R={radius}", Affine(20_000, 0, -2.002e7, 0, -20_000, 1.001e7), size=(2002, 1001))
    boxes = np.array([[10.0, 10, 20, 20], [1000, 500, 1010, 510], [10, 495, 20, 505]])
    assert placed(scene, boxes).tolist() == [False, True, True]
    frame, _ = clip_to_ground(scene, pixel_polygons(np.array([[0.0, 0, 2002, 1001]])))
    flat = shapely.transform(frame, lambda xy: equal_area(scene, xy))
    assert shapely.area(flat).sum() == pytest.approx(4 * np.pi * radius**2, rel=1e-4)
    with pytest.raises(SceneError, match="no coordinates"):
        ground_polygons(scene, boxes[:1], "OGC:CRS84")
