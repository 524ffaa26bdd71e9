"""Checkpoints of Ultralytics: packed as ONNX graphs, which find what ultralytics finds."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

import geosod
from geosod.detectors.packing import is_model_file, pack
from geosod.detectors.packing.options import PackOptions
from geosod.detectors.packing.ultralytics import is_ultralytics
from geosod.detectors.resize import prepare
from geosod.errors import ModelError
from geosod.testing import check_detector
from tests.adapters.yolo import NAMES, picture, saved_yolo

ultralytics = pytest.importorskip("ultralytics")
Boxes = tuple[np.ndarray, np.ndarray, np.ndarray]
cv2 = pytest.importorskip("cv2")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
CONFIGS = ("yolov8n.yaml", "yolo11n.yaml", "yolov10n.yaml", "yolo26n.yaml")
TRUST = PackOptions(trust=True, license="proprietary")
CONF = 0.2
RUN: dict[str, Any] = {"device": "cpu", "precision": "fp32", "backend": "onnxruntime", "batch": 1}


def detector_of(folder: Path, **settings: Any) -> geosod.Detector:
    return geosod.load_model(folder, threshold=CONF, **RUN | settings)


def predicted(path: Path, image: np.ndarray, size: int, **settings: Any) -> Boxes:
    """What ultralytics finds in an image (3, H, W), red, green, blue."""
    yolo = ultralytics.YOLO(path)
    bgr = np.ascontiguousarray(image[::-1].transpose(1, 2, 0))
    settings = {"imgsz": size, "conf": CONF, "max_det": 30000, "verbose": False, "device": "cpu"} | settings
    boxes = yolo.predict(bgr, **settings)[0].boxes
    return boxes.xyxy.numpy(), boxes.conf.numpy(), boxes.cls.numpy().astype(int)


def suppressed(boxes: Boxes, iou: float = 0.7) -> Boxes:
    """NMS in each class."""
    tensors = [torch.from_numpy(np.ascontiguousarray(column)) for column in boxes]
    kept = []
    for label in range(len(NAMES)):
        rows = torch.nonzero(tensors[2] == label).flatten()
        kept.append(rows[torchvision.ops.nms(tensors[0][rows], tensors[1][rows], iou)])
    rows = torch.cat(kept).numpy()
    return boxes[0][rows], boxes[1][rows], boxes[2][rows]


def found(detector: geosod.Detector, image: np.ndarray) -> Boxes:
    result = detector.detect(image)
    return result.boxes, result.scores, result.labels


def in_network(detector: geosod.Detector, image: np.ndarray) -> Boxes:
    """What the network finds, before anything else than the threshold."""
    raw = detector.adapter.predict(torch.from_numpy(image.astype(np.float32))[None] / 255).wanted(1, CONF)
    return raw.boxes.numpy(), raw.scores.numpy(), raw.labels.numpy()


def clipped(boxes: Boxes, image: np.ndarray) -> Boxes:
    return boxes[0].clip(0, [*image.shape[:0:-1]] * 2), boxes[1], boxes[2]


def assert_same(ours: Boxes, theirs: Boxes) -> None:
    """Within 1e-3 px and 1e-4 of score, and in number; the order does not matter."""
    assert len(ours[0]) == len(theirs[0]) >= 5
    free = list(range(len(ours[0])))
    for box, score, label in zip(*theirs, strict=True):
        near = [
            i
            for i in free
            if abs(ours[0][i] - box).max() <= 1e-3 and abs(ours[1][i] - score) <= 1e-4 and ours[2][i] == label
        ]
        assert near, f"not found: {box}, {score}, {NAMES[label]}"
        free.remove(near[0])


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Config → its checkpoint and its bundle."""
    made = {}
    for config in CONFIGS:
        folder = tmp_path_factory.mktemp(config.split(".")[0])
        path = saved_yolo(folder / "best.pt", config)
        pack(path, folder / "bundle", TRUST)
        made[config] = (path, folder / "bundle")
    return made


