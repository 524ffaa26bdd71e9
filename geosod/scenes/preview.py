"""Small pictures of a scene, read from overviews where it has them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from rasterio.enums import Resampling

from geosod.scene import Scene, Window
from geosod.scenes.open import opened


def read_preview(
    scene: Scene, window: Window, *, max_side: int, bands: tuple[int, int, int] = (1, 2, 3)
) -> tuple[npt.NDArray[np.uint8], float]:
    """Read a window of an 8-bit scene as a picture of at most `max_side` pixels a side.

    Args:
        scene: an opened uint8 scene.
        window: the pixels to show, scene frame.
        max_side: maximum side of the picture in pixels; it is never enlarged.
        bands: 1-based bands shown as red, green and blue.

    Returns:
        (H, W, 3) uint8, and the scale: picture pixels per scene pixel. SceneError where it cannot be opened.
    """
    scale = min(1.0, max_side / max(window.width, window.height))
    shape = (3, max(1, round(window.height * scale)), max(1, round(window.width * scale)))
    area = ((window.row, window.bottom), (window.col, window.right))
    with opened(scene.ref, view=scene.view) as dataset:
        pixels = dataset.read(list(bands), window=area, out_shape=shape, resampling=Resampling.average)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0)), scale
