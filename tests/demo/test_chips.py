"""Training data of the demo's network: chips, augmentation, targets and metrics."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geosod.datasets.labels import LabelledImage, Labels
from geosod.demo.layout import make_layout
from geosod.detections import Detections
from geosod.detectors.zoo.fpn import SmallFPN, decode
from geosod.evaluation.comparison import Comparison
from geosod.scene import Window
from geosod.training.chips import Chip, augment, render_chip, targets
from geosod.training.measure import measure


def _painted(rng: np.random.Generator, side: int, n: int) -> Chip:
    """Rectangles of whole pixels, each of one colour, on grey."""
    pixels = np.full((3, side, side), 100, np.uint8)
    boxes = []
    for k in range(n):
        x, y = 20 * (k % 4) + 4, 24 * (k // 4) + 5
        w, h = rng.integers(4, 14, 2)
        pixels[:, y : y + h, x : x + w] = np.array([[[150 + 8 * k]], [[60]], [[200 - 7 * k]]], np.uint8)
        boxes.append([x, y, x + w, y + h])
    return Chip(pixels, np.array(boxes, np.float64), rng.integers(0, 3, n).astype(np.int32))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_boxes_follow_the_pixels_through_augmentation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chip = augment(_painted(rng, 96, 9), rng, side=64)
    assert chip.pixels.shape == (3, 64, 64) and len(chip.labels) == len(chip.boxes)
    inside = ((chip.boxes >= 0) & (chip.boxes <= 64)).all(1)
    background = np.bincount(chip.pixels[1].ravel(), minlength=256)
    for x0, y0, x1, y1 in chip.boxes[inside].astype(int):
        part = chip.pixels[:, y0:y1, x0:x1]
        assert part.reshape(3, -1).std(1).max() == 0
        assert part[1, 0, 0] != background.argmax()
        around = chip.pixels[1, max(0, y0 - 1) : y1 + 1, max(0, x0 - 1) : x1 + 1]
        assert (around != part[1, 0, 0]).any() or around.shape == part[1].shape


def test_render_chip_moves_boxes_into_the_frame_of_the_chip() -> None:
    layout = make_layout(2048, 7)
    x, y = layout.boxes[0, :2].astype(int)
    chip = render_chip(layout, Window(max(0, int(x) - 60), max(0, int(y) - 60), 128, 128), quality=90)
    assert np.abs(chip.boxes + [max(0, x - 60), max(0, y - 60)] * 2 - layout.boxes[0]).max(1).min() < 1e-9
    assert (((chip.boxes[:, :2] + chip.boxes[:, 2:]) / 2 > -40) & (chip.boxes[:, :2] < 168)).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(0, 6))
def test_decoding_the_targets_gives_the_boxes(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 28, (n, 2)) + 32 * np.array([(k % 3, k // 3) for k in range(n)]).reshape(n, 2)
    boxes = np.concatenate([corner, corner + rng.uniform(3, 60, (n, 2))], axis=1)
    chip = Chip(np.zeros((3, 96, 96), np.uint8), boxes, rng.integers(0, 3, n).astype(np.int32))
    heat, shape, weight = targets([chip], side=96, stride=4)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centre >= 0) & (centre < 96)).all(1)
    cells = {tuple(c) for c in (centre[inside] // 4).astype(int)}
    assert (weight >= 1).sum() <= len(cells) and (heat == 1).any() == bool(inside.any())
    near = [np.abs(a - b).max() for i, a in enumerate(centre[inside]) for b in centre[inside][:i]]
    if near and min(near) < 9:
        return
    logits = np.where(heat >= 1 - 1e-6, 10.0, -10.0)
    raw = torch.from_numpy(np.concatenate([logits, shape], axis=1).astype(np.float32))
    found, _, labels = decode(raw, threshold=0.5, topk=20, stride=SmallFPN.stride)
    assert len(found[0]) == inside.sum()
    got = sorted(map(tuple, np.round(found[0, : inside.sum()].numpy(), 1)))
    np.testing.assert_allclose(got, sorted(map(tuple, np.round(boxes[inside], 1))), atol=0.2)
    assert sorted(labels[0, : inside.sum()].tolist()) == sorted(chip.labels[inside].tolist())


def test_measure_of_perfect_and_of_half_correct_results() -> None:
    boxes = np.array([[0, 0, 10, 10], [50, 0, 60, 10.0]])
    truth = Labels(
        images=[LabelledImage("a", "", 60, 60)], classes=("a", "b"), image=[0, 0], boxes=boxes, labels=[0, 1]
    )

    def of(found: np.ndarray) -> dict:
        return measure(Comparison.of_images(truth, {"a": Detections(boxes=found, scores=[0.875, 0.75], labels=[0, 1])}))

    perfect = of(boxes)
    assert perfect["f1"] == 1.0 and perfect["ap50"] == {"a": 1.0, "b": 1.0} and perfect["threshold"] == 0.75
    half = of(boxes + np.array([[0], [30]]))
    assert half["ap50"] == {"a": 1.0, "b": 0.0} and half["recall"] == 0.5 and half["precision"] == 1.0
