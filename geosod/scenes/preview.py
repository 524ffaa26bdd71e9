"""Small pictures of a scene, read from overviews where it has them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window as GdalWindow

from geosod.arrays import BoolArray, PixelArray
from geosod.errors import ReadError, one_line
from geosod.scene import Scene, Window
from geosod.scenes.open import opened
from geosod.scenes.validity import valid_pixels


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


def read_sample(
    scene: Scene, window: Window, *, shape: tuple[int, int], bands: tuple[int, ...]
) -> tuple[PixelArray, BoolArray]:
    """Read a window of a scene of any pixel type, reduced to `shape`.

    Args:
        scene: an opened scene.
        window: the pixels to read, scene frame.
        shape: (rows, columns) of the sample.
        bands: 1-based bands.

    Returns:
        (C, H, W) in the scene's pixel type, and (H, W) bool, True where a pixel is valid.

    Raises:
        SceneError: the scene cannot be opened.
        ReadError: its pixels cannot be read.
    """
    # Averages would mix pixels that a nodata value marks with others; which pixels count is known of whole ones only.
    options = {
        "window": GdalWindow(window.col, window.row, window.width, window.height),
        "out_shape": shape,
        "resampling": Resampling.nearest,
    }
    try:
        with opened(scene.ref, view=scene.view) as dataset:
            return valid_pixels(dataset, scene, bands, options)
    except RasterioError as error:
        raise ReadError(f"{scene.ref.uri}: cannot be shown, its pixels cannot be read: {one_line(error)}") from error
