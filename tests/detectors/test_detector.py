"""The detector: each tile by itself, boxes in the scene frame, flags of boxes at edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from geosod.api import load_model
from geosod.detections import BOTTOM, EDGE_MARGIN, LEFT, Detections, fragment_flags
from geosod.detectors import open_bundle
from geosod.detectors.adapters.zoo import network
from geosod.detectors.detector import Detector
from geosod.detectors.execution import resolve
from geosod.detectors.postprocess import _meets_invalid
from geosod.detectors.radiometry import scaled_tiles
from geosod.detectors.ways import Machine
from geosod.detectors.zoo.fpn import decode
from geosod.errors import ConfigError
from geosod.scene import TileBatch
from geosod.testing import fake_card
from tests.rasters import noise, random_bundle

SIDE = 128


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_bundle(tmp_path_factory.mktemp("m") / "m", bands=("red", "green", "blue"), tile=SIDE, threshold=0.3)


@pytest.fixture(scope="module")
def detector(bundle: Path) -> Detector:
    return load_model(bundle, precision="fp32", backend="eager", batch=4, device="cpu")


def batch(n: int, *, seed: int = 0, valid: np.ndarray | None = None) -> TileBatch:
    pixels = np.stack([noise(3, SIDE, SIDE, seed=seed + i) for i in range(n)])
    if valid is not None:
        pixels = pixels * valid[:, None]
    windows = np.array([[SIDE * i, 2 * SIDE, SIDE, SIDE] for i in range(n)], np.int64)
    return TileBatch(pixels, windows, valid, np.tile(np.array([9999, 8888]), (n, 1)))


def same(a: Detections, b: Detections) -> bool:
    return bool(a.to_arrow().equals(b.to_arrow()))


def test_boxes_are_those_of_the_network_written_out(bundle, detector) -> None:
    """An independent path: the unfused network in torch's own layout, one tile, one class at a time."""
    opened = open_bundle(bundle)
    model = network(opened.card)
    model.load_state_dict(load_file(opened.weights))
    model.eval()
    tiles = batch(3)
    for i, found in enumerate(detector.detect(tiles)):
        with torch.inference_mode():
            raw = model(torch.from_numpy(tiles.pixels[i : i + 1]).float() / 255)
            boxes, scores, labels = (x[0] for x in decode(raw, threshold=0.3, topk=120, stride=4))
        boxes = boxes.clamp(0, SIDE)
        solid = (boxes[:, 2:] - boxes[:, :2] >= 1).all(dim=1)
        boxes, scores, labels = boxes[solid], scores[solid], labels[solid]
        kept = [
            k
            for label in (0, 1)
            for k in torch.where(labels == label)[0][
                torchvision.ops.nms(boxes[labels == label], scores[labels == label], 0.5)
            ]
        ]
        kept = sorted((int(k) for k in kept), key=lambda k: -scores[k])[:60]
        assert len(found) == len(kept) > 20
        offset = np.array([SIDE * i, 2 * SIDE, SIDE * i, 2 * SIDE])
        expected = boxes[kept].double().numpy() + offset
        assert np.allclose(found.boxes, expected, atol=1e-3)
        assert np.allclose(found.scores, scores[kept].numpy(), atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9])
def test_a_tile_does_not_depend_on_its_batch(n, detector) -> None:
    alone = [detector.detect(batch(9)[i : i + 1])[0] for i in range(9)]
    together = [d for start in range(0, 9, n) for d in detector.detect(batch(9)[start : start + n])]
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


def test_boxes_at_an_interior_edge_are_fragments(detector) -> None:
    """The batch's first tile lies at the scene's left edge, the others at none."""
    for i, found in enumerate(detector.detect(batch(3))):
        x0, y0, x1, y1 = (found.boxes - np.array([SIDE * i, 2 * SIDE, SIDE * i, 2 * SIDE])).T
        sides = 2 * (y0 <= 2) + 4 * (x1 >= SIDE - 2) + 8 * (y1 >= SIDE - 2) + ((x0 <= 2) & (i > 0))
        assert np.array_equal(found.fragment, sides) and 0 < (sides > 0).sum() < len(found)
        assert np.array_equal(found.truncated, (x0 <= 2) & (i == 0))


