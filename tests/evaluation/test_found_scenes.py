"""What is read from outputs is what the run returns."""

from __future__ import annotations

import pytest

import geosod
from geosod.evaluation.found_scenes import of_result, read_outputs
from tests.rasters import noise, write_tif


def test_a_resampled_scene_has_the_size_of_its_file(rgb_bundle, tmp_path) -> None:
    write_tif(tmp_path / "s.tif", noise(3, 200, 300), block=64)
    settings = {"model": rgb_bundle, "engine": "serial", "tile_gsd": 0.25}
    (there,) = of_result(geosod.detect(tmp_path / "s.tif", **settings))
    geosod.detect(tmp_path / "s.tif", out=tmp_path / "out", **settings)
    (read,) = read_outputs([tmp_path / "out"])
    assert (read.width, read.height) == (there.width, there.height) == (300, 200)
    assert len(read.found) == len(there.found) > 0 and read.pixel == pytest.approx(there.pixel)
