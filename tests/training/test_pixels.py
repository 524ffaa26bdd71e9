"""What a network sees in training is what it sees in detection, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import geosod
from geosod.detectors.contract import RawBoxes
from geosod.detectors.detector import Detector
from geosod.detectors.network_input import NetworkInput
from geosod.scene import Window
from geosod.tiling.grid import make_grid
from geosod.training.batches import BatchMaker
from geosod.training.pixels import PixelReader
from geosod.training.samples import Sample
from tests.rasters import noise, write_tif
from tests.training.sets import opened, squares


class Recorder:
    """An adapter that finds nothing and keeps what it was shown."""

    any_size = True

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def predict(self, images: torch.Tensor) -> RawBoxes:
        self.seen += list(images.clone())
        empty = [(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)) for _ in images]
        return RawBoxes.per_tile(empty)


def masked(size: tuple[int, int]) -> np.ndarray:
    mask = np.full((size[1], size[0]), 255, np.uint8)
    mask[30:70, 50:90] = 0
    return mask


@pytest.mark.parametrize(
    ("dtype", "settings", "raster"),
    [
        ("uint8", {}, {}),
        ("uint8", {"gamma": 2.0, "minimum": (10.0,), "maximum": (180.0,)}, {}),
        ("uint16", {}, {}),
        ("uint16", {"scaling": "percentile", "minimum": (5.0,), "maximum": (90.0,)}, {"nodata": 7}),
        ("uint8", {}, {"mask": masked((200, 160))}),
        ("float32", {"scaling": "stored", "minimum": (0.0,), "maximum": (9000.0,)}, {"nodata": float("nan")}),
    ],
)
@pytest.mark.parametrize("cache_mb", [0, 100])
def test_training_and_detection_see_the_same(
    tmp_path: Path, dtype: str, settings: dict, raster: dict, cache_mb: int
) -> None:
    labels = squares(tmp_path, images=1, dtype=dtype, **raster)
    data, config, _ = opened(labels, overlap=16, **settings)
    recorder = Recorder()
    geosod.detect(
        labels.images[0].uri, model=Detector(data.card, recorder), engine="serial", levels="1,0.5", threshold=0.1
    )
    reader = PixelReader(data, cache_mb=cache_mb)
    shown = []
    for scale in (1.0, 0.5):
        scene = reader.scene(0, scale)
        grid = make_grid(scene.width, scene.height, tile=(64, 64), overlap=(16, 16))
        windows = [Window(*map(int, row)) for row in grid.windows_array()]
        shown += [Sample(0, scale, window, (window.width, window.height), (0,)) for window in windows]
    made = BatchMaker(data, reader, lambda _: shown, None, min_visible=config.min_visible)(0)
    assert len(recorder.seen) == len(made.images) > 12
    for image in made.images:
        assert any(torch.equal(image, seen) for seen in recorder.seen)


def test_values_are_those_of_the_file(tmp_path: Path) -> None:
    pixels = noise(3, 80, 90)
    write_tif(tmp_path / "a.tif", pixels)
    labels = squares(tmp_path, images=1)
    path = write_tif(tmp_path / "image0.tif", noise(3, 160, 200, seed=3))
    data, *_ = opened(labels)
    window = Window(13, 21, 40, 30)
    found = PixelReader(data, cache_mb=10).read(0, 1.0, window)
    expected = noise(3, 160, 200, seed=3)[:, 21:51, 13:53].astype(np.float32) / np.float32(255)
    assert np.array_equal(found.values.numpy(), expected), path


def test_the_cache_keeps_within_its_room(tmp_path: Path) -> None:
    data, *_ = opened(squares(tmp_path, images=12, size=(400, 400)))
    reader = PixelReader(data, cache_mb=3)
    for image in range(12):
        reader.read(image, 1.0, Window(0, 0, 32, 32))
    held = sum(p.nbytes + v.nbytes for p, v in reader._decoded.values())
    assert 0 < held == reader._held <= 3 << 20


def test_larger_images_are_read_by_window(tmp_path: Path) -> None:
    data, *_ = opened(squares(tmp_path, images=1, size=(900, 900)))
    reader = PixelReader(data, cache_mb=4)
    small = reader.read(0, 1.0, Window(100, 200, 32, 32)).values
    assert not reader._decoded
    whole = PixelReader(data, cache_mb=400).read(0, 1.0, Window(0, 0, 900, 900)).values
    assert torch.equal(small, whole[:, 200:232, 100:132])


def test_tiles_are_enlarged_as_in_detection(tmp_path: Path) -> None:
    """With an upscale in the card: the same pixels, and boxes in pixels of the network's input."""
    labels = squares(tmp_path, images=1)
    data, config, _ = opened(labels)
    card = replace(data.card, input=NetworkInput(upscale=2.0))
    data = replace(data, card=card)
    recorder = Recorder()
    geosod.detect(labels.images[0].uri, model=Detector(card, recorder), engine="serial", threshold=0.1, overlap=16)
    sample = Sample(0, 1.0, Window(0, 0, 64, 64), (64, 64), (0,))
    make = BatchMaker(data, PixelReader(data, cache_mb=10), lambda _: [sample], None, min_visible=config.min_visible)
    made = make(0)
    assert tuple(made.images.shape) == (1, 3, 128, 128)
    assert any(torch.equal(made.images[0], seen) for seen in recorder.seen)
    inside = [box for box in labels.boxes if (box[2:] <= 64).all()]
    for box in inside:
        assert any(torch.allclose(found, torch.from_numpy(2 * box).float()) for found in made.targets[0].boxes)
    assert inside


def test_invalid_pixels_have_the_fill_value(tmp_path: Path) -> None:
    labels = squares(tmp_path, images=1, mask=masked((200, 160)))
    data, *_ = opened(labels)
    data = replace(data, card=replace(data.card, input=NetworkInput(fill=0.45)))
    found = PixelReader(data, cache_mb=10).read(0, 1.0, Window(40, 20, 64, 64))
    assert not found.valid[10:50, 10:50].any() and found.valid[:10].all()
    assert (found.values[:, ~found.valid] == np.float32(0.45)).all()
