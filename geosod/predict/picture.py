"""The picture of a result: the image with its boxes, or of a large scene an overview and crops."""

from __future__ import annotations

from typing import Any

import numpy as np

from geosod.arrays import FloatArray, IntArray
from geosod.detections import Detections
from geosod.output.scene_outputs import SceneOutputs
from geosod.predict.inputs import Image
from geosod.predict.pixels import Shown, shown_image
from geosod.results import INSPECTED
from geosod.scene import Window
from geosod.viewing.overlays import DENSITY_CELL, draw_density, draw_detections, draw_scale_bar, stacked
from geosod.viewing.pictures import contact_sheet, draw_crop, draw_overview

#: Images with a longer side, or more pixels, are shown as an overview with crops.
MAX_SIDE, MAX_PIXELS = 8192, 50_000_000
#: Longest side of the overview, and sides of crops in the scene and in the picture.
OVERVIEW, CROP, _ZOOM = 1536, 256, 2
#: Crops in a row, and more boxes than this are shown as a density, where they are tiny.
_ROW, _MANY, _TINY = 3, 150, 9.0
_SEED = 7


def draw(image: Image, outputs: SceneOutputs, found: Detections) -> Any:
    """The picture of a result, a PIL image.

    Args:
        image: what was detected on.
        outputs: what was found.
        found: its boxes, in pixels of the file.

    Raises:
        SceneError: the image cannot be read any more.
    """
    with image.opened() as ref:
        shown = shown_image(image.job, ref)
        scene, names = shown.scene, outputs.provenance.classes
        if max(scene.width, scene.height) <= MAX_SIDE and scene.width * scene.height <= MAX_PIXELS:
            pixels, _ = shown.read(scene.window, MAX_SIDE)
            return draw_detections(pixels, found.boxes, found.labels, found.scores, class_names=names)
        crops = _crops(shown, found, names, _places(outputs))
        return stacked([_overview(shown, found, names), *([crops] if crops else [])])


def _overview(shown: Shown, found: Detections, names: tuple[str, ...]) -> Any:
    """The scene with its boxes, or their density, and a scale bar."""
    scene = shown.scene
    pixels, scale = shown.read(scene.window, OVERVIEW)
    boxes = found.boxes * scale
    title = f"{len(found):,} objects in {scene.megapixels:,.0f} Mpx"
    pixel = (1.0 if scene.pixel is None else scene.pixel[0]) / scale
    tiny = len(boxes) > 0 and float(np.median((boxes[:, 2:] - boxes[:, :2]).max(axis=1))) < _TINY
    if tiny and len(boxes) > _MANY:
        size = f"{DENSITY_CELL * pixel:.3g} {'px' if scene.pixel is None else 'm'}"
        picture = draw_density(pixels, boxes, title=title, cell=size)
    else:
        picture = draw_overview(pixels, boxes, found.labels, class_names=names, title=title, max_side=OVERVIEW)
    draw_scale_bar(picture, pixel, in_m=scene.pixel is not None, height=pixels.shape[0])
    return picture


def _crops(shown: Shown, found: Detections, names: tuple[str, ...], places: FloatArray) -> Any:
    """A contact sheet: the objects of the highest scores, those of the lowest, and random places; None without any."""
    centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    order = np.argsort(-found.scores, kind="stable")
    taken: list[FloatArray] = []
    windows: list[Window] = []
    captions: list[str] = []
    for what, candidates in (("best", centres[order]), ("worst", centres[order[::-1]]), ("random", places)):
        for centre in _spread(candidates, taken):
            window = _window(shown, centre)
            windows.append(window)
            captions.append(f"{what}: x {window.col:,}, y {window.row:,}")
    if not windows:
        return None  # nothing was inspected
    return contact_sheet([_crop(shown, w, found, names) for w in windows], columns=_ROW, captions=captions)


def _spread(candidates: FloatArray, taken: list[FloatArray]) -> list[FloatArray]:
    """The first points that are a crop's side from each other and from all that are taken; they are taken then."""
    chosen: list[FloatArray] = []
    for point in candidates[:20_000]:
        if len(chosen) == _ROW:
            break
        if all(np.abs(point - other).max() >= CROP for other in taken):
            chosen.append(point)
            taken.append(point)
    return chosen


def _places(outputs: SceneOutputs) -> FloatArray:
    """(n, 2) random points of the ground that was inspected, in pixels of the file; always the same."""
    coverage = outputs.coverage
    rows, columns = np.nonzero(coverage.codes == INSPECTED)
    if not len(rows):
        return np.empty((0, 2))
    chosen: IntArray = np.random.default_rng(_SEED).permutation(len(rows))[:200]
    cells = np.stack([columns[chosen] + coverage.col, rows[chosen] + coverage.row], axis=1)
    return np.asarray((cells + 0.5) * coverage.cell / np.array(outputs.scene.scale))


def _window(shown: Shown, centre: FloatArray) -> Window:
    width, height = min(CROP, shown.scene.width), min(CROP, shown.scene.height)
    col = int(np.clip(round(float(centre[0]) - width / 2), 0, shown.scene.width - width))
    row = int(np.clip(round(float(centre[1]) - height / 2), 0, shown.scene.height - height))
    return Window(col, row, width, height)


def _crop(shown: Shown, window: Window, found: Detections, names: tuple[str, ...]) -> Any:
    pixels, _ = shown.read(window, CROP)
    x0, y0, x1, y1 = found.boxes.T
    inside = (x1 > window.col) & (x0 < window.right) & (y1 > window.row) & (y0 < window.bottom)
    boxes = found.boxes[inside] - np.array([window.col, window.row] * 2)
    picture = draw_crop(
        pixels, boxes, found.labels[inside], found.scores[inside], class_names=names, zoom=_ZOOM, smooth=True
    )
    pixel = 1.0 if shown.scene.pixel is None else shown.scene.pixel[0]
    draw_scale_bar(picture, pixel / _ZOOM, in_m=shown.scene.pixel is not None, height=picture.height)
    return picture
