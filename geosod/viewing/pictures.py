"""Pictures of detections: overviews of a scene, crops with boxes, contact sheets. Arrays in, images out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from geosod.errors import ConfigError
from geosod.palette import Colour
from geosod.viewing.marks import (
    FAINT,
    PANEL,
    SHADOW,
    TEXT,
    box_columns,
    checked_image,
    class_name,
    colour_of,
    draw_outline,
    font_of,
)

TRUTH_COLOUR = (255, 255, 255)

#: Boxes with a smaller median side than this, in pixels of the picture, are drawn as markers.
_TINY = 9.0
_LEGEND_ROWS = 12


def draw_overview(
    image: npt.NDArray[np.uint8],
    boxes: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    class_names: Sequence[str] = (),
    title: str = "",
    max_side: int = 1600,
) -> Image.Image:
    """An overview of a scene with every detection and a legend of counts.

    Boxes too small to be visible are drawn as dots, the rarest class on top.

    Args:
        image: (H, W, 3) uint8; reduced to `max_side`, never enlarged.
        boxes: (N, 4) ``x0, y0, x1, y1`` in pixels of `image`.
        labels: (N,) class ids.
        class_names: name of each class id.
        title: first line of the legend.
        max_side: longest side of the picture without its legend.

    Returns:
        An RGB image; the legend is a strip below the picture.

    Raises:
        ConfigError: the image is not (H, W, 3) uint8, or lengths differ.
    """
    pixels = checked_image(image)
    corners, classes = box_columns(boxes, labels)
    picture = Image.fromarray(pixels)
    scale = min(1.0, max_side / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.LANCZOS) if scale < 1 else picture
    corners = corners * scale
    sides = np.maximum(corners[:, 2:] - corners[:, :2], 0)
    dots = len(corners) > 0 and float(np.median(sides.max(axis=1))) < _TINY
    counts = np.bincount(classes, minlength=1) if len(classes) and classes.min() >= 0 else np.zeros(1, np.int64)
    order = np.argsort(-counts[classes], kind="stable") if len(classes) else classes
    marked = (_dots if dots else _rectangles)(picture, corners[order], classes[order])
    return _with_legend(marked, counts, class_names, title)


def _dots(picture: Image.Image, corners: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> Image.Image:
    """Discs with a dark outline, drawn enlarged and then reduced, so that small ones are round."""
    zoom = 2 if max(picture.size) > 800 else 4
    shrink = min(1.0, (5000 / max(1, len(corners))) ** 0.5)
    radius = max(1.2, float(np.clip(max(picture.size) / 400, 2.0, 4.0)) * shrink)
    layer = Image.new("RGBA", (picture.width * zoom, picture.height * zoom), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    centres = (corners[:, :2] + corners[:, 2:]) / 2 * zoom
    outer, inner = (radius + 0.9) * zoom, radius * zoom
    for (x, y), label in zip(centres.tolist(), labels.tolist(), strict=True):
        draw.ellipse((x - outer, y - outer, x + outer, y + outer), fill=(*SHADOW, 230))
        draw.ellipse((x - inner, y - inner, x + inner, y + inner), fill=(*colour_of(label), 255))
    small = layer.resize(picture.size, Image.Resampling.BOX)
    return Image.alpha_composite(picture.convert("RGBA"), small).convert("RGB")


def _rectangles(picture: Image.Image, corners: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> Image.Image:
    out = picture.convert("RGB")
    draw = ImageDraw.Draw(out)
    for corner, label in zip(corners, labels.tolist(), strict=True):
        draw_outline(draw, corner, colour_of(label), width=2)
    return out


def _with_legend(
    picture: Image.Image, counts: npt.NDArray[np.int64], class_names: Sequence[str], title: str
) -> Image.Image:
    """The picture with a legend below: the title, and colour, name and count of each class, wrapped to the width."""
    size = int(np.clip(picture.width / 55, 12, 22))
    font, pad, swatch = font_of(size), size, round(size * 0.7)
    present = sorted(np.flatnonzero(counts), key=lambda label: -int(counts[label]))
    entries = [
        (colour_of(int(i)), f"{class_name(int(i), class_names)}  {int(counts[i]):,}") for i in present[:_LEGEND_ROWS]
    ]
    rest = present[_LEGEND_ROWS:]
    if rest:
        entries.append((FAINT, f"{len(rest)} more classes  {int(counts[rest].sum()):,}"))
    if not entries:
        entries = [(FAINT, "no detections")]
    positions, x, y = [], pad, pad + (round(size * 1.7) if title else 0)
    for _, text in entries:
        width = swatch + size // 2 + round(font.getlength(text)) + 2 * size
        if x > pad and x + width - 2 * size > picture.width - pad:
            x, y = pad, y + round(size * 1.6)
        positions.append((x, y))
        x += width
    out = Image.new("RGB", (picture.width, picture.height + y + size + pad), PANEL)
    out.paste(picture, (0, 0))
    draw = ImageDraw.Draw(out)
    if title:
        draw.text((pad, picture.height + pad), title, font=font, fill=TEXT, anchor="lt")
    for (colour, text), (left, top) in zip(entries, positions, strict=True):
        middle = picture.height + top + size // 2
        draw.ellipse((left, middle - swatch // 2, left + swatch, middle + swatch - swatch // 2), fill=colour)
        draw.text((left + swatch + size // 2, middle), text, font=font, fill=TEXT, anchor="lm")
    return out


def draw_crop(
    image: npt.NDArray[np.uint8],
    boxes: npt.ArrayLike,
    labels: npt.ArrayLike,
    scores: npt.ArrayLike | None = None,
    *,
    class_names: Sequence[str] = (),
    truth_boxes: npt.ArrayLike | None = None,
    zoom: int = 3,
    smooth: bool = False,
) -> Image.Image:
    """An enlarged crop of a scene with its boxes, labels and scores.

    A label that would cover one of a higher score is left out.

    Args:
        image: (H, W, 3) uint8.
        boxes: (N, 4) ``x0, y0, x1, y1`` in pixels of `image`.
        labels: (N,) class ids.
        scores: (N,) scores; None: they are not drawn.
        class_names: name of each class id.
        truth_boxes: (M, 4) annotated boxes, drawn dashed and white.
        zoom: integer magnification.
        smooth: enlarge with bicubic interpolation instead of nearest neighbour.

    Returns:
        An RGB image of ``zoom`` times the size.

    Raises:
        ConfigError: the image is not (H, W, 3) uint8, or lengths differ.
    """
    pixels = checked_image(image)
    corners, classes = box_columns(boxes, labels)
    values = np.full(len(corners), np.nan) if scores is None else np.asarray(scores, np.float64).reshape(-1)
    if len(values) != len(corners):
        raise ConfigError(f"{len(corners)} boxes but {len(values)} scores; give one score per box")
    resample = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    out = Image.fromarray(pixels).resize((pixels.shape[1] * zoom, pixels.shape[0] * zoom), resample)
    draw = ImageDraw.Draw(out)
    for corner in np.asarray([] if truth_boxes is None else truth_boxes, np.float64).reshape(-1, 4) * zoom:
        _dashed(draw, corner)
    order = np.argsort(np.nan_to_num(values), kind="stable")
    for i in order:
        draw_outline(draw, corners[i] * zoom, colour_of(int(classes[i])), width=3)
    texts = [
        class_name(int(c), class_names) + ("" if np.isnan(s) else f" {s:.2f}")
        for c, s in zip(classes, values, strict=True)
    ]
    _write_labels(draw, out.size, [(corners[i] * zoom, texts[i], colour_of(int(classes[i]))) for i in order[::-1]])
    return out


def draw_examples(
    image: npt.NDArray[np.uint8],
    boxes: npt.ArrayLike,
    labels: npt.ArrayLike,
    truth_boxes: npt.ArrayLike,
    *,
    zoom: int = 2,
) -> Image.Image:
    """An enlarged image with many boxes, thin and without text, in the colours of their classes.

    Args:
        image: (H, W, 3) uint8.
        boxes: (N, 4) ``x0, y0, x1, y1`` in pixels of `image`.
        labels: (N,) class ids.
        truth_boxes: (M, 4) annotated boxes, drawn dashed and white.
        zoom: integer magnification.

    Raises:
        ConfigError: the image is not (H, W, 3) uint8, or lengths differ.
    """
    pixels = checked_image(image)
    corners, classes = box_columns(boxes, labels)
    size = (pixels.shape[1] * zoom, pixels.shape[0] * zoom)
    out = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(out)
    for corner, label in zip(corners * zoom, classes, strict=True):
        x0, y0, x1, y1 = (float(v) for v in np.round(corner))
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour_of(int(label)))
    for corner in np.asarray(truth_boxes, np.float64).reshape(-1, 4) * zoom:
        _dashed(draw, corner)
    return out


def _write_labels(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], labels: Sequence[tuple[npt.NDArray[np.float64], str, Colour]]
) -> None:
    """Draw labels in this order above their boxes, or below; a label without room is left out."""
    font, height = font_of(12), 15
    taken = np.empty((0, 4))
    for corner, text, colour in labels:
        width = round(font.getlength(text)) + 6
        left = float(np.clip(corner[0] - 3, 0, max(0, size[0] - width)))
        for top in (corner[1] - height - 3, corner[3] + 3):
            area = np.array([left, top, left + width, top + height])
            meets = (taken[:, :2] < area[2:]).all(axis=1) & (taken[:, 2:] > area[:2]).all(axis=1)
            if top < 0 or top + height > size[1] or meets.any():
                continue
            draw.rectangle(tuple(area.tolist()), fill=SHADOW)
            draw.text((left + 3, top + height / 2), text, font=font, fill=colour, anchor="lm")
            taken = np.vstack([taken, area])
            break


def _dashed(draw: ImageDraw.ImageDraw, corner: npt.NDArray[np.float64]) -> None:
    x0, y0, x1, y1 = (float(v) for v in np.round(corner) + np.array([-5, -5, 4, 4]))
    for ax, ay, bx, by in ((x0, y0, x1, y0), (x1, y0, x1, y1), (x1, y1, x0, y1), (x0, y1, x0, y0)):
        length = max(abs(bx - ax), abs(by - ay))
        draw.line((ax, ay, bx, by), fill=SHADOW, width=3)
        for start in np.arange(0, length, 8):
            a, b = start / length, min(start + 4, length) / length
            draw.line(
                (ax + a * (bx - ax), ay + a * (by - ay), ax + b * (bx - ax), ay + b * (by - ay)), fill=TRUTH_COLOUR
            )


def contact_sheet(images: Sequence[Image.Image], *, columns: int = 3, captions: Sequence[str] = ()) -> Image.Image:
    """Images in a grid, each with a line of text below.

    Args:
        images: at least one; each is centred in a cell of the size of the largest.
        columns: number of images in a row.
        captions: a line for each image, or none at all. Lines too long for a cell are shortened.

    Returns:
        An RGB image.

    Raises:
        ConfigError: there is no image or no column, or the number of captions differs.
    """
    if not images or columns < 1 or len(captions) not in (0, len(images)):
        raise ConfigError(
            f"{len(images)} images in {columns} columns with {len(captions)} captions; give at least one image and "
            "column, and one caption per image or none"
        )
    columns = min(columns, len(images))
    pad, line, font = 12, 26 if captions else 0, font_of(14)
    width, height = max(i.width for i in images), max(i.height for i in images)
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + pad) + pad, rows * (height + line + pad) + pad), PANEL)
    draw = ImageDraw.Draw(sheet)
    for k, image in enumerate(images):
        left, top = pad + k % columns * (width + pad), pad + k // columns * (height + line + pad)
        sheet.paste(image.convert("RGB"), (left + (width - image.width) // 2, top + (height - image.height) // 2))
        if captions:
            text = _shortened(captions[k], font, width)
            draw.text((left + width / 2, top + height + line / 2), text, font=font, fill=TEXT, anchor="mm")
    return sheet


def _shortened(text: str, font: Any, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    kept = next((n for n in range(len(text), 0, -1) if font.getlength(text[:n] + "…") <= width), 0)
    return text[:kept] + "…"
