"""A model tried on a picture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from geosod.detectors.packing import pack
from geosod.detectors.packing.options import PackOptions
from geosod.errors import ModelError
from geosod.running.trial import MAX_SIDE, try_model
from tests.detectors.graphs import CLASSES, HEIGHT, LABELS, WIDTH, build, write
from tests.rasters import write_tif

COLOUR = (204, 153, 102)


def photo(path: Path, colour: tuple[int, int, int] = COLOUR) -> Path:
    Image.new("RGB", (WIDTH, HEIGHT), colour).save(path)
    return path


def packed(tmp_path: Path, layout: str, **fields: object) -> Path:
    options = PackOptions(classes=CLASSES, threshold=0.2, input=fields)
    return pack(write(tmp_path / f"{layout}.onnx", layout), tmp_path / f"{layout}-bundle", options).bundle.folder


def test_what_a_model_finds_is_shown(tmp_path) -> None:
    trial = try_model(packed(tmp_path, "yolov8"), photo(tmp_path / "a.png"))
    assert trial.picture.shape == (HEIGHT, WIDTH, 3) and (trial.picture == COLOUR).all()
    assert sorted(trial.detections.labels) == sorted(LABELS) and trial.notes == ()


def test_a_wrong_scale_is_pointed_out(tmp_path) -> None:
    """YOLOX wants 0 to 255; with 0 to 1 nothing is found, and nothing else shows the mistake."""
    right = try_model(packed(tmp_path, "yolox"), photo(tmp_path / "a.png"))
    assert len(right.detections) == 3 and right.notes == ()
    wrong = tmp_path / "wrong"
    pack(tmp_path / "yolox.onnx", wrong, PackOptions(classes=CLASSES, threshold=0.2, input={"scale": 1.0}))
    trial = try_model(wrong, tmp_path / "a.png")
    assert len(trial.detections) == 0
    assert len(trial.notes) == 1 and trial.notes[0].startswith("with --scale 255 the model finds 3 boxes")


def test_a_wrong_order_of_bands_is_pointed_out(tmp_path) -> None:
    """The only box of this network has the value of its first channel as a score."""
    model = build("yolov5")
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "add0")
    array = onnx.numpy_helper.to_array(weights) * np.array([[1], [0], [0]], np.float32)
    weights.CopyFrom(onnx.numpy_helper.from_array(array, "add0"))
    onnx.save(model, tmp_path / "one.onnx")
    one = pack(tmp_path / "one.onnx", tmp_path / "one", PackOptions(classes=CLASSES, threshold=0.7))
    trial = try_model(one.bundle.folder, photo(tmp_path / "b.png", (10, 10, 250)))
    assert len(trial.detections) == 0
    assert trial.notes[0].startswith("with --bgr the model finds 1 boxes")


def test_the_middle_of_a_large_image_is_taken(tmp_path) -> None:
    rng = np.random.default_rng(0)
    pixels = np.zeros((3, MAX_SIDE + 400, MAX_SIDE + 200), np.uint8)
    pixels[:, 200:-200, 100:-100] = rng.integers(1, 255, (3, MAX_SIDE, MAX_SIDE), np.uint8)
    trial = try_model(packed(tmp_path, "yolov8"), write_tif(tmp_path / "large.tif", pixels))
    assert (trial.window.col, trial.window.row) == (100, 200)
    np.testing.assert_array_equal(trial.picture, pixels[:, 200:-200, 100:-100].transpose(1, 2, 0))


def test_an_image_of_another_type_is_refused(tmp_path) -> None:
    image = write_tif(tmp_path / "deep.tif", np.zeros((3, 64, 64), np.uint16))
    with pytest.raises(ModelError, match="pixels are uint16, but yolov8 was trained on uint8"):
        try_model(packed(tmp_path, "yolov8"), image)


def test_commands_from_a_file_to_a_picture_and_a_map_layer(tmp_path) -> None:
    def geosod(*args: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "geosod", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    graph, image = write(tmp_path / "net.onnx", "yolov8"), photo(tmp_path / "photo.png")
    asked = geosod("model", "pack", graph, "-o", "net")
    assert asked.returncode == 2 and "add --classes (names in the network's order, 4 of them" in asked.stderr
    made = geosod("model", "pack", graph, "-o", "net", "--classes", ",".join(CLASSES), "--threshold", "0.2")
    assert made.returncode == 0 and "tiles of 320 x 256 px; `geosod model try net IMAGE`" in made.stderr
    assert "a, b, c, d" in geosod("model", "info", "net").stdout
    tried = geosod("model", "try", "net", image)
    assert tried.returncode == 0 and tried.stdout == "photo_try.png: 1 a, 1 c, 1 d; best score 0.80\n"
    assert Image.open(tmp_path / "photo_try.png").width >= WIDTH
    detected = geosod("detect", image, "--model", "net", "-o", "out")
    assert detected.returncode == 0, detected.stderr
    assert list((tmp_path / "out" / "pixel").glob("*.parquet"))
    again = geosod("model", "pack", graph, "-o", "net", "--classes", "a,b,c,d")
    assert again.returncode == 2 and "exists and is not empty" in again.stderr
