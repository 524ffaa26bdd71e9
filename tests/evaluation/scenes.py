"""Drawn scenes with bright spots, their labels, and what a detector without fail finds in them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from geosod.datasets.labels import LabelledImage, Labels
from geosod.detections import Detections
from geosod.evaluation.found_scenes import FoundScene, Tiling
from geosod.output.coverage import COVERAGE_SCHEMA
from tests.rasters import write_tif

SPOTS = "geosod.testing:fake_detector"
SIDE = 400


def grid_of_spots(count: int, *, side: int = SIDE) -> np.ndarray:
    """(count, 4) boxes of 12 to 24 px that do not touch."""
    rng = np.random.default_rng(count)
    cells = rng.permutation((side // 40) ** 2)[:count]
    corner = np.column_stack([cells % (side // 40), cells // (side // 40)]) * 40 + rng.integers(2, 10, (count, 2))
    return np.concatenate([corner, corner + rng.integers(12, 25, (count, 2))], axis=1).astype(float)


def draw(path: Path, boxes: np.ndarray, *, side: int = SIDE, **options) -> Path:
    """A scene of one band with a bright rectangle for each box."""
    pixels = np.full((1, side, side), 20, np.uint8)
    for x0, y0, x1, y1 in boxes.astype(int):
        pixels[0, y0:y1, x0:x1] = 220
    return write_tif(path, pixels, **options)


def write_coco(path: Path, boxes: dict[str, np.ndarray], *, name: str = "spot", side: int = SIDE) -> Path:
    """A COCO file of images, by file name."""
    annotations = [
        {"image_id": i, "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]], "category_id": 1, "iscrowd": 0}
        for i, rows in enumerate(boxes.values(), 1)
        for b in rows.tolist()
    ]
    for k, annotation in enumerate(annotations, 1):
        annotation |= {"id": k, "area": annotation["bbox"][2] * annotation["bbox"][3]}
    images = [{"id": i, "file_name": file, "width": side, "height": side} for i, file in enumerate(boxes, 1)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": name}]}))
    return path


def found_scene(name: str, boxes: np.ndarray, scores: np.ndarray | None = None, **fields) -> FoundScene:
    """The result of a scene of pixels, all of it inspected."""
    values = {
        "uri": f"{name}.tif",
        "width": SIDE,
        "height": SIDE,
        "found": Detections(
            boxes=boxes, scores=np.full(len(boxes), 0.5) if scores is None else scores, labels=np.zeros(len(boxes), int)
        ),
        "classes": ("spot",),
        "supercategories": (),
        "ground": pa.table({f.name: pa.nulls(0, f.type) for f in COVERAGE_SCHEMA}),
        "crs": None,
        "tiling": Tiling((256, 256), (64, 64)),
    }
    return FoundScene(id=name, **(values | fields))


def labels_of(boxes: dict[str, np.ndarray], *, classes: tuple[str, ...] = ("spot",), **columns) -> Labels:
    """Labels of images of `SIDE`, by identifier."""
    rows = list(boxes.values())
    return Labels(
        images=[LabelledImage(name, f"{name}.tif", SIDE, SIDE, i) for i, name in enumerate(boxes, 1)],
        classes=classes,
        image=np.repeat(np.arange(len(rows)), [len(part) for part in rows]),
        boxes=np.concatenate(rows),
        labels=np.zeros(sum(map(len, rows)), int),
        **columns,
    )