def test_boxes_on_nothing_are_dropped_and_boxes_at_nothing_are_cut(detector) -> None:
    valid = np.ones((1, SIDE, SIDE), bool)
    valid[0, :, : SIDE // 2] = False
    (found,) = detector.detect(batch(1, valid=valid))
    x0, x1 = found.boxes[:, 0], found.boxes[:, 2]
    assert len(found) and (x1 > SIDE // 2).all()
    assert np.array_equal(found.truncated, np.floor(x0) - 1 < SIDE // 2)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), share=st.floats(0, 1))
def test_meeting_invalid_pixels_is_counted_right(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    valid = rng.random((20, 30)) >= share**4
    low = rng.uniform(0, [28, 18], (40, 2))
    boxes = np.concatenate([low, np.minimum(low + rng.uniform(0.5, 9, (40, 2)), [30, 20])], axis=1)
    # Two tiles, of which the boxes lie in the second.
    both, tile = np.stack([~valid, valid]), torch.ones(len(boxes), dtype=torch.int64)
    windows = torch.tensor([[0, 0, 30, 20]] * 2)
    touching, nothing = _meets_invalid(torch.from_numpy(boxes), tile, windows, both)
    for k, (x0, y0, x1, y1) in enumerate(boxes):
        c0, r0, c1, r1 = int(x0), int(y0), int(np.ceil(x1)), int(np.ceil(y1))
        around = valid[max(r0 - 1, 0) : r1 + 1, max(c0 - 1, 0) : c1 + 1]
        assert touching[k] == (not around.all())
        assert nothing[k] == (not valid[r0:r1, c0:c1].any())


def test_degenerate_boxes_are_counted_and_left_out(detector, monkeypatch) -> None:
    expected, original = detector.detect(batch(2)), detector.adapter._network.decode

    def decoded(raw, **options):
        boxes, scores, labels = (column.clone() for column in original(raw, **options))
        last = (scores[0] > 0.3).nonzero()[-3:, 0]
        boxes[0, last[0]], scores[0, last[1]], boxes[0, last[2], 0] = torch.nan, torch.nan, 1e6
        return boxes, scores, labels

    monkeypatch.setattr(detector.adapter._network, "decode", decoded)
    found = detector.detect_batch(batch(2))
    first, second = found.per_tile()
    assert same(second, expected[1]) and found.degenerate.tolist() == [3, 0]
    assert np.isfinite(first.boxes).all() and len(first) >= len(expected[0]) - 3


def test_edges_of_tiles_and_of_the_scene() -> None:
    boxes = np.array([[1, 50, 20, 60], [50, 1, 60, 20], [50, 50, 99, 60], [50, 50, 60, 99], [10, 10, 90, 90]], float)
    moved, tile = boxes + np.array([200, 0, 200, 0]), (200, 0, 100, 100)
    assert fragment_flags(moved, tile, (300, 500)).tolist() == [LEFT, 0, 0, BOTTOM, 0]
    flags = fragment_flags(moved, tile, (300, 500), edge_margin=10)
    assert flags.tolist() == [LEFT, 0, 0, BOTTOM, EDGE_MARGIN] and flags.dtype == np.uint8


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_pixels_of_a_caller_are_not_changed(dtype) -> None:
    """What a network is given is scaled in place, but in a copy; padding is 0."""
    pixels = noise(1, 32, 32, dtype=dtype)[None]
    before, window = pixels.copy(), np.array([[0, 0, 32, 32]])
    card = fake_card(dtype=dtype, minimum=(-9.0,), maximum=(300.0,))
    images = scaled_tiles(TileBatch(pixels, window, None, window[:, 2:]), card, size=3, device=torch.device("cpu"))
    assert np.array_equal(pixels, before) and images.shape == (3, 1, 32, 32)
    np.testing.assert_allclose(images[0].numpy(), (before[0] + 9.0) / 309, rtol=1e-5)
    assert not images[1:].any()


def test_the_machine_decides_and_says_why() -> None:
    bare = Machine(cuda=False, cuda_bf16=False, cpu_bf16=False, amx=False, compiler=False)
    execution, line = resolve(bare, tile=(512, 512))
    assert (execution.precision, execution.backend, execution.device) == ("fp32", "eager", "cpu")
    assert "no AMX or AVX-512 bf16 instructions" in line and "\n" not in line
    fast, _ = resolve(Machine(cuda=False, cuda_bf16=False, cpu_bf16=True, amx=True, compiler=True), tile=(512, 512))
    assert (fast.precision, fast.backend) == ("bf16", "eager")
    wide, _ = resolve(Machine(cuda=False, cuda_bf16=False, cpu_bf16=True, amx=False, compiler=True), tile=(512, 512))
    assert (wide.precision, wide.backend) == ("bf16", "eager")
    server = Machine(cuda=True, cuda_bf16=True, cpu_bf16=False, amx=False, compiler=True)
    assert (
        resolve(server, tile=(512, 512))[0].device == "cuda" and resolve(server, tile=(512, 512))[0].precision == "bf16"
    )
    assert resolve(server, tile=(512, 512))[0].backend == "eager"
    assert resolve(server, tile=(512, 512), device="cpu")[0].precision == "fp32"
    with pytest.raises(ConfigError, match="no CUDA GPU"):
        resolve(bare, tile=(512, 512), device="cuda")
    with pytest.raises(ConfigError, match=r"C\+\+ compiler"):
        resolve(bare, tile=(512, 512), backend="compile")


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "backend"), [("fp32", "compile"), ("bf16", "eager"), ("bf16", "compile")])
def test_other_executions_agree(precision, backend, bundle, detector) -> None:
    """Confident boxes are the same objects in every execution; and its own tiles do not depend on their batch."""
    other = load_model(bundle, precision=precision, backend=backend, batch=4, device="cpu")
    loose = 0.02 if precision == "fp32" else 4.0
    for a, b in zip(detector.detect(batch(4)), other.detect(batch(4)), strict=True):
        sure = a.scores >= np.sort(a.scores)[-10]
        distance = np.abs(a.boxes[sure][:, None] - b.boxes[None]).max(axis=2).min(axis=1)
        assert np.mean(distance < loose) >= 0.8
    alone = [other.detect(batch(4)[i : i + 1])[0] for i in range(4)]
    assert all(same(a, b) for a, b in zip(alone, other.detect(batch(4)), strict=True))
