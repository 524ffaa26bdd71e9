"""Scenes as a person sees them: three bands as red, green and blue, and values that become black and white."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from geosod import palette
from geosod.scene import BandFile, Scene, SceneRef
from geosod.scenes.preview import read_sample
from geosod.scenes.statistics import percentiles

_RGB = ("red", "green", "blue")
#: Percentages of the pixel values that become black and white, where pixels are not bytes.
_STRETCH = (2.0, 98.0)


def read_visible(scene: Scene, max_side: int) -> npt.NDArray[np.uint8]:
    """A scene, reduced to at most `max_side` pixels a side.

    Bytes are shown as they are, other pixels between percentiles of the scene.

    Returns:
        (H, W, 4) uint8, red, green, blue and opacity; invalid pixels are transparent.

    Raises:
        SceneError: the scene cannot be opened, or its pixels cannot be read.
    """
    scale = min(1.0, max_side / max(scene.height, scene.width))
    shape = max(1, round(scene.height * scale)), max(1, round(scene.width * scale))
    bands = visible_bands(scene)
    pixels, valid = read_sample(scene, scene.window, shape=shape, bands=bands)
    out = np.zeros((*shape, 4), np.uint8)
    out[..., 3] = np.where(valid, 255, 0)
    if scene.dtype == "uint8":
        out[..., :3] = pixels.transpose(1, 2, 0)
        return out
    low, high = ((share,) * len(bands) for share in _STRETCH)
    for i, (dark, bright) in enumerate(percentiles(scene, bands, low, high)):
        share = (np.nan_to_num(pixels[i].astype(np.float64)) - dark) / (bright - dark)
        out[..., i] = (np.clip(share, 0, 1) * 255).round()
    return out


def visible_bands(scene: Scene) -> tuple[int, ...]:
    """1-based bands called red, green and blue; else the first three, or the first one three times."""
    data = [band for band in range(1, scene.count + 1) if band != scene.alpha]
    return tuple(data[i] for i in palette.visible_bands([scene.band_names[band - 1] for band in data]))


def visible_files(ref: SceneRef) -> tuple[BandFile, ...]:
    """The files of a scene with `files` that hold red, green and blue; else the first three."""
    names = {name.lower(): file for file in reversed(ref.files) for name in (*file.aliases, file.name)}
    if all(name in names for name in _RGB):
        return tuple(names[name] for name in _RGB)
    return ref.files[:3]
