"""What transformers' own pipeline finds, and how detections differ from that."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import geosod
from geosod.arrays import PixelArray

#: Scores of the random networks are above it where they find something.
THRESHOLD = 0.2
#: The exactness that is asked for: pixels, and scores.
PIXELS, SCORES = 1e-3, 1e-4
PLAIN = {"precision": "fp32", "backend": "eager", "device": "cpu", "batch": 1, "threshold": THRESHOLD}


def picture(height: int, width: int, seed: int = 0) -> PixelArray:
    """(3, H, W) uint8: coloured clouds and noise; the bands differ much in brightness."""
    generator = torch.Generator().manual_seed(seed)
    clouds = torch.rand(1, 3, 12, 15, generator=generator) * torch.tensor([255.0, 150.0, 80.0])[:, None, None]
    smooth = torch.nn.functional.interpolate(clouds, size=(height, width), mode="bicubic")[0]
    noise = torch.rand(3, height, width, generator=generator) * 20
    return np.asarray((smooth + noise).clamp(0, 255).to(torch.uint8).numpy())


@cache
def pipeline(folder: Path) -> tuple[Any, Any]:
    """Image processor and network as transformers loads them."""
    network = transformers.AutoModelForObjectDetection.from_pretrained(folder, dtype=torch.float32)
    return transformers.AutoImageProcessor.from_pretrained(folder), network.eval()


def expected(folder: Path, image: PixelArray, **options: Any) -> tuple[Any, Any, Any]:
    """Boxes, scores and labels of transformers' pipeline, clipped to the image as geosod's are."""
    processor, model = pipeline(folder)
    height, width = image.shape[1:]
    with torch.inference_mode():
        found = model(**processor(images=[image.transpose(1, 2, 0)], input_data_format="channels_last"))
    sizes = {"threshold": THRESHOLD - SCORES, "target_sizes": [(height, width)]}
    result = processor.post_process_object_detection(found, **sizes, **options)[0]
    boxes, scores, labels = (result[name].numpy() for name in ("boxes", "scores", "labels"))
    boxes = np.minimum(boxes.clip(0), [width, height, width, height])
    kept = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
    return boxes[kept], scores[kept], labels[kept]


def differences(found: geosod.Detections, boxes: Any, scores: Any, labels: Any) -> list[str]:
    """What differs between detections and those of a pipeline, whose scores reach a little below the threshold."""
    wrong = [] if len(found) <= len(boxes) else [f"{len(found)} boxes, not {len(boxes)}"]
    taken = np.zeros(len(found), bool)
    for box, score, label in zip(boxes, scores, labels, strict=True):
        near = (np.abs(found.boxes - box).max(axis=1) <= PIXELS) & (np.abs(found.scores - score) <= SCORES)
        near &= (found.labels == label) & ~taken
        if near.any():
            taken[near.argmax()] = True
        elif score > THRESHOLD + SCORES:
            wrong.append(f"no box near {box} with score {score} and label {label}")
    return wrong + [f"{(~taken).sum()} boxes of no pipeline"] * (not taken.all())


def edited(bundle: Path, **changes: Any) -> Path:
    """A bundle with other fields of its network input."""
    item = json.loads((bundle / "model.json").read_text())
    item["properties"]["geosod:input"] |= changes
    (bundle / "model.json").write_text(json.dumps(item))
    return bundle


def rewritten(path: Path, **changes: Any) -> None:
    """A JSON file with other values; None removes one."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
