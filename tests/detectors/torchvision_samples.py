"""Networks of torchvision with random weights that find something, and images for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geosod.arrays import PixelArray
from geosod.detections import Detections


@dataclass(frozen=True)
class Found:
    """Boxes (N, 4), scores (N,) and labels (N,) of an image."""

    boxes: PixelArray
    scores: PixelArray
    labels: PixelArray

    def nearest(self, found: Detections, row: int) -> int:
        """Index of the box of the same class that is nearest to one of `found`; -1 where there is none."""
        distance = np.abs(self.boxes - found.boxes[row]).max(axis=1) + 1e9 * (self.labels != found.labels[row])
        return int(distance.argmin()) if len(distance) and distance.min() < 1e9 else -1


def image(width: int, height: int, seed: int = 0, bands: int = 3) -> PixelArray:
    """(C, H, W) uint8: noise and rectangles, each of another colour, on a background that differs between bands."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 50, (bands, height, width)) + 10 + 35 * np.arange(bands)[:, None, None]
    for _ in range(14):
        x, y = rng.integers(0, width - 20), rng.integers(0, height - 20)
        across, down = rng.integers(10, 60, 2)
        pixels[:, y : y + down, x : x + across] = rng.integers(0, 255, (bands, 1, 1))
    return pixels.astype(np.uint8)


def network(name: str, outputs: int, seed: int = 0, **options: Any) -> Any:
    """A network of torchvision in eval mode, whose scores and boxes vary with the image."""
    from torchvision.models import detection

    torch.manual_seed(seed)
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=outputs, **options)
    calibrate(model)
    return model


def calibrate(model: Any) -> None:
    """Give batch normalisation the statistics of images, and spread what the last layers give."""
    bands = len(model.transform.image_mean)
    sample = [torch.from_numpy(image(256, 224, seed, bands)).float() / 255 for seed in (90, 91)]
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = model.transform.min_size
    model.transform.min_size = (224,)
    with torch.no_grad():
        model.eval()
        for norm in norms:
            norm.momentum = None
            norm.train()
        model(sample)
        model.eval()
        for norm in norms:
            # Channels that hardly vary would amplify the rounding of float32; those of trained networks vary.
            norm.running_var.clamp_(min=float(norm.running_var.mean()) / 4)
            norm.weight.fill_(0.5)
        for layer, spread, means in _last_layers(model):
            _spread(layer, model, sample, spread, means)
    model.transform.min_size = usual


def _last_layers(model: Any) -> list[tuple[Any, float, list[float]]]:
    """Last layers in the order in which they run; the spread of what they should give; means, in turn."""
    offsets = [-0.5, -1.5, -1.0, -2.5, -0.8, -3.0, -1.2]
    shifts = [0.1, -0.2, 0.0, 0.15]
    if hasattr(model, "roi_heads"):
        rpn, predictor = model.rpn.head, model.roi_heads.box_predictor
        return [
            (rpn.cls_logits, 1.5, [0.0, -0.5, 0.3]),
            (rpn.bbox_pred, 0.1, shifts),
            (predictor.cls_score, 1.0, [1.0, *offsets]),
            (predictor.bbox_pred, 0.1, shifts),
        ]
    classes, boxes = model.head.classification_head, model.head.regression_head
    if hasattr(classes, "module_list"):
        heads = [(classes.module_list, 1.0, [4.0, *offsets[:5]]), (boxes.module_list, 0.7, shifts)]
        return [(_last(block), spread, means) for blocks, spread, means in heads for block in blocks]
    if hasattr(boxes, "bbox_ctrness"):
        means = [-2.6, -2.9, -2.7, -3.0, -3.1]
        return [(classes.cls_logits, 0.8, means), (boxes.bbox_reg, 0.4, [1.2, 1.5]), (boxes.bbox_ctrness, 1.0, [0.5])]
    return [(classes.cls_logits, 1.2, [offset - 4 for offset in offsets]), (boxes.bbox_reg, 0.3, shifts)]


def _last(block: Any) -> Any:
    return block[-1] if isinstance(block, nn.Sequential) else block


def _spread(layer: Any, model: Any, sample: list[Tensor], spread: float, means: list[float]) -> None:
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    model(sample)
    handle.remove()
    values = torch.cat([output.transpose(0, 1).flatten(1) for output in seen], dim=1)
    deviations = values.std(dim=1)
    # SSD's last maps, of one place, hardly vary, and rounding must not be what is spread.
    most = 200 if model.transform.fixed_size else 5000
    factor = spread / deviations.clamp(min=max(float(deviations.mean()) / 2, spread / most))
    wanted = torch.tensor([means[i % len(means)] for i in range(len(values))])
    layer.weight *= factor.reshape(-1, *[1] * (layer.weight.ndim - 1))
    layer.bias.copy_(wanted - (values.mean(dim=1) - layer.bias) * factor)


def expected(model: Any, pixels: PixelArray, labels: list[int]) -> Found:
    """What torchvision's own call finds: boxes of a pixel or more, scores, and labels of the card."""
    with torch.inference_mode():
        found = model([torch.from_numpy(pixels.copy()).float() / 255])[0]
    boxes, scores = found["boxes"].numpy(), found["scores"].numpy()
    of_card = np.array([labels.index(label) if label in labels else -1 for label in found["labels"].tolist()], int)
    rows = (of_card >= 0) & (boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1)
    return Found(boxes[rows], scores[rows], of_card[rows])


def difference(found: Detections, wanted: Found, threshold: float) -> tuple[float, float]:
    """Largest distance of coordinates and of scores between boxes that are paired one to one; inf where they cannot be.

    Boxes whose score is within 0.0001 of the threshold may be missing on either side.
    """
    pairs = [(i, wanted.nearest(found, i)) for i in np.flatnonzero(found.scores > threshold + 1e-4)]
    needed = int((wanted.scores > threshold + 1e-4).sum())
    if len(pairs) != needed or len({j for _, j in pairs}) != needed:
        return np.inf, np.inf
    rows, others = (np.array(side, int) for side in zip(*pairs, strict=True))
    boxes = np.abs(found.boxes[rows] - wanted.boxes[others]).max()
    return float(boxes), float(np.abs(found.scores[rows] - wanted.scores[others]).max())


def saved(model: Any, path: Path) -> Path:
    """A file of the model's state dict."""
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    return path
