"""Images of a track as a network of fixed input size sees them: inscribed, or stretched to it."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.errors import NotGeoreferencedWarning

from benchmarks.studies.settings import check_settings
from geosod.datasets.labels import Labels
from geosod.datasets.read import read_labels
from geosod.datasets.write import write_labels
from geosod.detectors.network_input import Fit, NetworkInput
from geosod.detectors.resize import prepare


def fitted(labels: Labels, folder: Path, asked: Mapping[str, Any]) -> Labels:
    """Labels of images that were brought to the input of a network, as `geosod.detectors` brings tiles.

    The IoU of two boxes does not change where both are stretched, so AP at a threshold can be compared.

    Args:
        labels: of images of 8 bits.
        folder: for the images and labels; what it holds is taken as it is, unless it was made otherwise.
        asked: fields of `NetworkInput`, such as `size` and `resize`.

    Raises:
        ConfigError: the folder holds images of other inputs or labels.
    """
    spec, file, made_with = NetworkInput.from_dict(asked), folder / "labels.json", folder / "made-with.settings"
    about = {"input": spec.to_dict(), "classes": labels.classes, "boxes": hashlib.sha256(labels.boxes).hexdigest()}
    if file.exists():
        check_settings(made_with, about)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        images, boxes = [], labels.boxes.copy()
        for k, image in enumerate(labels.images):
            fit = spec.fit(image.width, image.height)
            path = folder / f"{Path(image.id).name}.tif"
            _write(Path(image.uri), path, spec, fit)
            images.append(replace(image, uri=str(path), width=fit.width, height=fit.height, metres_per_pixel=None))
            boxes[labels.image == k] = fit.to_input(boxes[labels.image == k])
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        made_with.write_text(json.dumps(about))
        write_labels(labels.with_columns(images=images, boxes=boxes, area=area), file, format="coco", overwrite=True)
    return read_labels(file).labels


def _write(source: Path, path: Path, spec: NetworkInput, fit: Fit) -> None:
    with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
        with rasterio.open(source) as dataset:
            pixels = torch.from_numpy(dataset.read().astype(np.float32))[None] / 255
        values = (prepare(pixels, spec, fit, whole=True)[0] * 255).round().to(torch.uint8).numpy()
        shape = {"count": len(values), "height": fit.height, "width": fit.width}
        with rasterio.open(path, "w", driver="GTiff", dtype="uint8", compress="deflate", **shape) as made:
            made.write(values)
