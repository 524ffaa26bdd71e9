"""Images whose objects are labelled by points: reading, splitting by place, augmenting, and heat maps to learn."""

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

#: Points farther than this many standard deviations from a pixel leave no heat in it.
_REACH = 3.5


@dataclass(frozen=True, slots=True, eq=False)
class PointImage:
    """An image and the points in it.

    Attributes:
        name: its file.
        pixels: (C, H, W) uint8.
        points: (N, 2) float64 ``x, y`` in pixels, frame of the image.
        place: ``left, top, right, bottom`` in units of the CRS; None without georeference.
        crs: the CRS as WKT, or None.
    """

    name: str
    pixels: npt.NDArray[np.uint8]
    points: FloatArray
    place: tuple[float, float, float, float] | None = None
    crs: str | None = None


def read_split(folder: Path, subset: str, *, bands: int) -> list[PointImage]:
    """The images of ``<subset>.json``, a COCO file whose annotations have a ``point``.

    Points name pixels, by column and row; they are taken to mean the pixel's middle.

    Args:
        folder: holds the JSON and the images.
        subset: "train" or "val".
        bands: bands every image has; all are read, in file order.

    Raises:
        ConfigError: the JSON is missing or not of this form, or an image has other bands or pixels.
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
        raise ConfigError(f"{path}: has {scene.count} bands of {scene.dtype}; needed are {bands} of uint8")
    with opened(scene.ref) as dataset:
        pixels, _ = read_window(dataset, scene, tuple(range(1, bands + 1)), scene.window)
        bounds = None if scene.crs is None else tuple(float(v) for v in dataset.bounds)
    middle = np.array(labelled, np.float64).reshape(-1, 2) + 0.5
    place = None if bounds is None else (bounds[0], bounds[1], bounds[2], bounds[3])
    return PointImage(path.name, pixels, middle, place, scene.crs)


def meet(a: PointImage, b: PointImage, *, share: bool) -> bool:
    """Whether two images touch or, with `share`, show some of the same ground."""
    if a.place is None or b.place is None or a.crs != b.crs:
        return False
    slack = 0.0 if share else 1.0
    width = min(a.place[2], b.place[2]) - max(a.place[0], b.place[0])
    height = min(a.place[3], b.place[3]) - max(a.place[1], b.place[1])
    return min(width, height) > -slack


def hold_out(images: list[PointImage], *, every: int) -> tuple[list[PointImage], list[PointImage]]:
    """Set every so-many-th image apart; with it go the images that touch it, and those that touch these.

    Returns:
        The images to learn from, and those set apart.
    """
    group = list(range(len(images)))
    for i, a in enumerate(images):
        for j, b in enumerate(images[:i]):
            if group[i] != group[j] and meet(a, b, share=False):
                group = [group[j] if g == group[i] else g for g in group]
    apart = set(sorted(set(group))[::every])
    kept = [image for image, g in zip(images, group, strict=True) if g not in apart]
    return kept, [image for image, g in zip(images, group, strict=True) if g in apart]


def augment(
    image: PointImage, rng: np.random.Generator, *, side: int, turned: float = 0.35
) -> tuple[npt.NDArray[np.float32], FloatArray]:
    """A square of an image, flipped, turned and with other brightness.

    Args:
        image: at least `side` px wide and high.
        rng: where the chances come from.
        side: of the square in pixels.
        turned: share of squares that are turned by any angle and scaled by up to a sixth; the rest are turned by
            quarters, so that their pixels stay as they are.

    Returns:
        Pixels (C, side, side) float32 in 0 ... 1, where the image ends 0; and points (N, 2) in the square's frame,
        some of which may lie outside it.
    """
    if rng.random() < turned:
        pixels, points = _similar(image, rng, side)
    else:
        pixels, points = _quarter(image, rng, side)
    if rng.random() < 0.5:
        pixels, points = pixels[:, :, ::-1], points * (-1, 1) + (side, 0)
    gain = rng.uniform(0.85, 1.15) * rng.uniform(0.93, 1.07, (len(pixels), 1, 1))
    seen = (pixels > 0).any(axis=0)
    pixels = np.clip(pixels * gain.astype(np.float32) + np.float32(rng.uniform(-0.04, 0.04)), 0, 1) * seen
    return np.ascontiguousarray(pixels, np.float32), points


def _quarter(image: PointImage, rng: np.random.Generator, side: int) -> tuple[npt.NDArray[np.float32], FloatArray]:
    height, width = image.pixels.shape[1:]
    x, y = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
    pixels = image.pixels[:, y : y + side, x : x + side]
    points = image.points - (x, y)
    for _ in range(int(rng.integers(4))):
        # A quarter turn counter-clockwise takes (x, y) to (y, side - x).
        pixels, points = np.rot90(pixels, axes=(1, 2)), np.column_stack([points[:, 1], side - points[:, 0]])
    return pixels.astype(np.float32) / np.float32(255), points


def _similar(image: PointImage, rng: np.random.Generator, side: int) -> tuple[npt.NDArray[np.float32], FloatArray]:
    height, width = image.pixels.shape[1:]
    angle, scale = rng.uniform(0, 2 * math.pi), math.exp(rng.uniform(-0.16, 0.16))
    # Of a pixel of the square (u, v): x, y = centre + turn @ (u - side / 2, v - side / 2).
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) / scale
    centre = rng.uniform(0.3, 0.7, 2) * (width, height)
    size = np.array([width, height], np.float64)
    # grid_sample counts from -1 to 1 over the image and over the square.
    theta = np.column_stack([turn * side / size[:, None], 2 * centre / size - 1])
    source = torch.from_numpy(image.pixels).float()[None] / 255
    grid = F.affine_grid(torch.from_numpy(theta).float()[None], [1, len(image.pixels), side, side], align_corners=False)
    pixels = F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0].numpy()
    points = (image.points - centre) @ np.linalg.inv(turn).T + side / 2
    return pixels, points


def heat_map(points: FloatArray, *, side: int, sigma: float) -> tuple[npt.NDArray[np.float32], BoolArray]:
    """What a network should say of points.

    Args:
        points: (N, 2) ``x, y`` in pixels; those outside the square warm its edge.
        side: of the square in pixels.
        sigma: standard deviation of the Gaussian about a point, in pixels.

    Returns:
        Heat (side, side) float32, the greatest Gaussian in the middle of each pixel; and (side, side) bool, the
        pixels that hold a point.
    """
    heat = np.zeros((side, side), np.float32)
    positive = np.zeros((side, side), np.bool_)
    reach = _REACH * sigma
    middle = np.arange(side) + 0.5
    for x, y in points[((points > -reach) & (points < side + reach)).all(axis=1)]:
        cols = slice(max(0, int(x - reach)), max(0, int(x + reach) + 1))
        rows = slice(max(0, int(y - reach)), max(0, int(y + reach) + 1))
        across = np.exp(-(((middle[cols] - x) / sigma) ** 2) / 2)
        along = np.exp(-(((middle[rows] - y) / sigma) ** 2) / 2)
        np.maximum(heat[rows, cols], (along[:, None] * across).astype(np.float32), out=heat[rows, cols])
        if 0 <= x < side and 0 <= y < side:
            positive[int(y), int(x)] = True
    return heat, positive


def draw(image: PointImage, found: FloatArray, matched: BoolArray, path: Path, *, scale: int = 3) -> None:
    """Write a picture of an image with its true points as white rings and predicted ones as dots.

    Args:
        image: its first three bands are red, green and blue.
        found: (M, 2) predicted ``x, y`` in pixels.
        matched: (M,) whether a prediction found a true point; those that did are drawn yellow, the others red.
        path: the JPEG to write.
        scale: pixels of the picture for each of the image.
    """
    rgb = Image.fromarray(np.ascontiguousarray(image.pixels[:3].transpose(1, 2, 0)))
    picture = rgb.resize((rgb.width * scale, rgb.height * scale), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for x, y in image.points * scale:
        pen.ellipse((x - 9, y - 9, x + 9, y + 9), outline=(255, 255, 255), width=2)
    for (x, y), hit in zip(found * scale, matched, strict=True):
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=(255, 214, 0) if hit else (235, 40, 40))
    picture.save(path, "JPEG", quality=82, optimize=True)
