"""Pixels to train on, read and scaled by the functions that detection uses, so that a network sees the same in both."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from geosod.arrays import BoolArray, PixelArray
from geosod.detectors.radiometry import scaled_tiles
from geosod.running.limits import pixel_limits
from geosod.scene import Scene, TileBatch, Window
from geosod.scenes.open import opened
from geosod.scenes.pixels import read_pixels
from geosod.scenes.view import at_scale
from geosod.training.training_set import TrainingSet

#: An image that takes a larger share of the cache is read window by window.
_MAX_SHARE = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """A window of an image.

    Attributes:
        values: (C, H, W) float32, 0 to 1, and the card's fill value where a pixel is invalid.
        valid: (H, W) bool.
    """

    values: Tensor
    valid: Tensor


class PixelReader:
    """Reads windows of the images of a set, at any of a few scales; whole images stay decoded while there is room.

    Any thread may call it.

    Args:
        data: the images.
        cache_mb: decoded images that are kept, in MB.
    """

    def __init__(self, data: TrainingSet, *, cache_mb: int) -> None:
        self._data, self._room = data, cache_mb << 20
        self._lock = threading.Lock()
        self._decoded: OrderedDict[tuple[int, float], tuple[PixelArray, BoolArray]] = OrderedDict()
        self._held = 0
        self._limits: dict[int, tuple[tuple[float, float], ...]] = {}

    def scene(self, image: int, scale: float) -> Scene:
        """An image at a scale, as detection at a level of that scale sees it."""
        scene = self._data.scenes[image]
        return scene if scale == 1 else at_scale(scene, scale)

    def read(self, image: int, scale: float, window: Window) -> Pixels:
        """The pixels of a window.

        Args:
            image: index of the image.
            scale: pixels for one of the image.
            window: in pixels of that scale, inside the image.

        Raises:
            SceneError: they cannot be read.
        """
        pixels, valid = self._native(image, scale, window)
        card = self._data.card
        limits = np.array(self._limits_of(image), np.float32)[None]
        windows = np.array([[window.col, window.row, window.width, window.height]], np.int64)
        batch = TileBatch(pixels[None], windows, None if valid.all() else valid[None], windows[:, 2:], limits)
        values = scaled_tiles(batch, card, size=1, device=torch.device("cpu"))[0]
        return Pixels(values, torch.from_numpy(valid))

    def _limits_of(self, image: int) -> tuple[tuple[float, float], ...]:
        if image not in self._limits:
            self._limits[image] = pixel_limits(self._data.card, self._data.scenes[image], self._data.bands[image])
        return self._limits[image]

    def _native(self, image: int, scale: float, window: Window) -> tuple[PixelArray, BoolArray]:
        """Pixels (C, h, w) in the type of the image, and their validity (h, w)."""
        scene = self.scene(image, scale)
        size = scene.width * scene.height * (np.dtype(scene.dtype).itemsize * len(self._data.bands[image]) + 1)
        if size > self._room * _MAX_SHARE:
            return self._from_file(image, scene, window)
        key = (image, scale)
        with self._lock:
            found = self._decoded.get(key)
            if found is not None:
                self._decoded.move_to_end(key)
        if found is None:
            found = self._from_file(image, scene, scene.window)
            self._keep(key, found, size)
        rows = slice(window.row, window.bottom), slice(window.col, window.right)
        return np.ascontiguousarray(found[0][:, *rows]), np.ascontiguousarray(found[1][rows])

    def _keep(self, key: tuple[int, float], found: tuple[PixelArray, BoolArray], size: int) -> None:
        with self._lock:
            if key not in self._decoded:
                self._decoded[key] = found
                self._held += size
            while self._held > self._room:
                _, (pixels, valid) = self._decoded.popitem(last=False)
                self._held -= pixels.nbytes + valid.nbytes

    def _from_file(self, image: int, scene: Scene, window: Window) -> tuple[PixelArray, BoolArray]:
        with opened(scene.ref, view=scene.view) as dataset:
            return read_pixels(dataset, scene, self._data.bands[image], window)


def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Pixels resampled to (width, height): bilinear, with a wider kernel where that reduces them."""
    width, height = size
    if tuple(pixels.values.shape[1:]) == (height, width):
        return pixels
    values = F.interpolate(pixels.values[None], size=(height, width), mode="bilinear", antialias=True)[0]
    valid = F.interpolate(pixels.valid[None, None].float(), size=(height, width), mode="nearest")[0, 0] > 0.5
    return Pixels(values.clamp_(0, 1), valid)


def padded_batch(images: Sequence[Tensor], *, fill: float, multiple: int) -> Tensor:
    """Images (C, H, W) in one batch, each at the top left of the common size, a multiple of some pixels."""
    height, width = (-(-max(image.shape[k] for image in images) // multiple) * multiple for k in (1, 2))
    batch = images[0].new_full((len(images), images[0].shape[0], height, width), fill)
    for k, image in enumerate(images):
        batch[k, :, : image.shape[1], : image.shape[2]] = image
    return batch
