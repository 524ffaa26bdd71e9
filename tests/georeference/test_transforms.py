"""Ground control points and rational polynomials, against independent implementations of a spline and a camera."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyproj import CRS, Transformer
from rasterio.control import GroundControlPoint

from geosod.errors import ConfigError, SceneError
from geosod.georeference import transforms as module
from geosod.georeference.gcps import MAX_POINTS
from geosod.georeference.transforms import pixel_size, read_georeference, to_crs, to_pixels
from geosod.scene import GroundControl
from tests.ground import Camera, Dem, thin_plate, write_control

SIZE = (900, 700)


def control(seed: int = 0, n: int = 30, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(N, 4) points of a slightly curved, rotated scene of some 10 m pixels."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform((0, 0), size, (n, 2)).T
    lon = 12 + 1e-4 * x + 3e-5 * y + 4e-9 * x * y
    lat = 48 - 9e-5 * y + 2e-5 * x + 5e-9 * x * x
    return np.stack([x, y, lon, lat], axis=1)


def read(path: Path, **settings: object) -> tuple:
    with rasterio.open(path) as dataset:
        return read_georeference(dataset, **settings)


def read_points(tmp_path: Path, points: np.ndarray, crs: str = "EPSG:4326", size: tuple[int, int] = SIZE) -> tuple:
    return read(write_control(tmp_path / "c.tif", points, crs, size=size))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 60))
def test_a_spline_is_the_one_from_pixel_to_ground(seed: int, n: int) -> None:
    points = control(seed, n)
    assume(np.corrcoef(points[:, :2].T)[0, 1] ** 2 < 0.98)
    locator = GroundControl(tuple(map(tuple, points.tolist())))
    assert np.abs(to_crs(locator, points[:, :2]) - points[:, 2:]).max() < 1e-12 * 180
    xy = np.random.default_rng(seed).uniform((-90, -70), (990, 770), (200, 2))
    expected = thin_plate(points)(xy)
    assert np.abs(to_crs(locator, xy) - expected).max() < 1e-5 * 1e-4, "a hundred-thousandth of a pixel"
    back = to_pixels(locator, expected)
    fine = np.isfinite(back).all(axis=1)
    assert np.abs(back - xy)[fine].max(initial=0) < 0.02 and fine.mean() > 0.9


def test_points_are_read_with_their_crs_and_without_their_heights(tmp_path: Path) -> None:
    points = control()
    crs, transform, locator = read_points(tmp_path, points)
    assert CRS(crs).to_authority() == ("EPSG", "4326") and transform is None
    assert sorted(locator.points) == sorted(map(tuple, points.tolist()))
    assert pixel_size(locator) == pytest.approx(1e-4, rel=0.1)
    utm = points.copy()
    utm[:, 2:] = np.stack(Transformer.from_crs(4326, 32633, always_xy=True).transform(*points[:, 2:].T), axis=1)
    crs, _, locator = read_points(tmp_path, utm, "EPSG:32633")
    assert CRS(crs).to_authority() == ("EPSG", "32633")
    assert np.abs(to_crs(locator, utm[:, :2]) - utm[:, 2:]).max() < 1e-6


def test_duplicate_points_are_removed(tmp_path: Path) -> None:
    points = control()
    _, _, locator = read_points(tmp_path, np.vstack([points, points[:7]]))
    assert len(locator.points) == len(points)


WRONG = {
    "one": (lambda p: p[:1], "has 1 ground control point, but three are needed"),
    "two": (lambda p: p[:2], "has 2 ground control points, but three"),
    "line": (lambda p: np.array([[i, 2 * i, 10 + i / 1e4, 50 + (i == 3)] for i in range(9)]), "9 .* on one line"),
    "nearly": (lambda p: np.array([[i, 2 * i + i % 2, 10 + i, 50 + (i == 3)] for i in range(9)]), "9 .* or nearly"),
    "ground line": (lambda p: np.column_stack([p[:, :2], p[:, 2], p[:, 2] * 2]), "on one line"),
    "twice": (lambda p: np.vstack([p, p[0] + (0, 0, 0.1, 0)]), "give the pixel .* different positions"),
    "there twice": (lambda p: np.vstack([p, p[0] + (5, 0, 0, 0)]), "give the position .* different pixels"),
    "exchanged": (lambda p: np.vstack([p[2:], np.hstack([p[:2, :2], p[1::-1, 2:]])]), "folds over"),
    "corner": (lambda p: np.column_stack([p[:, :2] / 20, p[:, 2:]]), "too small a part of 900 x 700"),
    "not finite": (lambda p: np.vstack([p, [3, 4, np.inf, 50]]), "1 of its ground control points are not finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_unusable_points_are_refused(name: str) -> None:
    change, message = WRONG[name]

    class Dataset:
        width, height = SIZE
        crs = None
        transform = Affine.identity()
        gcps = ([GroundControlPoint(y, x, a, b) for x, y, a, b in change(control())], rasterio.CRS.from_epsg(4326))

        def tags(self, ns: str) -> dict[str, str]:
            return {}

    with pytest.raises(SceneError, match=message):
        read_georeference(Dataset())


def test_points_across_the_antimeridian_make_one_smooth_scene(tmp_path: Path) -> None:
    points = control()
    points[:, 2] += 168 - 0.05
    wrapped = points.copy()
    wrapped[:, 2] = (points[:, 2] + 180) % 360 - 180
    assert np.ptp(wrapped[:, 2]) > 300
    _, _, locator = read_points(tmp_path, wrapped)
    xy = np.random.default_rng(0).uniform(0, SIZE, (300, 2))
    difference = to_crs(locator, xy) - thin_plate(points)(xy)
    difference[:, 0] -= 360 * np.rint(difference[:, 0] / 360)
    assert np.abs(difference).max() < 1e-9


@pytest.mark.parametrize("middle", [(0.0, 90.0), (25.0, 84.0), (0.0, -90.0)])
def test_points_near_a_pole_are_projected(middle: tuple[float, float], tmp_path: Path) -> None:
    """The scene is 3 km a pixel on a polar map, and the points are given in degrees."""
    polar = CRS(f"+proj=stere +lat_0={np.sign(middle[1]) * 90} +lon_0=0 +ellps=WGS84")
    way = Transformer.from_crs(polar, 4326, always_xy=True)
    x0, y0 = way.transform(*middle, direction="INVERSE")
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, 900, 12), np.linspace(0, 700, 10)))
    truth = Affine(1500, 300, x0 - 700_000, 200, -1500, y0 + 450_000)
    lon, lat = way.transform(*(truth @ (x, y)))
    crs, _, locator = read_points(tmp_path, np.stack([x, y, lon, lat], axis=1))
    assert CRS(crs).is_projected and CRS(crs).geodetic_crs.to_authority() == ("EPSG", "4326")
    xy = np.random.default_rng(0).uniform(0, SIZE, (300, 2))
    found = Transformer.from_crs(crs, polar, always_xy=True).transform(*to_crs(locator, xy).T)
    assert np.hypot(*(np.array(found) - np.array(truth @ xy.T))).max() < 0.1 * 1500


def test_of_many_points_a_spread_subset_is_checked_against_the_others(tmp_path: Path) -> None:
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, 900, 50), np.linspace(0, 700, 50)))
    points = np.stack([x, y, 12 + 1e-4 * x + 4e-9 * x * y, 48 - 9e-5 * y + 5e-9 * x * x], axis=1)
    _, _, locator = read_points(tmp_path, points)
    assert len(locator.points) == MAX_POINTS
    assert set(locator.points) <= set(map(tuple, points.tolist()))
    chosen = np.array(locator.points)
    assert chosen[:, :2].min() == 0 and tuple(chosen[:, :2].max(axis=0)) == SIZE
    points[1234, 2] += 2e-4
    chosen_too = (points[1234] == chosen).all(axis=1).any()
    with pytest.raises(SceneError, match=r"misses the others by up to [12]|folds over"):
        read_points(tmp_path, points)
    assert not chosen_too


def test_extreme_coordinates_have_no_position_and_no_pixel() -> None:
    locator = GroundControl(tuple(map(tuple, control().tolist())))
    nonsense = np.array([[np.nan, 1], [np.inf, 0], [1e300, 0]])
    assert np.isnan(to_crs(locator, nonsense)).any(axis=1).all()
    assert np.isnan(to_pixels(locator, nonsense)).all()
    assert to_crs(locator, np.empty((0, 2))).shape == to_pixels(locator, np.empty((0, 2))).shape == (0, 2)
    far = np.array([[100.0, 20.0], [12.0, -80.0], [-170.0, 48.0]])
    back = to_pixels(locator, far)
    fine = np.isfinite(back).all(axis=1)
    assert np.abs(to_crs(locator, back[fine]) - far[fine]).max(initial=0) < 1e-5


CAMERA = Camera()


def write_rpc(path: Path, tags: dict[str, str], size: tuple[int, int] = CAMERA.size, **profile: object) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", width=size[0], height=size[1], count=1, dtype="uint8", **profile
    ) as dataset:
        dataset.update_tags(ns="RPC", **tags)
    return path


@pytest.fixture
def rpc_file(tmp_path: Path) -> Path:
    return write_rpc(tmp_path / "rpc.tif", CAMERA.tags())


def pixels_of(camera: Camera, seed: int = 0, n: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, camera.size, (n, 2))


@pytest.mark.parametrize("height", [None, 0.0, 1234.5])
def test_a_camera_with_one_height(rpc_file: Path, height: float | None) -> None:
    crs, transform, locator = read(rpc_file, rpc_height=height)
    assert CRS(crs).to_authority() == ("EPSG", "4326") and transform is None
    at = CAMERA.height if height is None else height
    xy = pixels_of(CAMERA)
    lonlat = to_crs(locator, xy)
    assert np.abs(CAMERA.pixels(*lonlat.T, at) - xy).max() < 0.001
    assert np.abs(lonlat - CAMERA.ground(xy, at)).max() < 1e-8
    assert np.abs(to_pixels(locator, lonlat) - xy).max() < 0.001
    assert pixel_size(locator) == pytest.approx(np.sqrt(2 * 0.012 / 1600 * 2 * 0.007 / 1200))


@pytest.mark.parametrize("extra", [None, 40.0])
def test_a_camera_with_a_dem(rpc_file: Path, tmp_path: Path, extra: float | None) -> None:
    dem = Dem()
    _, _, locator = read(rpc_file, dem=dem.write(tmp_path / "dem.tif"), rpc_height=extra)
    xy = pixels_of(CAMERA)
    lonlat = to_crs(locator, xy)
    assert np.isfinite(lonlat).all()
    heights = dem.at(*lonlat.T) + (extra or 0)
    assert np.ptp(heights) > 300
    assert np.abs(CAMERA.pixels(*lonlat.T, heights) - xy).max() < 0.02
    assert np.abs(to_pixels(locator, lonlat) - xy).max() < 0.02


def test_there_is_no_position_in_a_hole_of_the_dem(rpc_file: Path, tmp_path: Path) -> None:
    dem = Dem()
    _, _, locator = read(rpc_file, dem=dem.write(tmp_path / "dem.tif", hole=slice(60, 80)))
    xy = pixels_of(CAMERA, n=3000)
    lonlat = to_crs(locator, xy)
    fine = np.isfinite(lonlat).all(axis=1)
    assert 0.5 < fine.mean() < 0.95
    column = (lonlat[fine, 0] - dem.west) / dem.step
    solid = (column < 59) | (column > 81)
    assert solid.mean() > 0.9
    miss = np.abs(CAMERA.pixels(*lonlat[fine].T, dem.at(*lonlat[fine].T)) - xy[fine]).max(axis=1)
    assert miss[solid].max() < 0.02


def test_extreme_coordinates_have_no_position_on_a_dem(rpc_file: Path, tmp_path: Path) -> None:
    """GDAL aborts the process for some of these while it reads a DEM."""
    _, _, locator = read(rpc_file, dem=Dem().write(tmp_path / "dem.tif"))
    nonsense = np.array([[np.nan, 1], [np.inf, np.inf], [1e300, 1], [-1e12, 45]])
    assert np.isnan(to_crs(locator, nonsense)).all() and np.isnan(to_pixels(locator, nonsense)).all()
    assert np.isfinite(to_crs(locator, [[800.0, 600.0], [np.nan, 1]])).tolist() == [[True, True], [False, False]]


def test_a_dem_that_changes_is_read_again(rpc_file: Path, tmp_path: Path) -> None:
    path = Dem().write(tmp_path / "dem.tif")
    _, _, locator = read(rpc_file, dem=path)
    before = to_crs(locator, pixels_of(CAMERA))
    path.unlink()
    Dem(north=45.025).write(path)
    os.utime(path, ns=(1, 1))
    after = to_crs(locator, pixels_of(CAMERA))
    assert np.abs(before - after).max() > 1e-6
    assert np.abs(CAMERA.pixels(*after.T, Dem(north=45.025).at(*after.T)) - pixels_of(CAMERA)).max() < 0.02


def test_unusable_dems_are_refused(rpc_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"DEM .*none\.tif: cannot be opened"):
        read(rpc_file, dem=tmp_path / "none.tif")
    with pytest.raises(ConfigError, match="has no CRS"):
        read(rpc_file, dem=Dem().write(tmp_path / "dem.tif", crs=None))
    evil = tmp_path / "evil.vrt"
    evil.write_text("<VRTDataset><SourceFilename>/vsistdin/</SourceFilename></VRTDataset>")
    with pytest.raises(ConfigError, match="evil"):
        read(rpc_file, dem=evil)


def test_damaged_polynomials_are_refused(tmp_path: Path) -> None:
    class Dataset:
        width, height = CAMERA.size
        crs = None
        transform = Affine.identity()
        gcps: tuple[list, None] = ([], None)

        def __init__(self, **change: str) -> None:
            self.values = CAMERA.tags() | change

        def tags(self, ns: str) -> dict[str, str]:
            return {name: value for name, value in self.values.items() if value}

    for change in ({"LINE_OFF": ""}, {"LINE_OFF": "x"}):
        with pytest.raises(SceneError, match="RPCs cannot be read"):
            read_georeference(Dataset(**change))
    for change in ({"LAT_SCALE": "0"}, {"SAMP_DEN_COEFF": "1 2 3"}, {"LONG_OFF": "nan"}):
        with pytest.raises(SceneError, match="RPCs are damaged"):
            read_georeference(Dataset(**change))
    values = read_georeference(Dataset(LINE_OFF="600.0 pixels"))[2].coefficients
    assert dict(values)["LINE_OFF"] == "600.0"


def test_the_order_is_transform_points_polynomials(tmp_path: Path) -> None:
    points, tags = control(size=CAMERA.size), CAMERA.tags()
    both = write_control(tmp_path / "both.tif", points, "EPSG:4326", size=CAMERA.size)
    with rasterio.open(both, "r+") as dataset:
        dataset.update_tags(ns="RPC", **tags)
    assert isinstance(read(both)[2], GroundControl)
    assert read(both, rpc_height=3.0)[2].height == 3.0, "a given height selects the polynomials"
    few = write_control(tmp_path / "few.tif", points[:2], "EPSG:4326", size=CAMERA.size)
    with rasterio.open(few, "r+") as dataset:
        dataset.update_tags(ns="RPC", **tags)
    assert not isinstance(read(few)[2], GroundControl)
    affine = write_rpc(tmp_path / "a.tif", tags, crs="EPSG:32632", transform=Affine(2, 0, 5e5, 0, -2, 5e6))
    crs, transform, locator = read(affine, rpc_height=3.0)
    assert CRS(crs).to_epsg() == 32632 and transform == Affine(2, 0, 5e5, 0, -2, 5e6) and locator is None
    nothing = write_rpc(tmp_path / "n.tif", {}, transform=Affine(2, 0, 5e5, 0, -2, 5e6))
    assert read(nothing) == (None, None, None)
    homeless = tmp_path / "h.vrt"
    homeless.write_text(
        '<VRTDataset rasterXSize="900" rasterYSize="700"><GCPList><GCP Pixel="1" Line="2" X="3" Y="4"/>'
        '<GCP Pixel="9" Line="2" X="5" Y="4"/></GCPList><VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'
    )
    assert read(homeless) == (None, None, None)


def test_a_vrt_with_a_crs_and_no_transform_uses_its_points(tmp_path: Path) -> None:
    points = control()
    gcps = "".join(f'<GCP Id="" Pixel="{x}" Line="{y}" X="{a!r}" Y="{b!r}"/>' for x, y, a, b in points.tolist())
    places = {"identity": "0, 1, 0, 0, 0, 1", "upside down": "0, 1, 0, 0, 0, -1", "real": "7, 2, 0, 9, 0, -2"}
    for name, place in places.items():
        path = tmp_path / f"{name}.vrt"
        path.write_text(
            f'<VRTDataset rasterXSize="900" rasterYSize="700"><SRS>EPSG:32633</SRS><GeoTransform>{place}</GeoTransform>'
            f'<GCPList Projection="EPSG:4326">{gcps}</GCPList><VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'
        )
        crs, transform, locator = read(path)
        if name == "real":
            assert CRS(crs).to_epsg() == 32633 and locator is None and transform.a == 2
        else:
            assert CRS(crs).to_epsg() == 4326 and transform is None
            assert np.abs(to_crs(locator, points[:, :2]) - points[:, 2:]).max() < 1e-10


def test_threads_share_a_locator(rpc_file: Path, tmp_path: Path) -> None:
    _, _, camera = read(rpc_file, dem=Dem().write(tmp_path / "dem.tif"))
    spline = GroundControl(tuple(map(tuple, control().tolist())))
    jobs = [(locator, pixels_of(CAMERA, seed, 3000)) for seed in range(8) for locator in (camera, spline)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda job: to_crs(*job), jobs))
    assert all(np.array_equal(a, to_crs(*job), equal_nan=True) for a, job in zip(found, jobs, strict=True))


def test_the_number_of_transformers_is_bounded() -> None:
    for seed in range(20):
        to_crs(GroundControl(tuple(map(tuple, control(seed).tolist()))), [[1.0, 2.0]])
    info = module._spline.cache_info()
    assert info.maxsize is not None and info.currsize <= info.maxsize <= 16


def test_a_real_radar_scene(data: Path) -> None:
    path = data / "formats" / "cog_gcps.tif"
    crs, transform, locator = read(path)
    with rasterio.open(path) as dataset:
        points = np.array([(p.col, p.row, p.x, p.y) for p in dataset.gcps[0]])
        assert not dataset.crs
    assert CRS(crs).to_epsg() == 4326 and transform is None and len(locator.points) == 210
    size = pixel_size(locator)
    assert np.abs(to_crs(locator, points[:, :2]) - points[:, 2:]).max() < 1e-6 * size
    xy = np.random.default_rng(0).uniform(0, (1280, 837), (500, 2))
    expected = thin_plate(points)(xy)
    assert np.abs(to_crs(locator, xy) - expected).max() < 1e-5 * size
    assert np.abs(to_pixels(locator, expected) - xy).max() < 0.02
    # The other points predict each one to within a few pixels, so the spline does not oscillate.
    inner = points[(points[:, 0] > 100) & (points[:, 0] < 1180) & (points[:, 1] > 100) & (points[:, 1] < 740)]
    for point in inner[::15]:
        rest = points[(points != point).any(axis=1)]
        assert np.abs(thin_plate(rest)(point[None, :2]) - point[2:]).max() < 3 * size


def test_a_real_vrt_whose_points_span_more_than_itself(data: Path) -> None:
    """Its transform is the identity, so its UTM zone 18 is ignored; the points lie in British Columbia."""
    crs, transform, locator = read(data / "formats" / "RGB.byte.gcp.vrt")
    assert CRS(crs).to_epsg() == 4326 and transform is None
    assert to_crs(locator, [[0.5, 0.5]])[0] == pytest.approx([-123.480966572, 49.52809729107], abs=1e-9)
