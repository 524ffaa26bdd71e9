"""The scene on disk: a valid COG, the same pixels, no temporary files left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rio_cogeo.cogeo import cog_validate

from geosod.demo.cog import write_cog
from geosod.demo.layout import CLASSES, make_layout
from geosod.demo.render import render
from geosod.demo.scene import write_scene
from geosod.errors import ConfigError, OutputError
from geosod.scene import Window

UTM = {"crs": "EPSG:32631", "transform": Affine(0.5, 0, 480000, 0, -0.5, 6020000)}


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> tuple[Path, list[float], object]:
    path = tmp_path_factory.mktemp("scene") / "harbour.tif"
    progress: list[float] = []
    truth = write_scene(path, size=2100, seed=7, progress=progress.append)
    return path, progress, truth


def test_scene_is_a_valid_cog_alone_in_its_folder(scene) -> None:
    path, progress, _ = scene
    valid, errors, warnings = cog_validate(str(path))
    assert valid and not errors and not warnings
    assert [p.name for p in path.parent.iterdir()] == ["harbour.tif"]
    assert progress == sorted(progress) and progress[-1] == 1.0
    with rasterio.open(path) as source:
        assert source.block_shapes == [(512, 512)] * 3 and source.compression.value == "JPEG"
        assert source.photometric.value == "YCbCr" and source.overviews(1) == [2, 4, 8]
        assert source.crs.to_epsg() == 32631 and source.transform == UTM["transform"]
        assert all(rasterio.enums.MaskFlags.per_dataset in flags for flags in source.mask_flag_enums)


def test_scene_holds_the_pixels_and_the_mask(scene) -> None:
    path, _, truth = scene
    layout = make_layout(2100, 7)
    pixels, valid = render(layout, Window(0, 0, 2100, 2100))
    with rasterio.open(path) as source:
        assert np.array_equal(source.dataset_mask() > 0, valid)
        error = np.abs(source.read().astype(int) - pixels)[:, valid]
        assert error.mean() < 4
    assert np.array_equal(truth.boxes, layout.boxes) and truth.classes == CLASSES
    assert len(truth.labels) == len(truth.boxes) > 20


def test_overviews_are_means_of_valid_pixels(scene) -> None:
    path, _, _ = scene
    with rasterio.open(path) as source:
        full, mask = source.read().astype(float), source.dataset_mask() > 0
    with rasterio.open(path, overview_level=0) as source:
        half, half_mask = source.read(), source.dataset_mask() > 0
    assert half.shape == (3, 1050, 1050)
    blocks = mask.reshape(1050, 2, 1050, 2).sum((1, 3))
    mean = (full * mask).reshape(3, 1050, 2, 1050, 2).sum((2, 4)) / np.maximum(blocks, 1)
    # GDAL samples masks instead of averaging them, so single pixels along the swath's edge may differ.
    assert half_mask[blocks == 4].all() and half_mask[blocks == 0].mean() < 0.001
    assert np.abs(mean - half)[:, half_mask].mean() < 3
    with rasterio.open(path, overview_level=2) as source:
        coarse, valid = source.read(), source.dataset_mask() > 0
    np.testing.assert_allclose(coarse[:, valid].mean(1), full[:, mask].mean(1), atol=4)


def test_invalid_pixels_do_not_darken_overviews(tmp_path) -> None:
    pixels, valid = np.full((3, 512, 1024), 200, np.uint8), np.ones((512, 1024), bool)
    valid[:, ::2] = False
    pixels[:, ~valid] = 0
    write_cog(tmp_path / "a.tif", width=1024, height=512, strips=[(pixels, valid)], **UTM)
    with rasterio.open(tmp_path / "a.tif", overview_level=0) as source:
        assert np.abs(source.read().astype(int) - 200).max() <= 2


def _strips(width: int, heights: list[int]):
    for h in heights:
        yield np.full((3, h, width), 90, np.uint8), np.ones((h, width), bool)


@pytest.mark.parametrize("heights", [[512], [512, 512, 512], [100, 512, 412], [512, 513]])
def test_strips_that_do_not_fill_the_scene_leave_nothing(tmp_path, heights) -> None:
    with pytest.raises(ConfigError, match="write_cog"):
        write_cog(tmp_path / "a.tif", width=700, height=1024, strips=_strips(700, heights), **UTM)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_drawing_leaves_the_old_file(tmp_path) -> None:
    (tmp_path / "a.tif").write_text("old")

    def broken():
        yield from _strips(700, [512])
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_cog(tmp_path / "a.tif", width=700, height=1024, strips=broken(), **UTM)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"] and (tmp_path / "a.tif").read_text() == "old"


def test_a_missing_folder_is_named(tmp_path) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        write_cog(tmp_path / "nowhere" / "a.tif", width=700, height=512, strips=_strips(700, [512]), **UTM)


def test_a_scene_of_one_block(tmp_path) -> None:
    write_cog(tmp_path / "a.tif", width=300, height=200, strips=_strips(300, [200]), **UTM)
    with rasterio.open(tmp_path / "a.tif") as source:
        assert source.overviews(1) == [] and abs(int(source.read().mean()) - 90) <= 1
