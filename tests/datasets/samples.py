"""Small labelled sets with real images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from affine import Affine

from geosod.datasets.image_files import read_image
from geosod.datasets.labels import ANY_CLASS, Labels
from tests.rasters import noise, write_tif

#: Names of the same classes in sets whose names are fixed.
NAMES = ("car", "bus", "others")
XVIEW_NAMES = ("Small Car", "Bus", "Building")
#: Name → size (width, height) of each image; one lies in a folder of its own.
IMAGES = {"a": (96, 64), "b": (64, 64), "sub/c": (80, 112)}


def write_images(folder: Path) -> list[Path]:
    """Georeferenced GeoTIFFs that do not overlap."""
    paths = []
    for k, (name, (width, height)) in enumerate(IMAGES.items()):
        path = folder / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        place = Affine(0.5, 0, 500_000 + 200 * k, 0, -0.5, 5_800_000)
        paths.append(write_tif(path, noise(3, height, width, seed=k), block=16, transform=place))
    return paths


def sample_labels(folder: Path, *, seed: int = 0, flags: bool = True, points: bool = False) -> Labels:
    """Boxes on a grid of eighths of a pixel, with every flag; the second image has none."""
    rng = np.random.default_rng(seed)
    paths = write_images(folder)
    images = [
        replace(read_image(name, path), number=k) for k, (name, path) in enumerate(zip(IMAGES, paths, strict=True), 1)
    ]
    count = 12
    image = np.where(np.arange(count) < 5, 0, 2)
    sizes = np.array([IMAGES[name] for name in IMAGES])[image]
    corner = np.floor(rng.uniform(0, 0.6, (count, 2)) * sizes * 8) / 8
    size = np.floor(rng.uniform(4, 20, (count, 2)) * 8) / 8
    size = size * 0 if points else size
    labels = rng.integers(0, len(NAMES), count)
    labels[:3] = 0, 1, 2
    ignore = np.zeros(count, np.bool_)
    crowd, truncated = ignore.copy(), ignore.copy()
    if flags:
        ignore[[1, 4]], truncated[[2, 5]], labels[4] = True, True, ANY_CLASS
    return Labels(
        images=images,
        classes=NAMES,
        image=image,
        boxes=np.hstack([corner, corner + size]),
        labels=labels,
        ignore=ignore,
        crowd=crowd,
        truncated=truncated,
        points=points,
    )


def rows(labels: Labels, *, decimals: int = 6) -> list[tuple[object, ...]]:
    """Every box as a tuple of what all formats can express, sorted."""
    names = (*labels.classes, "any")
    boxes = np.round(labels.boxes, decimals) + 0.0
    return sorted(
        (labels.images[int(k)].id, names[int(label)], bool(skip), *box)
        for k, label, skip, box in zip(labels.image, labels.labels, labels.ignore, boxes.tolist(), strict=True)
    )


def sizes(labels: Labels) -> dict[str, tuple[int, int]]:
    """Images with their sizes."""
    return {image.id: (image.width, image.height) for image in labels.images}
