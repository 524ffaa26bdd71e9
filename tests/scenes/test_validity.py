"""What a file declares invalid is invalid, as GDAL sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp
from rasterio.vrt import WarpedVRT

from geosod.scene import Scene, SceneRef, Window
from geosod.scenes.open import open_scene, opened
from geosod.scenes.pixels import read_window
from geosod.scenes.validity import is_nodata, nodata_values
from geosod.scenes.view import at_scale
from tests.rasters import NORTH_UP, UTM31, noise, write_tif

BORDER_VALUES = [0.0, 1.0, -9999.0, -9999.001, 255.0, 0.1, 1e-40, 3.4e38, -3.40282e38, -2e38, float(np.finfo("f4").min)]
GDAL_TYPES = {"uint8": "Byte", "int16": "Int16", "uint16": "UInt16", "int32": "Int32", "int64": "Int64"}
GDAL_TYPES |= {"float32": "Float32", "float64": "Float64"}


def scene_of(path: Path, **how: Any) -> Scene:
    return open_scene(SceneRef(str(path), path.stem), **how)


def valid_in(scene: Scene, bands: tuple[int, ...]) -> np.ndarray:
    with opened(scene.ref, view=scene.view) as dataset:
        return read_window(dataset, scene, bands, scene.window)[1]


@settings(max_examples=150, deadline=None)
@given(
    dtype=st.sampled_from(sorted(GDAL_TYPES)),
    nodata=st.sampled_from([*BORDER_VALUES, float("nan"), float("inf"), 0.5, 254.7, 2.0**53, 2.0**53 + 2])
    | st.floats(-300, 300),
    seed=st.integers(0, 99),
)
def test_nodata_is_compared_as_gdal_compares_it(dtype: str, nodata: float, seed: int, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("nodata")
    rng = np.random.default_rng(seed)
    near = nodata * (1 + rng.uniform(-3e-7, 3e-7, 40)) if np.isfinite(nodata) else np.zeros(40)
    values = np.concatenate([np.array(BORDER_VALUES), near, np.floor(near), rng.uniform(-300, 300, 9)])
    with np.errstate(invalid="ignore", over="ignore"):
        info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else None
        pixels = (values if info is None else values.clip(info.min, info.max)).astype(dtype).reshape(1, 1, -1)
    write_tif(folder / "s.tif", pixels, crs=None)
    source = '<SimpleSource><SourceFilename relativeToVRT="1">s.tif</SourceFilename></SimpleSource>'
    vrt = folder / "s.vrt"
    vrt.write_text(
        f'<VRTDataset rasterXSize="{pixels.shape[2]}" rasterYSize="1"><VRTRasterBand dataType="{GDAL_TYPES[dtype]}" '
        f'band="1"><NoDataValue>{nodata!r}</NoDataValue>{source}</VRTRasterBand></VRTDataset>'
    )
    with rasterio.open(vrt) as dataset:
        (value,), expected = nodata_values(dataset), dataset.read_masks(1) == 0
        if value is None:
            assert not expected.any() or dtype == "int64"
        else:
            assert np.array_equal(is_nodata(dataset.read(1), value), expected)
    finite = np.isfinite(pixels[0])
    assert np.array_equal(valid_in(scene_of(vrt), (1,)), ~expected & finite)


def test_all_that_a_file_declares_counts(tmp_path: Path) -> None:
    """A nodata value or a mask beside an alpha band; beside a mask, GDAL ignores the nodata value."""
    pixels = noise(4, 64, 96)
    pixels[3] = 255
    pixels[3, :, :32] = 0
    pixels[:3, :16] = 0
    mask = np.ones((64, 96), bool)
    mask[-16:] = False
    shown, filled = pixels[3] != 0, (pixels[:3] != 0).any(axis=0)
    rgba: dict[str, Any] = {"photometric": "RGB", "alpha": "YES"}
    cases = {
        "alpha": ({**rgba}, shown),
        "alpha and nodata": ({**rgba, "nodata": 0}, shown & filled),
        "alpha and mask": ({**rgba, "mask": mask}, shown & mask),
        "all": ({**rgba, "mask": mask, "nodata": 0}, shown & mask),
        "nodata and mask": ({"photometric": "RGB", "alpha": "NO", "mask": mask, "nodata": 0}, mask),
    }
    for name, (how, expected) in cases.items():
        scene = scene_of(write_tif(tmp_path / f"{name}.tif", pixels, **how))
        assert np.array_equal(valid_in(scene, (1, 2, 3)), expected), name
        coarse = valid_in(at_scale(scene, 0.5), (1, 2, 3))
        assert coarse[::4, ::4].mean() == pytest.approx(expected.mean(), abs=0.03), f"{name} at half the scale"


def infrared(folder: Path, band: np.ndarray, **how: Any) -> Path:
    pixels = np.concatenate([noise(3, *band.shape), band[None].astype("uint8")])
    path = write_tif(folder / "naip.tif", pixels, **how)
    with rasterio.open(path) as dataset:
        assert dataset.colorinterp[3] == ColorInterp.alpha, "GDAL takes the fourth of four bands for alpha"
    return path


@pytest.mark.parametrize("overviews", [False, True])
def test_infrared_that_a_file_calls_alpha_hides_nothing(overviews: bool, tmp_path: Path) -> None:
    dark = np.random.default_rng(1).integers(0, 90, (2500, 2600))
    path = infrared(tmp_path, dark)
    if overviews:
        with rasterio.open(path, "r+") as dataset:
            dataset.build_overviews([2, 4])
    scene = scene_of(path)
    assert scene.alpha is None and valid_in(scene, (1, 2, 3)).all()
    (note,) = scene.notes
    assert "band 4 is called alpha, but holds" in note and "--alpha use" in note
    assert scene_of(path, alpha="use").alpha == 4
    assert not valid_in(scene_of(path, alpha="use"), (1, 2, 3))[dark == 0].any()
    assert scene_of(path, alpha="ignore").alpha is None and not scene_of(path, alpha="ignore").notes


def test_a_real_alpha_band_stays_one(tmp_path: Path) -> None:
    """Also with soft edges, with a constant transparency, and with a large collar."""
    soft = np.clip(np.add.outer(np.arange(600), np.arange(600)) - 300, 0, 255)
    constant = np.where(soft > 0, 180, 0)
    collar = np.zeros((600, 600))
    collar[:40, :40] = 255
    for name, band in (("soft", soft), ("constant", constant), ("collar", collar)):
        (tmp_path / name).mkdir()
        scene = scene_of(infrared(tmp_path / name, band))
        assert scene.alpha == 4 and not scene.notes, name
        assert np.array_equal(valid_in(scene, (1, 2, 3)), band.astype("uint8") != 0), name
    (tmp_path / "hidden").mkdir()
    scene = scene_of(infrared(tmp_path / "hidden", np.zeros((600, 600))))
    assert scene.alpha == 4 and "hides every sampled pixel" in scene.notes[0]


def test_masks_beside_a_file_count_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.ones((64, 64), bool)
    mask[:, :20] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False):
        path = tmp_path / "s.tif"
        profile = {"driver": "GTiff", "width": 64, "height": 64, "count": 3, "dtype": "uint8", "crs": UTM31}
        with rasterio.open(path, "w", **profile, transform=NORTH_UP) as dataset:
            dataset.write(noise(3, 64, 64))
            dataset.write_mask(mask)
    assert (tmp_path / "s.tif.msk").exists()
    monkeypatch.setenv("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")
    scene = scene_of(path)
    assert scene.masks == (True,) * 3 and np.array_equal(valid_in(scene, (1, 2, 3)), mask)


def mosaic(
    folder: Path, places: list[tuple[int, int]], size: tuple[int, int], *, nodata: str = "", name: str = "m"
) -> Path:
    """A VRT of one file of 64 x 64 pixels at several (column, row)."""
    if not (folder / "s.tif").exists():
        write_tif(folder / "s.tif", noise(1, 64, 64))
    sources = "".join(
        '<SimpleSource><SourceFilename relativeToVRT="1">s.tif</SourceFilename><SourceBand>1</SourceBand>'
        f'<SrcRect xOff="0" yOff="0" xSize="64" ySize="64"/><DstRect xOff="{x}" yOff="{y}" xSize="64" ySize="64"/>'
        "</SimpleSource>"
        for x, y in places
    )
    geo = ", ".join(map(str, NORTH_UP.to_gdal()))
    path = folder / f"{name}.vrt"
    path.write_text(
        f'<VRTDataset rasterXSize="{size[0]}" rasterYSize="{size[1]}"><SRS>{UTM31}</SRS><GeoTransform>{geo}'
        f'</GeoTransform><VRTRasterBand dataType="Byte" band="1">{nodata}{sources}</VRTRasterBand></VRTDataset>'
    )
    return path


def test_gaps_of_a_mosaic_are_nodata(tmp_path: Path) -> None:
    places, size = [(0, 0), (64, 0), (200, 100)], (300, 200)
    expected = np.zeros(size[::-1], bool)
    for x, y in places:
        expected[y : y + 64, x : x + 64] = True
    scene = scene_of(mosaic(tmp_path, places, size))
    assert np.array_equal(valid_in(scene, (1,)), expected)
    assert "no source covers" in scene.notes[0] and f"{100 * (1 - expected.mean()):.3g} %" in scene.notes[0]
    with opened(scene.ref) as dataset:
        part = Window(40, 10, 200, 150)
        assert np.array_equal(read_window(dataset, scene, (1,), part)[1], expected[10:160, 40:240])
    double = valid_in(at_scale(scene, 2.0), (1,))
    assert np.array_equal(double, expected.repeat(2, axis=0).repeat(2, axis=1))
    declared = scene_of(mosaic(tmp_path, places, size, nodata="<NoDataValue>0</NoDataValue>", name="d"))
    assert declared.gaps is None and np.array_equal(valid_in(declared, (1,)), expected)
    full = scene_of(mosaic(tmp_path, [(0, 0), (64, 0)], (128, 64), name="f"))
    assert full.gaps is None and not full.notes


def test_gaps_of_a_mosaic_within_a_mosaic(tmp_path: Path) -> None:
    inner = mosaic(tmp_path, [(0, 0), (136, 0)], (200, 64), name="inner")
    outer = tmp_path / "outer.vrt"
    outer.write_text(
        '<VRTDataset rasterXSize="100" rasterYSize="50"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{inner.name}</SourceFilename><SrcRect xOff="0" yOff="0" xSize="200" '
        'ySize="64"/><DstRect xOff="0" yOff="0" xSize="100" ySize="32"/></SimpleSource></VRTRasterBand></VRTDataset>'
    )
    scene = scene_of(outer)
    assert scene.gaps is not None
    expected = shapely.union(shapely.box(32, 0, 68, 32), shapely.box(0, 32, 100, 50))
    assert shapely.symmetric_difference(scene.gaps, expected).area == 0
    valid = valid_in(scene, (1,))
    assert valid.sum() == 2 * 32 * 32 and valid[:32, :32].all() and valid[:32, 68:].all()


def test_a_warped_mosaic_without_alpha_is_reported(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "s.tif", noise(1, 64, 64), transform=NORTH_UP @ Affine.rotation(20))
    with rasterio.open(path) as source, WarpedVRT(source, crs="EPSG:3857") as warped:
        rasterio.shutil.copy(warped, tmp_path / "w.vrt", driver="VRT")
    (note,) = scene_of(tmp_path / "w.vrt").notes
    assert "warped VRT" in note and "-dstalpha" in note
