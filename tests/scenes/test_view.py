"""Views, against rasterio reading the files itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.windows import Window as GdalWindow

from geosod.errors import ConfigError, SceneError
from geosod.scene import BandFile, Scene, SceneRef, Window
from geosod.scenes.open import open_files, open_scene, opened
from geosod.scenes.pixels import read_window
from geosod.scenes.view import at_gsd, at_scale
from tests.rasters import NORTH_UP, noise, write_tif

KINDS = ("plain", "nodata", "mask", "alpha", "float", "overviews")


def scene_of(path) -> Scene:
    return open_scene(SceneRef(str(path), path.stem))


def read(scene: Scene, window: Window | None = None) -> tuple[np.ndarray, np.ndarray]:
    bands = tuple(i for i in range(1, scene.count + 1) if i != scene.alpha)
    with opened(scene.ref, view=scene.view) as dataset:
        return read_window(dataset, scene, bands, window or scene.window)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> dict[str, Scene]:
    folder = tmp_path_factory.mktemp("kinds")
    pixels = noise(2, 700, 1100)
    hole = np.ones((700, 1100), np.uint8) * 255
    hole[150:360, 300:650] = 0
    empty = np.where(hole == 0, 0, pixels).astype(np.uint8)
    floats = np.where(hole == 0, np.nan, pixels).astype(np.float32)
    alpha = write_tif(folder / "alpha.tif", np.concatenate([pixels, hole[None]]))
    with rasterio.open(alpha, "r+") as dataset:
        dataset.colorinterp = [ColorInterp.gray, ColorInterp.undefined, ColorInterp.alpha]
    overviews = write_tif(folder / "overviews.tif", pixels)
    with rasterio.open(overviews, "r+") as dataset:
        dataset.build_overviews([2, 4], Resampling.average)
    paths = {
        "plain": write_tif(folder / "plain.tif", pixels),
        "nodata": write_tif(folder / "nodata.tif", empty, nodata=0),
        "mask": write_tif(folder / "mask.tif", pixels, mask=hole),
        "alpha": alpha,
        "float": write_tif(folder / "float.tif", floats, nodata=np.nan),
        "overviews": overviews,
    }
    return {name: scene_of(path) for name, path in paths.items()}


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), scale=st.sampled_from([0.21, 0.25, 0.5, 0.73, 1.5, 2.0, 3.1]), where=st.randoms())
def test_a_pixel_is_the_same_in_every_window(kinds, kind, scale, where) -> None:
    """Otherwise a box would depend on the units of a scene."""
    scene = at_scale(kinds[kind], scale)
    whole, whole_valid = read(scene)
    col, row = where.randrange(scene.width), where.randrange(scene.height)
    window = Window(col, row, where.randint(1, scene.width - col), where.randint(1, scene.height - row))
    pixels, valid = read(scene, window)
    part = (slice(row, window.bottom), slice(col, window.right))
    np.testing.assert_array_equal(pixels, whole[:, part[0], part[1]])
    np.testing.assert_array_equal(valid, whole_valid[part])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_scaled_scene_keeps_its_ground(kinds, kind, scale) -> None:
    plain = kinds[kind]
    scene = at_scale(plain, scale)
    assert (scene.width, scene.height) == (1100 * scale, 700 * scale)
    assert scene.gsd == pytest.approx(0.5 / scale, rel=1e-3) and scene.scale == (scale, scale)
    assert scene.transform @ (scene.width, scene.height) == pytest.approx(plain.transform @ (1100, 700))
    _, valid = read(scene)
    expected = 1.0 if kind in ("plain", "overviews") else 1 - 210 * 350 / (700 * 1100)
    assert valid.mean() == pytest.approx(expected, abs=0.01)
    if kind == "plain":
        with rasterio.open(plain.ref.uri) as dataset:
            oracle = dataset.read(out_shape=(2, scene.height, scene.width), resampling=Resampling.bilinear)
        np.testing.assert_array_equal(read(scene)[0], oracle)


def test_nodata_does_not_bleed_into_what_is_valid(tmp_path) -> None:
    pixels = np.full((1, 100, 100), 200, np.uint8)
    pixels[:, :, 50:] = 0
    scene = at_scale(scene_of(write_tif(tmp_path / "a.tif", pixels, nodata=0)), 0.37)
    values, valid = read(scene)
    assert set(np.unique(values[0][valid])) == {200}


def test_scales_out_of_range_and_unknown_gsd_are_refused(kinds, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"resampled by 33.*0.5 m"):
        at_gsd(kinds["plain"], 0.015)
    unplaced = scene_of(write_tif(tmp_path / "u.tif", noise(1, 20, 20), crs=None))
    with pytest.raises(SceneError, match="GSD is unknown"):
        at_gsd(unplaced, 1.0)
    assert at_gsd(kinds["plain"], kinds["plain"].gsd) is kinds["plain"]


def test_files_of_different_resolution_are_one_scene_on_the_finest_grid(tmp_path) -> None:
    fine, coarse = noise(1, 200, 260, dtype="uint16"), noise(1, 100, 130, dtype="uint16", seed=1)
    ten = write_tif(tmp_path / "B04.tif", fine, transform=Affine(10, 0, 5e5, 0, -10, 5e6))
    twenty = write_tif(tmp_path / "B11.tif", coarse, transform=Affine(20, 0, 5e5, 0, -20, 5e6))
    files = (BandFile("swir", str(twenty)), BandFile("red", str(ten), scale=1e-4, offset=-0.1))
    scene = open_files(SceneRef("item.json", "item", files=files), files)
    assert (scene.width, scene.height, scene.count, scene.dtype) == (260, 200, 2, "uint16")
    assert scene.band_names == ("swir", "red") and scene.id == "item" and scene.gsd == pytest.approx(10, rel=1e-3)
    assert scene.scales == (1.0, 1e-4) and scene.offsets == (0.0, -0.1)
    pixels, valid = read(scene)
    with rasterio.open(twenty) as dataset:
        upsampled = dataset.read(1, out_shape=(200, 260), resampling=Resampling.bilinear)
    np.testing.assert_array_equal(pixels[0], upsampled)
    np.testing.assert_array_equal(pixels[1], fine[0])
    assert valid.all()


def test_a_smaller_file_keeps_its_position(tmp_path) -> None:
    a, b = noise(1, 100, 100), noise(1, 60, 50, seed=2)
    first = write_tif(tmp_path / "a.tif", a, nodata=0)
    second = write_tif(tmp_path / "b.tif", b, nodata=0, transform=NORTH_UP @ Affine.translation(30, 20))
    files = (BandFile("a", str(first)), BandFile("b", str(second)))
    pixels, valid = read(open_files(SceneRef("x", "x"), files))
    np.testing.assert_array_equal(pixels[1, 20:80, 30:80], b[0])
    assert pixels[1].astype(bool).sum() == 60 * 50 and valid.all()


def test_files_located_by_the_same_points_are_one_scene(tmp_path) -> None:
    """Such as the two polarisations of a radar scene."""
    points = [GroundControlPoint(r, c, 8 + c / 1e3, 50 - r / 1e3) for r in (0, 50, 100) for c in (0, 50, 120)]
    paths = []
    for name, gcps in {"vv": points, "vh": points, "other": points[:8]}.items():
        paths.append(write_tif(tmp_path / f"{name}.tif", noise(1, 100, 120), crs=None))
        with rasterio.open(paths[-1], "r+") as dataset:
            dataset.gcps = (gcps, CRS.from_epsg(4326))
    files = [BandFile(path.stem, str(path)) for path in paths]
    scene = open_files(SceneRef("s1", "s1"), files[:2])
    assert scene.count == 2 and scene.locator is not None and read(scene)[0].shape == (2, 100, 120)
    with pytest.raises(SceneError, match="not in the CRS"):
        open_files(SceneRef("s1", "s1"), files[1:])


@pytest.mark.parametrize(
    ("shape", "place", "why"),
    [
        ((400, 200), {}, "ends 200 pixels before"),
        ((250, 200), {"transform": NORTH_UP @ Affine.scale(2)}, "reaches 100 pixels beyond"),
    ],
)
def test_files_that_do_not_cover_the_same_ground_are_refused(tmp_path, shape, place, why) -> None:
    """Without a nodata value the gap would be read as 0."""
    first = write_tif(tmp_path / "a.tif", noise(1, 400, 400))
    second = write_tif(tmp_path / "b.tif", noise(1, *shape), **place)
    with pytest.raises(SceneError, match=why):
        open_files(SceneRef("x", "x"), (BandFile("a", str(first)), BandFile("b", str(second))))


def test_files_with_alpha_are_refused_in_a_scene_of_several(tmp_path, kinds) -> None:
    alpha = kinds["alpha"].ref.uri
    with pytest.raises(SceneError, match="mask or alpha band"):
        open_files(SceneRef("x", "x"), (BandFile("a", alpha, 1), BandFile("b", alpha, 2)))


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ({"crs": "EPSG:32632"}, "not in the CRS"),
        ({"transform": NORTH_UP @ Affine.rotation(20)}, "does not lie on the ground"),
        ({"transform": NORTH_UP @ Affine.translation(500, 0)}, "does not lie on the ground"),
        ({"crs": None}, "not in the CRS"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(tmp_path, place, why) -> None:
    first = write_tif(tmp_path / "a.tif", noise(1, 100, 100))
    second = write_tif(tmp_path / "b.tif", noise(1, 100, 100), **place)
    with pytest.raises(SceneError, match=why):
        open_files(SceneRef("x", "x"), (BandFile("a", str(first)), BandFile("b", str(second))))
    with pytest.raises(SceneError, match="has no band 4"):
        open_files(SceneRef("x", "x"), (BandFile("a", str(first), 4),))


@pytest.mark.parametrize("components", [3, 4])
def test_a_palette_is_read_as_colours(tmp_path, components) -> None:
    index = np.random.default_rng(0).integers(0, 5, (1, 70, 90)).astype(np.uint8)
    path = write_tif(tmp_path / "p.tif", index, nodata=0, photometric="palette")
    table = {i: (10 * i, 200 - 7 * i, 3 * i, 0 if (i == 4 and components == 4) else 255) for i in range(5)}
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, table)
    if components == 4:
        # A GeoTIFF's palette knows no transparency, a VRT's does.
        path = with_palette(path, table)
    scene = scene_of(path)
    assert (scene.count, scene.dtype, scene.band_names[:3]) == (components, "uint8", ("red", "green", "blue"))
    for seen, step in ((scene, 1), (at_scale(scene, 2.0), 2)):
        pixels, valid = read(seen)
        expected = (index[0] != 0) & ((index[0] != 4) | (components == 3))
        at = np.repeat(np.repeat(index[0], step, 0), step, 1)
        np.testing.assert_array_equal(valid, np.repeat(np.repeat(expected, step, 0), step, 1))
        if step == 1:
            colours = np.array([table[i][:3] for i in range(5)], np.uint8)[at].transpose(2, 0, 1)
            np.testing.assert_array_equal(pixels, np.where(valid, colours, 0))
    with opened(scene.ref, view=scene.view) as dataset:
        assert dataset.read(1, window=GdalWindow(0, 0, 5, 5)).shape == (5, 5)


def with_palette(path: Path, table: dict[int, tuple[int, int, int, int]]) -> Path:
    entries = "".join(f'<Entry c1="{r}" c2="{g}" c3="{b}" c4="{a}"/>' for r, g, b, a in table.values())
    path.with_suffix(".vrt").write_text(
        '<VRTDataset rasterXSize="90" rasterYSize="70"><VRTRasterBand dataType="Byte" band="1">'
        f"<NoDataValue>0</NoDataValue><ColorInterp>Palette</ColorInterp><ColorTable>{entries}</ColorTable>"
        f'<SimpleSource><SourceFilename relativeToVRT="1">{path.name}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    return path.with_suffix(".vrt")
