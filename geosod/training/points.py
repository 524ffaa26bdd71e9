"""Images with point labels: reading, splitting by location, augmentation, and heat maps as targets."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from geosod.arrays import BoolArray, FloatArray
from geosod.errors import ConfigError
from geosod.scene import SceneRef
from geosod.scenes.open import open_scene, opened
from geosod.scenes.pixels import read_window

#: A Gaussian is cut off at this many standard deviations.
_REACH = 3.5


@dataclass(frozen=True, slots=True, eq=False)
class PointImage:
    """An image and its labelled points.

    Attributes:
        name: file name.
        pixels: (C, H, W) uint8.
        points: (N, 2) float64 ``x, y`` in pixels, frame of the image.
        bounds: ``left, low, right, high`` in units of the CRS; None without georeference.
        crs: the CRS as WKT, or None.
    """

    name: str
    pixels: npt.NDArray[np.uint8]
    points: FloatArray
    bounds: tuple[float, float, float, float] | None = None
    crs: str | None = None


def read_split(folder: Path, subset: str, *, bands: int) -> list[PointImage]:
    """The images of ``<subset>.json``, a COCO file whose annotations have a ``point``.

    A point is given as the column and row of a pixel and means the centre of that pixel.

    Args:
        folder: contains the JSON file and the images.
        subset: "train" or "val".
        bands: number of bands that every image must have; all are read, in file order.

    Raises:
        ConfigError: the JSON file is missing or not of this form, or an image has other bands or another dtype.
    """
    path = folder / f"{subset}.json"
    try:
        coco = json.loads(path.read_text())
        points: dict[Any, list[Any]] = defaultdict(list)
        for annotation in coco["annotations"]:
            points[annotation["image_id"]].append(annotation["point"])
        listed = [(image["file_name"], points[image["id"]]) for image in coco["images"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a COCO file with points: {type(error).__name__}: {error}") from error
    return [_read(folder / name, labelled, bands) for name, labelled in listed]


def _read(path: Path, labelled: list[Any], bands: int) -> PointImage:
    scene = open_scene(SceneRef(str(path), path.stem))
    if scene.count != bands or scene.dtype != "uint8":
        raise ConfigError(f"{path}: has {scene.count} bands of {scene.dtype}; {bands} of uint8 are needed")
    with opened(scene.ref) as dataset:
        pixels, _ = read_window(dataset, scene, tuple(range(1, bands + 1)), scene.window)
        box = None if scene.crs is None else tuple(float(v) for v in dataset.bounds)
    centre = np.array(labelled, np.float64).reshape(-1, 2) + 0.5
    bounds = None if box is None else (box[0], box[1], box[2], box[3])
    return PointImage(path.name, pixels, centre, bounds, scene.crs)


def adjacent(a: PointImage, b: PointImage, *, overlap: bool) -> bool:
    """Whether two images touch or, with `overlap`, show some of the same ground."""
    if a.bounds is None or b.bounds is None or a.crs != b.crs:
        return False
    slack = 0.0 if overlap else 1.0
    width = min(a.bounds[2], b.bounds[2]) - max(a.bounds[0], b.bounds[0])
    height = min(a.bounds[3], b.bounds[3]) - max(a.bounds[1], b.bounds[1])
    return min(width, height) > -slack


def hold_out(images: list[PointImage], *, every: int) -> tuple[list[PointImage], list[PointImage]]:
    """Hold out one in `every` groups of images that touch each other, directly or through others.

    Returns:
        The images to train on, and those held out.
    """
    group = list(range(len(images)))
    for i, a in enumerate(images):
        for j, b in enumerate(images[:i]):
            if group[i] != group[j] and adjacent(a, b, overlap=False):
                group = [group[j] if g == group[i] else g for g in group]
    held_out = set(sorted(set(group))[::every])
    kept = [image for image, g in zip(images, group, strict=True) if g not in held_out]
    return kept, [image for image, g in zip(images, group, strict=True) if g in held_out]


def augment(
    image: PointImage,
    rng: np.random.Generator,
    *,
    side: int,
    rotated: float = 0.35,
    stretch: float = 0.16,
    jitter: float = 1.0,
) -> tuple[npt.NDArray[np.float32], FloatArray]:
    """A random square of an image, randomly flipped and rotated, with random brightness.

    Args:
        image: at least `side` px wide and high.
        rng: random number generator.
        side: side of the square in pixels.
        rotated: fraction of squares that are rotated by any angle and scaled; the others are rotated by multiples of
            90°, so that no pixel is resampled.
        stretch: maximum of the scale's logarithm, either way.
        jitter: how much brightness varies, of the whole and of each band; 1 is 15 % and 7 %.

    Returns:
        Pixels (C, side, side) float32 from 0 to 1, 0 outside the image; and points (N, 2) in the square's frame, some
        of which may lie outside it.
    """
    if rng.random() < rotated:
        pixels, points = _similarity(image, rng, side, stretch)
    else:
        pixels, points = _right_angles(image, rng, side)
    if rng.random() < 0.5:
        pixels, points = pixels[:, :, ::-1], points * (-1, 1) + (side, 0)
    gain = (1 + jitter * rng.uniform(-0.15, 0.15)) * (1 + jitter * rng.uniform(-0.07, 0.07, (len(pixels), 1, 1)))
    valid = (pixels > 0).any(axis=0)
    pixels = np.clip(pixels * gain.astype(np.float32) + np.float32(jitter * rng.uniform(-0.04, 0.04)), 0, 1) * valid
    return np.ascontiguousarray(pixels, np.float32), points


def _right_angles(image: PointImage, rng: np.random.Generator, side: int) -> tuple[npt.NDArray[np.float32], FloatArray]:
    height, width = image.pixels.shape[1:]
    x, y = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
    pixels = image.pixels[:, y : y + side, x : x + side]
    points = image.points - (x, y)
    for _ in range(int(rng.integers(4))):
        # Rotating by 90° counter-clockwise moves (x, y) to (y, side - x).
        pixels, points = np.rot90(pixels, axes=(1, 2)), np.column_stack([points[:, 1], side - points[:, 0]])
    return pixels.astype(np.float32) / np.float32(255), points


def _similarity(
    image: PointImage, rng: np.random.Generator, side: int, stretch: float
) -> tuple[npt.NDArray[np.float32], FloatArray]:
    height, width = image.pixels.shape[1:]
    angle, scale = rng.uniform(0, 2 * math.pi), math.exp(rng.uniform(-stretch, stretch))
    # Pixel (u, v) of the square shows x, y = centre + matrix @ (u - side / 2, v - side / 2).
    matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) / scale
    centre = rng.uniform(0.3, 0.7, 2) * (width, height)
    size = np.array([width, height], np.float64)
    # grid_sample uses coordinates from -1 to 1 over the image and over the square.
    theta = np.column_stack([matrix * side / size[:, None], 2 * centre / size - 1])
    source = torch.from_numpy(image.pixels).float()[None] / 255
    grid = F.affine_grid(torch.from_numpy(theta).float()[None], [1, len(image.pixels), side, side], align_corners=False)
    pixels = F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0].numpy()
    points = (image.points - centre) @ np.linalg.inv(matrix).T + side / 2
    return pixels, points


def heat_map(points: FloatArray, *, side: int, sigma: float) -> tuple[npt.NDArray[np.float32], BoolArray]:
    """The target of a network for some points.

    Args:
        points: (N, 2) ``x, y`` in pixels; Gaussians of points outside the square may extend into it.
        side: side of the square in pixels.
        sigma: standard deviation of the Gaussian around a point, in pixels.

    Returns:
        Heat (side, side) float32, the maximum of the Gaussians at the centre of each pixel; and (side, side) bool,
        the pixels that contain a point.
    """
    heat = np.zeros((side, side), np.float32)
    positive = np.zeros((side, side), np.bool_)
    reach = _REACH * sigma
    centre = np.arange(side) + 0.5
    for x, y in points[((points > -reach) & (points < side + reach)).all(axis=1)]:
        cols = slice(max(0, int(x - reach)), max(0, int(x + reach) + 1))
        rows = slice(max(0, int(y - reach)), max(0, int(y + reach) + 1))
        across = np.exp(-(((centre[cols] - x) / sigma) ** 2) / 2)
        along = np.exp(-(((centre[rows] - y) / sigma) ** 2) / 2)
        np.maximum(heat[rows, cols], (along[:, None] * across).astype(np.float32), out=heat[rows, cols])
        if 0 <= x < side and 0 <= y < side:
            positive[int(y), int(x)] = True
    return heat, positive


def draw(image: PointImage, found: FloatArray, matched: BoolArray, path: Path, *, scale: int = 3) -> None:
    """Save a picture of an image with its true points as white rings and predicted ones as dots.

    Args:
        image: its first three bands are red, green and blue.
        found: (M, 2) predicted ``x, y`` in pixels.
        matched: (M,) whether a prediction matches a true point; matched ones are yellow, the others red.
        path: the JPEG file to write.
        scale: integer magnification.
    """
    rgb = Image.fromarray(np.ascontiguousarray(image.pixels[:3].transpose(1, 2, 0)))
    picture = rgb.resize((rgb.width * scale, rgb.height * scale), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for x, y in image.points * scale:
        pen.ellipse((x - 9, y - 9, x + 9, y + 9), outline=(255, 255, 255), width=2)
    for (x, y), hit in zip(found * scale, matched, strict=True):
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=(255, 214, 0) if hit else (235, 40, 40))
    picture.save(path, "JPEG", quality=82, optimize=True)
