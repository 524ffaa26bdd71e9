"""Areas of interest in scenes of every kind, checked by transforming pixels to the ground."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pandas
import pyogrio
import pytest
import shapely
from affine import Affine
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyproj import CRS, Transformer

from geosod.errors import ConfigError, SceneError
from geosod.scene import GroundControl, RationalPolynomials, Scene, SceneRef
from geosod.scenes.aoi import Aoi, load_aoi, polygons_in_scene, split_layer
from geosod.scenes.mask import Mask, mask_in_scene
from geosod.scenes.open import open_scene
from geosod.setting_types import MaskSetting
from tests.ground import GOES_EAST, HIMAWARI, Camera, Dem, Satellite, make_scene, thin_plate
from tests.rasters import UTM31, noise, write_tif

LONLAT = CRS.from_user_input("OGC:CRS84").to_wkt()
CAMERA = Camera()


def wkt(crs: str) -> str:
    return str(CRS.from_user_input(crs).to_wkt())


def lattice(scene: Scene, n: int = 60) -> np.ndarray:
    xs, ys = np.linspace(0.5, scene.width - 0.5, n), np.linspace(0.5, scene.height - 0.5, n)
    return np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)


def check(scene: Scene, area: shapely.Geometry, wanted: np.ndarray, *, slack: float = 1.5) -> None:
    """Check which points of the lattice lie in the area, except within `slack` pixels of its border."""
    xy = lattice(scene)
    clear = shapely.distance(shapely.boundary(area), shapely.points(xy)) > slack
    assert clear.mean() > 0.8 and wanted[clear].any()
    assert np.array_equal(shapely.contains_xy(area, *xy.T)[clear], wanted[clear])
    assert area.is_valid and shapely.box(0, 0, scene.width, scene.height).buffer(1e-6).contains(area)


def control_points(seed: int, size: tuple[int, int], bend: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, size[0], 8), np.linspace(0, size[1], 7)))
    lon = 12 + 1e-4 * x + 3e-5 * y + bend * 1e-8 * x * y + rng.normal(0, 2e-4, len(x))
    lat = 48 - 9e-5 * y + 2e-5 * x + bend * 1e-8 * x * x + rng.normal(0, 2e-4, len(x))
    return np.stack([x, y, lon, lat], axis=1)


def star(seed: int, lon: float, lat: float, reach: float) -> shapely.Geometry:
    rng = np.random.default_rng(seed)
    turn = np.linspace(0, 2 * np.pi, 9, endpoint=False)
    far = rng.uniform(0.4, 1, 9) * reach
    return shapely.Polygon(np.stack([lon + far * np.cos(turn), lat + 0.7 * far * np.sin(turn)], axis=1))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 3))
def test_through_control_points(seed: int, bend: float) -> None:
    points = control_points(seed, (900, 700), bend)
    scene = make_scene("EPSG:4326", size=(900, 700), locator=GroundControl(tuple(map(tuple, points.tolist()))))
    middle = thin_plate(points)(np.array([[450.0, 350.0]]))[0]
    area = star(seed, *middle, 0.03)
    wanted = shapely.contains_xy(area, *thin_plate(points)(lattice(scene)).T)
    check(scene, polygons_in_scene(Aoi(area, LONLAT), scene), wanted)


def test_through_control_points_that_cross_the_antimeridian() -> None:
    points = control_points(3, (900, 700), 1)
    points[:, 2] += 168 - 0.06
    scene = make_scene("EPSG:4326", size=(900, 700), locator=GroundControl(tuple(map(tuple, points.tolist()))))
    truth = thin_plate(points)(lattice(scene))
    beyond = star(1, 180, 47.96, 0.03)
    halves = [shapely.box(179, 40, 180, 50), shapely.affinity.translate(shapely.box(180, 40, 181, 50), -360)]
    east = shapely.affinity.translate(beyond, -360)
    split = shapely.union(shapely.intersection(beyond, halves[0]), shapely.intersection(east, halves[1]))
    for area in (beyond, east, split):
        check(scene, polygons_in_scene(Aoi(area, LONLAT), scene), shapely.contains_xy(beyond, *truth.T))


@pytest.mark.parametrize("relief", [False, True])
def test_through_a_camera(relief: bool, tmp_path: Path) -> None:
    dem = Dem()
    path = str(dem.write(tmp_path / "dem.tif")) if relief else None
    locator = RationalPolynomials(tuple(sorted(CAMERA.tags().items())), 0.0 if relief else 300.0, path)
    scene = make_scene("EPSG:4326", size=CAMERA.size, locator=locator)
    truth = CAMERA.ground(lattice(scene), dem.at if relief else 300.0)
    area = star(4, CAMERA.lon, CAMERA.lat, 0.006)
    wanted, slack = shapely.contains_xy(area, *truth.T), 4 if relief else 1.5
    check(scene, polygons_in_scene(Aoi(area, LONLAT), scene), wanted, slack=slack)
    utm = geopandas.GeoSeries([shapely.segmentize(area, 1e-4)], crs=4326).to_crs(32632)
    check(scene, polygons_in_scene(Aoi(utm[0], utm.crs.to_wkt()), scene), wanted, slack=slack)


def test_where_a_camera_has_no_ground_there_is_no_area(tmp_path: Path) -> None:
    dem = Dem()
    path = str(dem.write(tmp_path / "dem.tif", hole=slice(90, 160)))
    scene = make_scene(
        "EPSG:4326", size=CAMERA.size, locator=RationalPolynomials(tuple(sorted(CAMERA.tags().items())), 0.0, path)
    )
    everything = Aoi(shapely.box(0, 0, 20, 80), LONLAT)
    truth = CAMERA.ground(lattice(scene), dem.at)
    check(scene, polygons_in_scene(everything, scene), truth[:, 0] < dem.west + 90 * dem.step, slack=60)


@pytest.mark.parametrize("satellite", [GOES_EAST, HIMAWARI], ids=["goes", "himawari"])
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(-75, 75), st.floats(-75, 75))
def test_on_a_full_disk(satellite: Satellite, seed: int, east: float, north: float) -> None:
    side = 1200
    scene = make_scene(satellite.crs, satellite.transform(side), size=(side, side))
    lon, lat = satellite.ground(*(scene.transform @ lattice(scene).T)).T
    area = star(seed, satellite.lon + east, north, 14)
    wanted = np.zeros(len(lon), np.bool_)
    for shift in (-360, 0, 360):
        wanted |= shapely.contains_xy(area, lon + shift, lat)
    assume(wanted.sum() > 5)
    found = polygons_in_scene(Aoi(area, LONLAT), scene)
    # Edges are 32 pieces of the shape's size; near the limb a pixel is long.
    check(scene, found, wanted, slack=2.5)


def test_the_whole_world_on_a_full_disk_is_the_disk() -> None:
    scene = make_scene(GOES_EAST.crs, GOES_EAST.transform(1200), size=(1200, 1200))
    lonlat = GOES_EAST.ground(*(scene.transform @ lattice(scene).T))
    for world in (shapely.box(-180, -90, 180, 90), shapely.box(0, -90, 360, 90), shapely.box(-200, -90, 30, 90)):
        found = polygons_in_scene(Aoi(world, LONLAT), scene)
        check(scene, found, np.isfinite(lonlat).all(axis=1), slack=2.5)
    assert polygons_in_scene(Aoi(shapely.box(100, -10, 110, 10), LONLAT), scene).is_empty


ACROSS = {
    "degrees from the west": ("EPSG:4326", Affine(0.001, 0, 179.5, 0, -0.001, -16)),
    "degrees from the east": ("EPSG:4326", Affine(0.001, 0, -180.5, 0, -0.001, -16)),
    "utm 60": ("EPSG:32760", Affine(100, 0, 730_000, 0, -100, 8_250_000)),
    "utm 1": ("EPSG:32701", Affine(100, 0, 140_000, 0, -100, 8_250_000)),
    "mercator past its edge": ("EPSG:3857", Affine(100, 0, 19_990_000, 0, -100, -1_800_000)),
    "pacific": ("EPSG:3832", Affine(100, 0, 3_290_000, 0, -100, -1_800_000)),
    "grads from Paris": ("EPSG:4807", Affine(0.001, 0, 196.9, 0, -0.001, -18)),
}


@pytest.mark.parametrize("name", ACROSS)
@pytest.mark.parametrize("form", ["beyond 180", "below -180", "two polygons", "metres"])
def test_across_the_antimeridian(name: str, form: str) -> None:
    crs, transform = ACROSS[name]
    scene = make_scene(crs, transform, size=(1000, 800))
    to_degrees = Transformer.from_crs(crs, 4326, always_xy=True)
    lon, lat = to_degrees.transform(*(transform @ lattice(scene).T))
    middle_lat = float(np.median(lat))
    area = shapely.box(179.8, middle_lat - 0.2, 180.3, middle_lat + 0.25)
    wanted = shapely.contains_xy(area, lon % 360, lat)
    given, given_crs = area, LONLAT
    if form == "below -180":
        given = shapely.affinity.translate(area, -360)
    elif form == "two polygons":
        x0, y0, x1, y1 = area.bounds
        given = shapely.union(shapely.box(x0, y0, 180, y1), shapely.box(-180, y0, x1 - 360, y1))
    elif form == "metres":
        way = Transformer.from_crs(4326, "EPSG:3832", always_xy=True)
        given = shapely.transform(area, lambda xy: np.stack(way.transform(*xy.T), axis=1))
        given_crs = wkt("EPSG:3832")
    check(scene, polygons_in_scene(Aoi(given, given_crs), scene), wanted)


@pytest.mark.parametrize("crs", ["EPSG:3413", "EPSG:3031"])
def test_around_a_pole(crs: str) -> None:
    scene = make_scene(crs, Affine(1000, 0, -300_000, 0, -1000, 400_000), size=(700, 700))
    pole = -90 if crs == "EPSG:3031" else 90
    lon, lat = Transformer.from_crs(crs, 4326, always_xy=True).transform(*(scene.transform @ lattice(scene).T))
    cap = shapely.box(-180, min(pole, pole * 0.98), 180, max(pole, pole * 0.98))
    check(scene, polygons_in_scene(Aoi(cap, LONLAT), scene), np.abs(lat) > 88.2, slack=2)
    wedge = shapely.box(20, min(pole, pole * 0.9), 110, max(pole, pole * 0.9))
    check(scene, polygons_in_scene(Aoi(wedge, LONLAT), scene), (lon > 20) & (lon < 110), slack=2)
    world = polygons_in_scene(Aoi(shapely.box(-180, -90, 180, 90), LONLAT), scene)
    assert world.area == pytest.approx(700 * 700, rel=2e-3)


def test_an_aoi_whose_crs_covers_less_than_the_scene() -> None:
    """Much of the full disk has no coordinates in UTM."""
    scene = make_scene(GOES_EAST.crs, GOES_EAST.transform(1200), size=(1200, 1200))
    lonlat = GOES_EAST.ground(*(scene.transform @ lattice(scene).T))
    area = shapely.box(200_000, 1_000_000, 800_000, 3_000_000)
    x, y = Transformer.from_crs(4326, "EPSG:32618", always_xy=True).transform(*lonlat.T)
    found = polygons_in_scene(Aoi(area, wkt("EPSG:32618")), scene)
    check(scene, found, shapely.contains_xy(area, x, y))


def test_other_bodies_and_pixel_scenes_are_refused(tmp_path: Path) -> None:
    geopandas.GeoSeries([shapely.box(0, 0, 1, 1)], crs=4326).to_file(tmp_path / "a.geojson")
    area = load_aoi(tmp_path / "a.geojson")
    mars = make_scene("IAU_2015:49900", Affine(0.001, 0, 0, 0, -0.001, 1), size=(1000, 1000))
    with pytest.raises(SceneError, match="is on Mars, the AOI or mask on the Earth; give that in a CRS of Mars"):
        polygons_in_scene(area, mars)
    assert polygons_in_scene(Aoi(area.geometry, mars.crs or ""), mars).area == pytest.approx(1e6)
    with pytest.raises(SceneError, match="has no georeference"):
        polygons_in_scene(area, make_scene(None))


WEST, EAST = shapely.box(500_000, 5_799_968, 500_010, 5_800_000), shapely.box(500_030, 5_799_968, 500_050, 5_800_000)


def in_scene(file: str, tmp_path: Path, **how: object) -> float:
    """Area of an AOI in a scene of 100 x 64 pixels of half a metre, in square pixels."""
    scene = open_scene(SceneRef(str(write_tif(tmp_path / "scene.tif", noise(1, 64, 100))), "s"))
    return polygons_in_scene(load_aoi(*split_layer(file), **how), scene).area


def frame(geometries: list[object], crs: object = UTM31) -> geopandas.GeoDataFrame:
    return geopandas.GeoDataFrame(geometry=geometries, crs=crs)


def test_every_layer_of_a_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    frame([WEST]).to_file(path, layer="west")
    frame([EAST]).to_crs(4326).to_file(path, layer="2024")
    frame([shapely.Point(0, 0)]).to_file(path, layer="points")
    pyogrio.write_dataframe(pandas.DataFrame({"x": [1]}), path, layer="notes")
    west, east = 20 * 64, 40 * 64
    assert in_scene(str(path), tmp_path) == pytest.approx(west + east, rel=1e-3)
    assert in_scene(f"{path}:west", tmp_path) == pytest.approx(west)
    assert in_scene(f"{path}:2024", tmp_path) == pytest.approx(east, rel=1e-3)
    with pytest.raises(ConfigError, match=r"has no layer 'north'; its layers are west, 2024, points, notes"):
        in_scene(f"{path}:north", tmp_path)
    with pytest.raises(ConfigError, match="holds no polygon"):
        in_scene(f"{path}:points", tmp_path)
    frame([EAST]).to_file(path, layer="topp:states")
    assert in_scene(f"{path}:topp:states", tmp_path) == pytest.approx(east)
    colon = tmp_path / "b:west.gpkg"
    path.rename(colon)
    assert in_scene(f"{colon}:west", tmp_path) == pytest.approx(west), "a colon in the name of the file"


def test_folders_of_a_kml_and_of_shapefiles_count(tmp_path: Path) -> None:
    lonlat = [frame([area]).to_crs(4326).geometry[0] for area in (WEST, EAST)]
    placemarks = [
        f"<Placemark><Polygon><outerBoundaryIs><LinearRing><coordinates>"
        f"{' '.join(f'{x},{y}' for x, y in area.exterior.coords)}"
        "</coordinates></LinearRing></outerBoundaryIs></Polygon></Placemark>"
        for area in lonlat
    ]
    inner = f"<Folder><name>b</name>{placemarks[1]}</Folder>"
    text = f"<Folder><name>a</name>{placemarks[0]}{inner}</Folder>"
    (tmp_path / "a.kml").write_text(f'<kml xmlns="http://www.opengis.net/kml/2.2"><Document>{text}</Document></kml>')
    whole = (20 + 40) * 64
    assert in_scene(str(tmp_path / "a.kml"), tmp_path) == pytest.approx(whole, rel=1e-3)
    (tmp_path / "shapes").mkdir()
    for name, area in (("west", WEST), ("east", EAST)):
        frame([area]).to_file(tmp_path / "shapes" / f"{name}.shp")
    assert in_scene(str(tmp_path / "shapes"), tmp_path) == pytest.approx(whole)
    assert in_scene(f"{tmp_path / 'shapes'}:west", tmp_path) == pytest.approx(20 * 64)


def test_a_layer_of_a_vector_mask(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    frame([WEST]).to_file(path, layer="west")
    frame([EAST]).to_file(path, layer="2024")
    scene = open_scene(SceneRef(str(write_tif(tmp_path / "scene.tif", noise(1, 64, 100))), "s"))

    def masked(setting: str) -> float:
        mask = MaskSetting.model_validate(setting)
        return mask_in_scene(Mask("cloud", mask.path, mask.values, mask.invert), scene).area

    assert masked(f"{path}") == (20 + 40) * 64
    assert masked(f"{path}:2024") == 40 * 64
    assert masked(f"!{path}:west") == (100 - 20) * 64
    codes = write_tif(tmp_path / "codes.tif", np.repeat([[[3] * 50 + [8] * 50]], 64, axis=1).astype("uint8"))
    assert masked(f"{codes}:8") == 50 * 64
    with pytest.raises(ConfigError, match="'clouds' is no list of codes"):
        masked(f"{codes}:clouds")