@pytest.mark.parametrize("config", CONFIGS)
def test_it_finds_what_ultralytics_finds(config, packed) -> None:
    path, bundle = packed[config]
    detector = detector_of(bundle)
    assert detector.card.adapter == "onnx" and detector.card.classes == NAMES and detector.card.tile_size == (256, 256)
    image = picture(256, 256, seed=7)
    theirs = predicted(path, image, 256)
    assert len(set(theirs[2].tolist())) >= 2
    # ultralytics suppresses boxes as the network gives them, and clips what is left.
    assert_same(clipped(suppressed(in_network(detector, image)), image), theirs)
    # geosod clips boxes to their tile, and then suppresses.
    every = predicted(path, image, 256, iou=1.0)
    assert_same(found(detector, image), suppressed(every))
    assert len(found(detector, image[::-1])[0]) != len(theirs[0]), "the order of bands would not show"


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("width", "height"), [(320, 192), (96, 416)])
def test_tiles_of_other_sizes(config, width, height, packed, tmp_path) -> None:
    """The graph takes any multiples of 32, as ultralytics does with the longer side as imgsz."""
    path, bundle = packed[config]
    shutil.copytree(bundle, tmp_path / "b")
    item = json.loads((bundle / "model.json").read_text())
    item["properties"]["geosod:tile"] = [width, height]
    (tmp_path / "b/model.json").write_text(json.dumps(item))
    image = picture(height, width, seed=3)
    every = predicted(path, image, max(width, height), iou=1.0)
    assert_same(found(detector_of(tmp_path / "b"), image), suppressed(every))


def test_an_input_that_is_larger_than_the_tile(tmp_path) -> None:
    """Tiles of 128 x 96 px are enlarged by 2, and boxes come back by the same factor.

    ultralytics gets the enlarged image: OpenCV 5 rounds a few of its values to the other side.
    """
    path = saved_yolo(tmp_path / "best.pt")
    options = PackOptions(trust=True, license="proprietary", tile=(128, 96), input={"size": (256, 192)})
    pack(path, tmp_path / "b", options)
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "b/model.onnx").metadata_props}
    assert metadata["imgsz"] == "[192, 256]", "height and width, as in the export"
    detector = detector_of(tmp_path / "b")
    image = picture(96, 128, seed=5)
    tensor = torch.from_numpy(image.astype(np.float32))[None] / 255
    large = prepare(tensor, detector.card.input, detector.card.input.fit(128, 96), whole=True)[0]
    pixels = (large * 255).round().byte().numpy()
    difference = np.abs(pixels - cv2.resize(image.transpose(1, 2, 0), (256, 192)).transpose(2, 0, 1).astype(int))
    assert pixels.shape == (3, 192, 256) and difference.max() <= 1 and (difference > 0).mean() < 0.01
    boxes, scores, labels = suppressed(predicted(path, pixels, 256, iou=1.0))
    assert_same(found(detector, image), (boxes / 2, scores, labels))


@pytest.mark.parametrize("config", ["yolov10n.yaml", "yolo26n.yaml"])
def test_the_head_that_needs_no_nms(config, packed, tmp_path) -> None:
    path, _ = packed[config]
    pack(path, tmp_path / "b", PackOptions(trust=True, license="proprietary", layout="yolov10"))
    detector = detector_of(tmp_path / "b")
    assert detector.card.parameters["layout"] == "yolov10" and detector.card.nms_iou == 1
    image = picture(256, 256, seed=7)
    theirs = predicted(path, image, 256, nms=False, max_det=300)
    assert_same(found(detector, image), theirs)
    assert len(theirs[0]) != len(predicted(path, image, 256)[0]), "it would not show which head is used"


@pytest.mark.parametrize("config", ["yolov8n.yaml", "yolo26n.yaml"])
def test_it_keeps_the_contract(config, packed) -> None:
    detector = detector_of(packed[config][1], batch=3)
    check_detector(detector, np.stack([picture(256, 256, seed) for seed in range(4)]))


