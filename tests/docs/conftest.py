"""A folder with what the pages suppose: scenes, an image, labels, districts, outputs."""

from __future__ import annotations

import shutil
from pathlib import Path

import geopandas
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.windows import Window

import geosod
from tests.cli.commands import geosod as run

#: Pixels of a scene's sides: as few as show some objects.
SIDE = 320


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small demo, of which everything else is made; it is not to be changed."""
    folder = tmp_path_factory.mktemp("world")
    _run("demo", "--size", 1024, "-o", folder / "demo", "-q", "--engine", "serial")
    scenes = folder / "scenes"
    scenes.mkdir()
    with rasterio.open(folder / "demo/scene.tif") as dataset:
        pixels, profile = dataset.read(window=Window(704, 96, SIDE, SIDE)), dataset.profile
    for i, name in enumerate(("may", "june", "july")):
        # Some kilometres apart, so that they are three locations.
        moved = {"transform": Affine.translation(5000 * i, 0) @ profile["transform"], "width": SIDE, "height": SIDE}
        _write(scenes / f"{name}.tif", pixels, profile | moved)
    _write(folder / "plain.tif", pixels, profile | {"transform": None, "crs": None, "width": SIDE, "height": SIDE})
    shutil.copy(scenes / "june.tif", folder / "scene.tif")
    for name in ("harbour.jpg", "photo.jpg"):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / name)
    model = ["--model", "demo-harbour", "--engine", "serial", "-q"]
    _run("detect", scenes, folder / "plain.tif", *model, "-o", folder / "out")
    for name in ("may", "june"):
        _run("detect", scenes / f"{name}.tif", *model, "-o", folder / name)
    for name in ("train.json", "val.json"):
        geosod.export([folder / "may", folder / "june"], out=folder / name)
    ground = geopandas.read_parquet(folder / "may/coverage")
    districts = geopandas.GeoDataFrame({"name": ["port"]}, geometry=[ground.union_all().envelope], crs=ground.crs)
    districts.to_file(folder / "districts.gpkg", layer="districts")
    return folder


def _run(*args: object) -> None:
    done = run(*args)
    assert done.returncode == 0, done.stderr


def _write(path: Path, pixels: object, profile: dict[str, object]) -> None:
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(pixels)
