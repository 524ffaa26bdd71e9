"""Crops of rendered scenes as training data, and the targets of the network for them."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from geosod.arrays import FloatArray
from geosod.demo.layout import CLASSES, Layout, make_layout
from geosod.demo.render import render
from geosod.scene import Window


@dataclass(frozen=True, slots=True, eq=False)
class Chip:
    """A square crop of a scene.

    Attributes:
        pixels: (3, H, W) uint8 RGB, invalid pixels 0.
        boxes: (N, 4) float64, frame of the chip; boxes with centres slightly outside are included.
        labels: (N,) int32.
    """

    pixels: npt.NDArray[np.uint8]
    boxes: FloatArray
    labels: npt.NDArray[np.int32]


def compress(pixels: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    """(3, H, W) uint8 after a round trip through JPEG with halved chroma, as in a JPEG-compressed GeoTIFF."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(
        buffer, "JPEG", quality=quality, subsampling=2
    )
    return np.ascontiguousarray(np.asarray(Image.open(buffer)).transpose(2, 0, 1))


def render_chip(layout: Layout, window: Window, *, quality: int) -> Chip:
    """Render and compress a part of a scene."""
    pixels, valid = render(layout, window)
    corner = np.array([window.col, window.row, window.col, window.row], np.float64)
    centre = (layout.boxes[:, :2] + layout.boxes[:, 2:]) / 2 - corner[:2]
    near = ((centre > -40) & (centre < np.array([window.width, window.height]) + 40.0)).all(1)
    return Chip(compress(pixels, quality) * valid, layout.boxes[near] - corner, layout.labels[near])


def random_chips(seed: int, rng: np.random.Generator, *, scene: int, side: int) -> list[Chip]:
    """24 chips of a new scene: most around an object of a class chosen uniformly, the others anywhere.

    Within a class longer objects are chosen more often, since there are few lorries among the cars.
    """
    layout = make_layout(scene, seed)
    chips = []
    for _ in range(24):
        label = int(rng.integers(len(CLASSES) + 1))
        members = np.flatnonzero(layout.labels == label)
        corner = rng.uniform(0, scene - side, 2)
        if len(members):
            box = layout.boxes[rng.choice(members, p=_by_length(layout.boxes[members]))]
            corner = (box[:2] + box[2:]) / 2 - rng.uniform(0.1, 0.9, 2) * side
        col, row = np.clip(corner, 0, scene - side).astype(int)
        window = Window(int(col), int(row), side, side)
        chips.append(render_chip(layout, window, quality=int(rng.integers(78, 96))))
    return chips


def _by_length(boxes: FloatArray) -> FloatArray:
    length = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    probability: FloatArray = length**2 / (length**2).sum()
    return probability


def augment(chip: Chip, rng: np.random.Generator, *, side: int) -> Chip:
    """A random square of the chip, mostly around an object, with random flips, rotations, brightness and contrast."""
    slack = chip.pixels.shape[1] - side
    x, y = rng.integers(0, slack + 1, 2)
    if len(chip.boxes) and rng.random() < 0.8:
        box = chip.boxes[rng.choice(len(chip.boxes), p=_by_length(chip.boxes))]
        x, y = np.clip((box[:2] + box[2:]) / 2 - rng.uniform(0.05, 0.95, 2) * side, 0, slack).astype(int)
    pixels = chip.pixels[:, y : y + side, x : x + side]
    boxes = chip.boxes - np.array([x, y, x, y])
    if rng.random() < 0.5:
        pixels, boxes = (
            pixels[:, :, ::-1],
            np.stack([side - boxes[:, 2], boxes[:, 1], side - boxes[:, 0], boxes[:, 3]], axis=1),
        )
    for _ in range(int(rng.integers(4))):
        # Rotating by 90° counter-clockwise moves (x, y) to (y, side - x).
        pixels = np.rot90(pixels, axes=(1, 2))
        boxes = np.stack([boxes[:, 1], side - boxes[:, 2], boxes[:, 3], side - boxes[:, 0]], axis=1)
    black = (pixels == 0).all(0)
    gain, shift = rng.uniform(0.85, 1.15), rng.uniform(-14, 14)
    jittered = np.clip(pixels * np.float32(gain) + np.float32(shift), 0, 255).astype(np.uint8)
    jittered[:, black] = 0
    return Chip(jittered, boxes, chip.labels)


def targets(
    chips: list[Chip], *, side: int, stride: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The network's targets: heat (B, classes, h, w), shape (B, 4, h, w) and weight (B, h, w), float32.

    The heat is a Gaussian around the cell that contains a centre, wider for larger boxes. Neighbouring cells have the
    box as target, too, with less weight, since the peak may fall on one of them.
    """
    cells = side // stride
    heat = np.zeros((len(chips), len(CLASSES), cells, cells), np.float32)
    shape = np.zeros((len(chips), 4, cells, cells), np.float32)
    weight = np.zeros((len(chips), cells, cells), np.float32)
    for i, chip in enumerate(chips):
        centre = (chip.boxes[:, :2] + chip.boxes[:, 2:]) / 2 / stride
        size = (chip.boxes[:, 2:] - chip.boxes[:, :2]) / stride
        inside = (centre >= 0).all(1) & (centre < cells).all(1)
        for (cx, cy), (w, h), label in zip(centre[inside], size[inside], chip.labels[inside], strict=True):
            _stamp(heat[i, label], shape[i], weight[i], (cx, cy, w, h))
    return heat, shape, weight


def _stamp(
    heat: npt.NDArray[np.float32],
    shape: npt.NDArray[np.float32],
    weight: npt.NDArray[np.float32],
    box: tuple[float, float, float, float],
) -> None:
    cx, cy, w, h = box
    cells = heat.shape[0]
    x, y = int(cx), int(cy)
    sx, sy = max(0.5, 0.14 * w), max(0.5, 0.14 * h)
    reach_x, reach_y = int(3 * sx) + 1, int(3 * sy) + 1
    xs = np.arange(max(0, x - reach_x), min(cells, x + reach_x + 1))
    ys = np.arange(max(0, y - reach_y), min(cells, y + reach_y + 1))
    bump = np.exp(-(((xs - x) / sx) ** 2)[None] / 2 - (((ys - y) / sy) ** 2)[:, None] / 2).astype(np.float32)
    part = np.s_[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    heat[part] = np.maximum(heat[part], bump)
    near = np.where(bump >= 1.0 - 1e-6, 1.0, 0.4 * bump * (bump > 0.12))
    closer = near > weight[part]
    weight[part] = np.where(closer, near, weight[part])
    values = (cx - xs[None] - 0.5, cy - ys[:, None] - 0.5, np.log(w), np.log(h))
    for k, value in enumerate(values):
        shape[k][part] = np.where(closer, np.broadcast_to(value, bump.shape), shape[k][part])