def test_a_bundle_needs_neither_ultralytics_nor_trust(packed, tmp_path) -> None:
    script = f"""
import sys
import numpy as np, geosod
sys.modules["ultralytics"] = None
detector = geosod.load_model({str(packed["yolov8n.yaml"][1])!r}, threshold={CONF}, backend="onnxruntime")
assert len(detector.detect(np.load({str(tmp_path / "image.npy")!r})))
"""
    np.save(tmp_path / "image.npy", picture(256, 256, seed=7))
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_checkpoint_as_the_model_itself(tmp_path, monkeypatch) -> None:
    """It is packed once; what comes of it needs no trust."""
    monkeypatch.setenv("GEOSOD_CACHE", str(tmp_path / "cache"))
    path = saved_yolo(tmp_path / "best.pt")
    image = picture(256, 256, seed=7)
    with pytest.raises(ModelError, match="add --trust"):
        geosod.detect(image, model=path, **RUN)
    first = geosod.detect(image, model=path, trust=True, threshold=CONF, **RUN)["array"].detections
    again = geosod.detect(image, model=path, threshold=CONF, **RUN)["array"].detections
    assert len(first) > 5 and first.to_arrow().equals(again.to_arrow())


def test_where_it_comes_from_is_recorded(packed) -> None:
    card = geosod.load_model(packed["yolov8n.yaml"][1], **RUN).card
    assert len(card.provenance["checkpoint_sha256"]) == 64 and card.provenance["ultralytics"] == ultralytics.__version__


def test_the_users_settings_and_folder_are_left_alone(tmp_path) -> None:
    """The export writes beside its source, and ultralytics keeps settings below HOME."""
    source = saved_yolo(tmp_path / "in/best.pt") if (tmp_path / "in").mkdir() is None else None
    assert source is not None
    before = {path: path.stat().st_mtime_ns for path in Path.home().rglob("*Ultralytics*/**/*")}
    pack(source, tmp_path / "b", TRUST)
    assert {path: path.stat().st_mtime_ns for path in Path.home().rglob("*Ultralytics*/**/*")} == before
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["best.pt"]


def test_other_tasks_are_refused(tmp_path) -> None:
    ultralytics.YOLO("yolov8n-obb.yaml").save(tmp_path / "obb.pt")
    with pytest.raises(ModelError, match="its task is 'obb'; geosod runs detectors of axis-aligned boxes"):
        pack(tmp_path / "obb.pt", tmp_path / "b", TRUST)
    assert not (tmp_path / "b").exists()


def test_a_classifier(tmp_path) -> None:
    yolo = ultralytics.YOLO("yolov8n-cls.yaml")
    yolo.ckpt = {"train_args": {"imgsz": 64, "task": "classify"}}
    yolo.model.names = {i: f"kind {i}" for i in range(1000)}
    yolo.save(tmp_path / "cls.pt")
    card = pack(tmp_path / "cls.pt", tmp_path / "b", TRUST).bundle.card
    assert card.adapter == "onnx-classifier" and card.classes[:2] == ("kind 0", "kind 1") and len(card.classes) == 1000


def test_a_checkpoint_is_recognised_without_unpickling(tmp_path, monkeypatch) -> None:
    path = saved_yolo(tmp_path / "best.pt")
    monkeypatch.setattr(pickle, "Unpickler", None)
    assert is_ultralytics(path) and is_model_file(path)


def with_protocol(path: Path, protocol: int) -> Path:
    """The same checkpoint, written with another protocol of pickle."""
    checkpoint = torch.load(path, weights_only=False)
    torch.save(checkpoint, path, pickle_protocol=protocol)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_checkpoints_of_every_protocol(protocol, tmp_path) -> None:
    assert is_ultralytics(with_protocol(saved_yolo(tmp_path / "best.pt"), protocol))


def test_a_broken_checkpoint(tmp_path) -> None:
    path = saved_yolo(tmp_path / "best.pt")
    content = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(content, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name) if name.endswith("data.pkl") else b"")
    path.write_bytes(content.getvalue())
    with pytest.raises(ModelError, match="ultralytics cannot export it to ONNX: ") as caught:
        pack(path, tmp_path / "b", TRUST)
    assert "\n" not in str(caught.value)
