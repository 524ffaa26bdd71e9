"""Images and labels at another scale, as by 1/2, 1/4 and 1/8 to see what absolute size decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from geosod.datasets.contract import Target
from geosod.datasets.formats.coco import write_coco
from geosod.datasets.image_files import scene_of
from geosod.datasets.labels import LabelledImage, Labels
from geosod.datasets.problems import Problems
from geosod.datasets.tile_files import write_scene
from geosod.datasets.write import keep_images, staged
from geosod.datasets.write_files import no_progress, safe_path
from geosod.errors import ConfigError, GeosodError
from geosod.scenes.view import at_scale


def scale_labels(labels: Labels, factor: float) -> Labels:
    """Labels of images that are resampled to `factor` pixels for each of their own.

    Images get whole pixels, so that the factors of an image along x and y may differ a little from `factor`.

    Raises:
        ConfigError: the factor is not a positive number.
    """
    if not (np.isfinite(factor) and factor > 0):
        raise ConfigError(f"scale {factor:g}: give a positive number, such as 0.5")
    images, factors = [], []
    for image in labels.images:
        width, height = max(1, round(image.width * factor)), max(1, round(image.height * factor))
        x, y = width / image.width, height / image.height
        metres = image.metres_per_pixel
        images.append(
            replace(
                image,
                width=width,
                height=height,
                metres_per_pixel=None if metres is None else (metres[0] / x, metres[1] / y),
                offset=(round(image.offset[0] * x), round(image.offset[1] * y)),
            )
        )
        factors.append((x, y))
    each = np.array(factors).reshape(-1, 2)[labels.image] if len(labels) else np.empty((0, 2))
    return labels.with_columns(
        images=images, boxes=labels.boxes * np.tile(each, 2), area=labels.area * each.prod(axis=1)
    )


def write_scaled(
    labels: Labels,
    out: str | Path,
    factor: float,
    *,
    overwrite: bool = False,
    on_image: Callable[[int, int], None] = no_progress,
) -> tuple[Labels, Problems]:
    """Resample the images of a set, and write them to a folder with their labels.

    The folder gets ``labels.json`` (COCO) and ``images/`` with a GeoTIFF for each image. Pixels are averaged as GDAL
    does: bilinear, with a wider kernel when images become smaller.

    Returns:
        The labels of the images that could be read whole, and what could not.

    Raises:
        ConfigError: the factor is out of range.
        OutputError: the folder exists, or cannot be written.
    """
    path = Path(out).expanduser()
    scaled, problems = scale_labels(labels, factor), Problems()
    keep_images(path, labels)
    with staged(path, folder=True, overwrite=overwrite) as stage:
        kept = []
        for k, image in enumerate(labels.images):
            target = safe_path(stage / "images", image.id, ".tif")
            try:
                if _write(image, target, factor, problems):
                    kept.append(k)
            except ConfigError:
                raise
            except GeosodError as error:
                problems.add(image.uri, "", str(error).removeprefix(f"{image.uri}: "))
            on_image(k + 1, len(labels.images))
        found = scaled.of_images(np.array(kept, np.int64))
        final = [replace(one, uri=str(safe_path(path / "images", one.id, ".tif"))) for one in found.images]
        found = found.with_columns(images=final)
        write_coco(found, Target(stage / "labels.json", path / "labels.json"))
    return found, problems


def _write(image: LabelledImage, target: Path, factor: float, problems: Problems) -> bool:
    scene = scene_of(image)
    if (scene.width, scene.height) != (image.width, image.height):
        size = f"{image.width} x {image.height}"
        problems.add(image.uri, "", f"has {scene.width} x {scene.height} pixels, but the labels are for {size}")
        return False
    whole = write_scene(at_scale(scene, factor), target, problems)
    if not whole:
        target.unlink()
    return whole
