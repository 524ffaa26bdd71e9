"""A real ONNX detector on a photograph, beside its own pre- and post-processing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import geosod
from geosod.detectors.packing import pack
from geosod.detectors.packing.class_names import COCO
from geosod.detectors.packing.options import PackOptions
from tests.conftest import SHARED

WEIGHTS = SHARED / "models" / "yolox_nano.onnx"
pytestmark = pytest.mark.skipif(not WEIGHTS.is_file(), reason="no folder of models beside the project")
SIDE = 416


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """(3, 600, 512) uint8: a portrait of a person with a tie, which matplotlib brings along."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("yolox") / "yolox-nano"
    return pack(WEIGHTS, folder, PackOptions(classes=COCO)).bundle.folder


def reference(image: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """YOLOX's published inference for an image (3, 416, 416): boxes, scores and labels after NMS by class."""
    import onnxruntime
    import torch
    from torchvision.ops import batched_nms

    session = onnxruntime.InferenceSession(WEIGHTS, providers=["CPUExecutionProvider"])
    (raw,) = session.run(None, {"images": image[::-1][None].astype(np.float32)})
    rows, start = raw[0].copy(), 0
    for stride in (8, 16, 32):
        side = SIDE // stride
        for k in range(side * side):
            rows[start + k, :2] = (rows[start + k, :2] + [k % side, k // side]) * stride
            rows[start + k, 2:4] = np.exp(rows[start + k, 2:4]) * stride
        start += side * side
    scores = rows[:, 4] * rows[:, 5:].max(axis=1)
    labels = rows[:, 5:].argmax(axis=1)
    boxes = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], axis=1)
    some = scores >= threshold
    boxes, scores, labels = boxes[some].clip(0, SIDE), scores[some], labels[some]
    kept = batched_nms(torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels), 0.45).numpy()
    return boxes[kept], scores[kept], labels[kept]


def test_boxes_equal_those_of_its_own_pipeline(bundle, photograph) -> None:
    tile = np.asarray(Image.fromarray(photograph.transpose(1, 2, 0)).resize((SIDE, SIDE))).transpose(2, 0, 1)
    found = geosod.load_model(bundle, threshold=0.05).detect(tile)
    boxes, scores, labels = reference(tile, 0.05)
    assert len(found) == len(boxes) >= 3
    order, other = np.lexsort((found.labels, -found.scores)), np.lexsort((labels, -scores))
    np.testing.assert_allclose(found.boxes[order], boxes[other], atol=1e-3)
    np.testing.assert_allclose(found.scores[order], scores[other], atol=1e-4)
    assert found.labels[order].tolist() == labels[other].tolist()


def test_it_finds_what_is_on_a_photograph(bundle, photograph) -> None:
    found = geosod.load_model(bundle, threshold=0.5).detect(photograph)
    names = [COCO[label] for label in found.labels]
    assert sorted(set(names)) == ["person", "tie"]
    person = found.boxes[names.index("person")]
    assert person[0] < 60 and person[2] > 450 and person[3] > 580, "the person fills the picture"


@pytest.mark.parametrize("wrong", [{"reverse_bands": False}, {"scale": 1.0}])
def test_wrong_bands_and_scales_change_what_is_found(wrong, photograph, tmp_path) -> None:
    right = pack(WEIGHTS, tmp_path / "right", PackOptions(classes=COCO)).bundle.folder
    other = pack(WEIGHTS, tmp_path / "wrong", PackOptions(classes=COCO, input=wrong)).bundle.folder
    tile = photograph[:, :SIDE, :SIDE]
    a, b = (geosod.load_model(folder, threshold=0.1).detect(tile) for folder in (right, other))
    assert len(a) != len(b) or not np.allclose(a.scores, b.scores, atol=1e-3)


@pytest.mark.slow
def test_every_object_of_a_mosaic_is_found_once(bundle, photograph) -> None:
    """4096 x 4096 pixels of photographs at half their size, flipped or not: people of about 230 px, tiles of 416."""
    small = np.asarray(Image.fromarray(photograph.transpose(1, 2, 0)).resize((256, 300)))
    mosaic = np.full((4096, 4096, 3), 114, np.uint8)
    spots = [(x, y) for y in range(20, 4096 - 300, 340) for x in range(16, 4096 - 256, 290)]
    for i, (x, y) in enumerate(spots):
        mosaic[y : y + 300, x : x + 256] = small[:, ::-1] if i % 2 else small
    # Objects up to the overlap are whole in some tile.
    result = geosod.detect(mosaic.transpose(2, 0, 1), model=str(bundle), overlap=300, threshold=0.5)
    found = result["array"].detections
    for name in ("person", "tie"):
        boxes = found.boxes[found.labels == COCO.index(name)]
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        per_spot = [int(((centres >= s) & (centres <= np.add(s, (256, 300)))).all(axis=1).sum()) for s in spots]
        assert per_spot == [1] * len(spots)
    assert len(found) == 2 * len(spots)
