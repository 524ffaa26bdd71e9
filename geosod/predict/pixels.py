"""An image as a person sees it, with the radiometry of the model's card: any pixel type and bands, any size."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, PixelArray
from geosod.errors import ReadError
from geosod.running.job import Job
from geosod.running.limits import pixel_limits
from geosod.running.planning import model_bands, open_whole
from geosod.scene import Scene, SceneRef, Window
from geosod.scenes.preview import read_sample

#: Where this share of the pixels is darker than `_DARK` with the card's radiometry, the picture is brightened.
_SHARE, _DARK = 0.98, 0.4
#: Where pixels cannot be read, the picture is read in so many parts along each side, and what fails is black.
_PARTS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """An opened image, and how its pixels become colours.

    Attributes:
        scene: at the scale of its file.
        bands: three 1-based bands.
        limits: for each, the pixel values that become black and white.
        gamma: the card's.
    """

    scene: Scene
    bands: tuple[int, int, int]
    limits: tuple[tuple[float, float], ...]
    gamma: float

    def read(self, window: Window, max_side: int) -> tuple[npt.NDArray[np.uint8], float]:
        """(H, W, 3) uint8 of a window, at most `max_side` pixels a side, and pixels of it for one of the scene."""
        scale = min(1.0, max_side / max(window.width, window.height))
        shape = max(1, round(window.height * scale)), max(1, round(window.width * scale))
        return self._coloured(*_pixels(self.scene, window, shape, self.bands)), scale

    def _coloured(self, pixels: PixelArray, valid: BoolArray) -> npt.NDArray[np.uint8]:
        out = np.zeros((*valid.shape, 3), np.uint8)
        for i, (low, high) in enumerate(self.limits):
            share = np.clip((pixels[i].astype(np.float32) - low) / (high - low), 0, 1) ** (1 / self.gamma)
            out[..., i] = np.where(valid, (share * 255).round(), 0).astype(np.uint8)
        return out


def shown_image(job: Job, ref: SceneRef) -> Shown:
    """Open an image to be shown.

    Raises:
        SceneError: it cannot be opened, or its pixels cannot be read where its percentiles are needed.
        ModelError: its bands do not fit the model.
    """
    card = job.model.card
    scene = open_whole(job, ref)
    bands = model_bands(job, scene)
    limits = pixel_limits(card, scene, bands)
    chosen = card.visible_bands
    shown = Shown(scene, tuple(bands[i] for i in chosen), tuple(limits[i] for i in chosen), card.gamma)  # type: ignore[arg-type]
    return shown if card.whole_values else _brightened(shown)


def _brightened(shown: Shown) -> Shown:
    """With lower limits for white where nearly all would be dark: a network does not mind, a person does."""
    scene = shown.scene
    scale = min(1.0, 512 / max(scene.width, scene.height))
    shape = max(1, round(scene.height * scale)), max(1, round(scene.width * scale))
    pixels, valid = _pixels(scene, scene.window, shape, shown.bands)
    if not valid.any():
        return shown
    low, high = (np.array(side)[:, None] for side in zip(*shown.limits, strict=True))
    share = np.clip((pixels[:, valid].astype(np.float64) - low) / (high - low), 0, 1)
    bright = float(np.quantile(share, _SHARE)) ** (1 / shown.gamma)
    if not 0 < bright < _DARK:
        return shown
    factor = bright**shown.gamma
    limits = tuple((a, a + (b - a) * factor) for a, b in shown.limits)
    return Shown(scene, shown.bands, limits, shown.gamma)


def _pixels(
    scene: Scene, window: Window, shape: tuple[int, int], bands: tuple[int, ...]
) -> tuple[PixelArray, BoolArray]:
    """As `read_sample`; where that fails, part by part, and parts that cannot be read are invalid."""
    try:
        return read_sample(scene, window, shape=shape, bands=bands)
    except ReadError:
        pixels = np.zeros((len(bands), *shape), scene.dtype)
        valid = np.zeros(shape, np.bool_)
        for rows in _ranges(shape[0]):
            for columns in _ranges(shape[1]):
                part = _part(window, shape, rows, columns)
                size = rows.stop - rows.start, columns.stop - columns.start
                try:
                    pixels[:, rows, columns], valid[rows, columns] = read_sample(scene, part, shape=size, bands=bands)
                except ReadError:
                    continue
        return pixels, valid


def _ranges(size: int) -> list[slice]:
    edges = np.unique(np.linspace(0, size, _PARTS + 1).round().astype(int)).tolist()
    return [slice(a, b) for a, b in pairwise(edges)]


def _part(window: Window, shape: tuple[int, int], rows: slice, columns: slice) -> Window:
    """The pixels of a window that are shown in rows and columns of a sample of it."""
    height, width = window.height / shape[0], window.width / shape[1]
    top, bottom = round(rows.start * height), max(round(rows.stop * height), round(rows.start * height) + 1)
    left, right = round(columns.start * width), max(round(columns.stop * width), round(columns.start * width) + 1)
    return Window(window.col + left, window.row + top, right - left, bottom - top)
