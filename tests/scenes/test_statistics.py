"""Percentiles of scenes, against numpy on all of their pixels."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling

from geosod.errors import ReadError
from geosod.scene import SceneRef
from geosod.scenes.open import open_scene
from geosod.scenes.statistics import percentiles
from tests.rasters import write_tif


def skewed(height: int, width: int, dtype: str = "uint16") -> np.ndarray:
    """Two bands that brighten from west to east, with a tail of bright pixels."""
    rng = np.random.default_rng(3)
    ramp = np.linspace(100, 1500, width)[None, :] + rng.gamma(2, 200, (height, width))
    return np.stack([ramp, 2 * ramp + 50]).astype(dtype)


def of(path, low=(2, 2), high=(98, 98)):
    return percentiles(open_scene(SceneRef(str(path), "s")), (1, 2), low, high)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_small_scenes_are_read_whole(tmp_path, dtype) -> None:
    pixels = skewed(300, 500, dtype)
    found = of(write_tif(tmp_path / "s.tif", pixels), low=(2, 10), high=(98, 90))
    for band, (low, high), pair in zip(pixels, ((2, 98), (10, 90)), found, strict=True):
        np.testing.assert_allclose(pair, np.percentile(band.astype(float), (low, high)), rtol=1e-6)


@pytest.mark.parametrize("overviews", [True, False])
def test_large_scenes_are_sampled(tmp_path, overviews) -> None:
    pixels = skewed(3000, 5000)
    path = write_tif(tmp_path / "s.tif", pixels, block=256)
    if overviews:
        with rasterio.open(path, "r+") as dataset:
            dataset.build_overviews([2, 4], Resampling.nearest)
    for band, pair in zip(pixels, of(path), strict=True):
        whole = np.percentile(band.astype(float), (2, 98))
        np.testing.assert_allclose(pair, whole, rtol=0.05)


def test_invalid_pixels_are_ignored(tmp_path) -> None:
    pixels = skewed(200, 200, "float32")
    valid = pixels[:, :, :150].copy()
    pixels[:, :, 150:] = np.nan
    found = of(write_tif(tmp_path / "s.tif", pixels))
    np.testing.assert_allclose(found[0], np.percentile(valid[0].astype(float), (2, 98)), rtol=1e-5)


def test_flat_and_empty_scenes_have_limits_too(tmp_path) -> None:
    flat = write_tif(tmp_path / "flat.tif", np.full((2, 50, 50), 7, np.uint16))
    assert of(flat) == ((7, 8), (7, 8))
    empty = write_tif(tmp_path / "empty.tif", np.zeros((2, 50, 50), np.uint16), nodata=0)
    assert of(empty) == ((0, 1), (0, 1))


def test_what_cannot_be_read_is_left_out(tmp_path) -> None:
    pixels = skewed(600, 600)
    path = write_tif(tmp_path / "s.tif", pixels, compress="none", block=256)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 256 * 256 * 4])
    for band, pair in zip(pixels, of(path), strict=True):
        np.testing.assert_allclose(pair, np.percentile(band.astype(float), (2, 98)), rtol=0.1)
    path.write_bytes(whole[:2000])
    with pytest.raises(ReadError, match="no pixel can be read"):
        of(path)


def test_an_island_between_the_patches_is_found(tmp_path) -> None:
    pixels = np.zeros((2, 5000, 5000), np.uint16)
    pixels[:, 2430:2570, 2430:2570] = skewed(140, 140)
    found = of(write_tif(tmp_path / "s.tif", pixels, nodata=0, block=256))
    island = pixels[0, 2430:2570, 2430:2570].astype(float)
    np.testing.assert_allclose(found[0], np.percentile(island, (2, 98)), rtol=0.1)


def test_a_huge_overview_is_not_read_whole(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("geosod.scenes.statistics._SIDE", 100)
    path = write_tif(tmp_path / "s.tif", skewed(3000, 3000), block=256)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2], Resampling.nearest)
    monkeypatch.setattr("geosod.scenes.statistics._decimated", None)
    assert len(of(path)) == 2
