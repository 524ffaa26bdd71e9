"""For tests of adapters, and of code that uses geosod: a detector without weights, and the contract of adapters.

detector = geosod.testing.fake_detector()                        # finds bright spots
geosod.testing.check_detector(my_detector)                       # raises where an adapter breaks the contract
geosod detect scene.tif --model geosod.testing:fake_detector --trust -o out
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geosod.arrays import PixelArray
from geosod.detections import Detections
from geosod.detectors.card import ModelCard
from geosod.detectors.contract import RawBoxes
from geosod.detectors.detector import IN_PROCESS, Detector, torch_settings
from geosod.results import Execution
from geosod.scene import TileBatch

#: The value, as a fraction of the range of the first band, above which a pixel is part of a spot.
BRIGHT = 0.5


class BrightSpots:
    """An adapter that finds every connected region of bright pixels of the first band, without fail.

    A region's score rises with its width, from 0.5 to 0.9 at 100 px. Regions of different tiles of one object agree.
    """

    def predict(self, images: Tensor) -> RawBoxes:
        """The bounding boxes of the bright regions of images (B, C, H, W), 0 to 1."""
        return RawBoxes.per_tile([_spots(image) for image in (images[:, 0] > BRIGHT).cpu().numpy()])


def fake_card(**fields: Any) -> ModelCard:
    """A card for `BrightSpots`: one uint8 band "gray", tiles of 256 px, class "spot"; `fields` replace its values."""
    values: dict[str, Any] = {
        "name": "bright-spots",
        "bands": ("gray",),
        "dtype": "uint8",
        "classes": ("spot",),
        "tile": 256,
        "overlap": 64,
        "threshold": 0.1,
        "merge_metric": "ios",
    }
    values |= fields
    count = len(values["bands"])
    return ModelCard(**({"minimum": (0.0,) * count, "maximum": (255.0,) * count} | values))


def fake_detector(execution: Execution = IN_PROCESS, **fields: Any) -> Detector:
    """A detector that needs no weights, with the card of `fake_card`."""
    return Detector(fake_card(**fields), BrightSpots(), execution)


def check_detector(detector: Detector, images: PixelArray | None = None) -> None:
    """Check that a detector's adapter keeps the contract of `geosod.detectors.contract.Adapter`.

    Args:
        detector: the detector.
        images: (N, C, H, W), at least three tiles in which it finds something, of the card's pixel type; None draws
            noise with bright squares.

    Raises:
        AssertionError: the adapter breaks the contract; the message says how.
    """
    tiles = _batch(detector, _drawn(detector) if images is None else np.asarray(images))
    if detector.execution == IN_PROCESS:
        # Single tiles would hide that a tile's boxes depend on the others of its batch.
        execution = replace(IN_PROCESS, batch=3)
        detector = Detector(detector.card, detector.adapter, execution, rules=detector.rules)
    _check_raw(detector, tiles)
    alone = [detector.detect(tiles[i : i + 1])[0] for i in range(len(tiles))]
    assert sum(map(len, alone)), "nothing was found in any tile; pass images in which the detector finds something"
    _check_independence(detector, tiles, alone)
    _check_boxes(detector, tiles, alone)
    _check_threads(detector, tiles)


def _check_raw(detector: Detector, tiles: TileBatch) -> None:
    from geosod.detectors.radiometry import scaled_tiles
    from geosod.detectors.resize import network_input

    size, classes = detector.execution.batch, len(detector.card.classes)
    device = torch.device(detector.execution.device)
    images = scaled_tiles(tiles[:size], detector.card, size=size, device=device)
    images, _ = network_input(images, detector.card)
    with torch_settings(detector.execution), torch.inference_mode():
        raw = detector.adapter.predict(images)
    assert isinstance(raw, RawBoxes), f"predict returned {type(raw).__name__}, not RawBoxes"
    labels = raw.labels[raw.scores >= detector.threshold]
    wrong = labels[(labels < 0) | (labels >= classes)]
    assert not len(wrong), f"predict returned label {int(wrong[0])}, but the card has classes 0 to {classes - 1}"
    assert raw.tiles in (None, size), f"predict answered for {raw.tiles} tiles of a batch of {size}"
    high = raw.scores[raw.scores > 1]
    assert not len(high), f"predict returned a score of {float(high[0]):g}; scores are from 0 to 1"
    outside = raw.tile[(raw.tile < 0) | (raw.tile >= size)]
    assert not len(outside), f"predict returned a box of tile {int(outside[0])}, but the batch has {size}"


def _check_independence(detector: Detector, tiles: TileBatch, alone: list[Detections]) -> None:
    again = detector.detect(tiles[:1])[0]
    assert _same(again, alone[0]), "the same tile gave other boxes when it was detected again"
    for size in range(2, len(tiles) + 1):
        for start in range(0, len(tiles), size):
            together = detector.detect(tiles[start : start + size])
            for i, found in enumerate(together, start):
                assert _same(found, alone[i]), f"tile {i} gave other boxes in a batch of {size} than alone"
    backwards = detector.detect(_picked(tiles, list(reversed(range(len(tiles))))))
    assert all(map(_same, reversed(backwards), alone)), "a tile's boxes depend on its place in the batch"


def _check_boxes(detector: Detector, tiles: TileBatch, alone: list[Detections]) -> None:
    card = detector.card
    for window, found in zip(tiles.windows, alone, strict=True):
        col, row, width, height = window
        inside = (found.boxes >= [col, row, col, row]) & (found.boxes <= np.tile([col + width, row + height], 2))
        assert inside.all(), "a box extends beyond its tile"
        assert (found.scores >= detector.threshold).all(), f"a score is below the threshold {detector.threshold}"
        assert len(found) <= card.top_k, f"{len(found)} boxes in a tile, over the card's top_k {card.top_k}"
    nothing = np.zeros((1, *tiles.pixels.shape[2:]), np.bool_)
    blank = TileBatch(tiles.pixels[:1] * 0, tiles.windows[:1], nothing, tiles.scene_size[:1])
    assert not len(detector.detect(blank)[0]), "boxes were found in a tile without a valid pixel"
    scores = np.concatenate([found.scores for found in alone])
    middle = float(np.median(scores))
    kept = np.concatenate([found.scores for found in detector.with_threshold(middle).detect(tiles)])
    assert len(kept) <= len(scores) and (kept >= middle).all(), "a higher threshold gave lower scores"


def _check_threads(detector: Detector, tiles: TileBatch) -> None:
    before = torch.get_num_threads()
    detector.detect(tiles)
    assert torch.get_num_threads() == before, "detecting changed torch's number of threads"


def _same(a: Detections, b: Detections) -> bool:
    return bool(a.to_arrow().equals(b.to_arrow()))


def _picked(tiles: TileBatch, index: list[int]) -> TileBatch:
    return TileBatch(tiles.pixels[index], tiles.windows[index], None, tiles.scene_size[index], tiles.limits)


def _batch(detector: Detector, images: PixelArray) -> TileBatch:
    bands, shape = len(detector.card.bands), images.shape
    assert len(shape) == 4 and shape[0] >= 3 and shape[1] == bands, f"images {shape} must be (N >= 3, {bands}, H, W)"
    n, _, height, width = shape
    windows = np.array([[(i + 1) * width, height, width, height] for i in range(n)], np.int64)
    return TileBatch(images, windows, None, np.tile(np.array([[100 * width, 100 * height]], np.int64), (n, 1)))


def _drawn(detector: Detector) -> PixelArray:
    """(5, C, H, W) of the card's tile size, within its limits: noise, with bright squares in all but the second."""
    card, rng = detector.card, np.random.default_rng(0)
    width, height = card.tile_size
    share = rng.uniform(0, 0.3, (5, len(card.bands), height, width))
    for image in (share[i] for i in (0, 2, 3, 4)):
        for _ in range(12):
            side = int(rng.integers(8, min(40, width // 2, height // 2)))
            x, y = rng.integers(0, width - side), rng.integers(0, height - side)
            image[:, y : y + side, x : x + side] = rng.uniform(0.7, 1)
    low, high = np.array(card.minimum)[:, None, None], np.array(card.maximum)[:, None, None]
    return np.asarray((low + share * (high - low)).astype(card.dtype))


def _spots(bright: PixelArray) -> tuple[PixelArray, PixelArray, PixelArray]:
    boxes = np.array(list(_regions(bright)), np.float32).reshape(-1, 4)
    scores = 0.5 + 0.4 * np.minimum(1, (boxes[:, 2] - boxes[:, 0]) / 100)
    return boxes, scores, np.zeros(len(boxes), np.int64)


def _regions(bright: PixelArray) -> Iterator[tuple[int, int, int, int]]:
    """The bounding box of each 4-connected region of True pixels."""
    rows, cols = np.nonzero(bright)
    if not len(rows):
        return
    label = _labelled(bright)[rows, cols]
    order = np.argsort(label, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(label[order]) > 0])
    ends = [(np.minimum, cols, 0), (np.minimum, rows, 0), (np.maximum, cols, 1), (np.maximum, rows, 1)]
    corners = [reduce.reduceat(values[order], starts) + beyond for reduce, values, beyond in ends]
    yield from zip(*(corner.tolist() for corner in corners), strict=True)


def _labelled(bright: PixelArray) -> PixelArray:
    """The index of the first pixel of each pixel's region."""
    size = bright.size
    label = np.where(bright, np.arange(size).reshape(bright.shape), size)
    while True:
        lowest = label.copy()
        for a, b in ((lowest[1:], label[:-1]), (lowest[:-1], label[1:])):
            np.minimum(a, b, out=a)
        for a, b in ((lowest[:, 1:], label[:, :-1]), (lowest[:, :-1], label[:, 1:])):
            np.minimum(a, b, out=a)
        # What one pixel of a region has learnt holds for all that share its label.
        parent = np.arange(size + 1)
        np.minimum.at(parent, label[bright], lowest[bright])
        while not np.array_equal(parent, parent[parent]):
            parent = parent[parent]
        joined = np.where(bright, parent[label], size)
        if np.array_equal(joined, label):
            return label
        label = joined
