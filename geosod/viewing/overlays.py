"""Detections over an image of the same size, the density of very many, and scale bars. Arrays in, images out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from geosod.errors import ConfigError
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

#: Labels are placed for so many boxes at most, those of the highest scores.
_MAX_LABELS = 3000
_LEGEND_ROWS = 12
#: Side of a cell of the density in pixels of the picture.
DENSITY_CELL = 12
#: From blue over grey to yellow, with rising lightness, so that the order is the same to every kind of eye.
_RAMP = np.array([(58, 100, 190), (104, 130, 164), (152, 158, 134), (203, 194, 99), (254, 232, 56)], np.float64)
#: Widest scale bar, as a share of the picture.
_BAR_SHARE = 0.3

_Float = npt.NDArray[np.float64]


def draw_detections(
    image: npt.NDArray[np.uint8],
    boxes: npt.ArrayLike,
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    class_names: Sequence[str] = (),
) -> Image.Image:
    """The image, in its size, with the outline, class and score of every box.

    Lines and letters grow with the image. A class and score are written where they cover neither others nor another
    box; where some are left out, a legend in the emptiest corner names the colours.

    Args:
        image: (H, W, 3) uint8.
        boxes: (N, 4) ``x0, y0, x1, y1`` in pixels of `image`.
        labels: (N,) class ids.
        scores: (N,) scores.
        class_names: name of each class id.

    Returns:
        An RGB image of the same size.

    Raises:
        ConfigError: the image is not (H, W, 3) uint8, or lengths differ.
    """
    pixels = checked_image(image)
    corners, classes = box_columns(boxes, labels)
    values = np.asarray(scores, np.float64).reshape(-1)
    if len(values) != len(corners):
        raise ConfigError(f"{len(corners)} boxes but {len(values)} scores; give one score per box")
    out = Image.fromarray(pixels)
    draw = ImageDraw.Draw(out)
    order = np.argsort(-values, kind="stable")
    width = int(np.clip(round(max(out.size) / 700), 2, 8))
    for i in order[::-1]:
        # A thick line would hide the neighbours of a small object.
        thin = min(corners[i, 2:] - corners[i, :2]) < 5 * width
        draw_outline(draw, corners[i], colour_of(int(classes[i])), width=2 if thin else width)
    size = int(np.clip(round(max(out.size) / 110), 11, 36))
    texts = [f"{class_name(int(classes[i]), class_names)} {values[i]:.2f}" for i in order[:_MAX_LABELS]]
    written = _write_labels(draw, out.size, corners[order], texts, classes[order], size, gap=width + 1)
    if written < len(corners):
        _legend(draw, out.size, corners, classes, class_names, size)
    return out


def _write_labels(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    corners: _Float,
    texts: Sequence[str],
    classes: npt.NDArray[np.int64],
    font_size: int,
    *,
    gap: int,
) -> int:
    """Write the labels of the first boxes beside them, where there is room; returns how many were written."""
    font, height = font_of(font_size), font_size + 4
    taken = np.empty((len(texts), 4))
    written = 0
    for i, text in enumerate(texts):
        width = round(font.getlength(text)) + 6
        left = float(np.clip(corners[i, 0] - gap, 0, max(0, size[0] - width)))
        for top in (corners[i, 1] - height - gap, corners[i, 3] + gap):
            area = np.array([left, top, left + width, top + height])
            outside = top < 0 or top + height > size[1] or width > size[0]
            if outside or _meets(taken[:written], area).any() or _meets(corners, area).sum() > 0:
                continue
            draw.rectangle(tuple(area.tolist()), fill=SHADOW)
            colour = colour_of(int(classes[i]))
            draw.text((left + 3, top + height / 2), text, font=font, fill=colour, anchor="lm")
            taken[written] = area
            written += 1
            break
    return written


def _meets(boxes: _Float, area: _Float) -> npt.NDArray[np.bool_]:
    return np.asarray((boxes[:, :2] < area[2:]).all(axis=1) & (boxes[:, 2:] > area[:2]).all(axis=1))


def _legend(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    corners: _Float,
    classes: npt.NDArray[np.int64],
    class_names: Sequence[str],
    font_size: int,
) -> None:
    """Colour, name and count of each class, in the corner that the fewest boxes meet; none where it has no room."""
    found, counts = np.unique(classes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    rows = [(colour_of(int(found[k])), f"{class_name(int(found[k]), class_names)}  {counts[k]:,}") for k in order]
    if len(rows) > _LEGEND_ROWS:
        rest = int(counts[order[_LEGEND_ROWS:]].sum())
        rows = [*rows[:_LEGEND_ROWS], (FAINT, f"{len(order) - _LEGEND_ROWS} more classes  {rest:,}")]
    font, line = font_of(font_size), round(font_size * 1.4)
    width = round(max(font.getlength(text) for _, text in rows)) + 3 * font_size
    height = line * len(rows) + font_size
    if width > size[0] / 2 or height > size[1] / 2:
        return
    places = [(x, y) for y in (0, size[1] - height) for x in (0, size[0] - width)]
    crowds = [_meets(corners, np.array([x, y, x + width, y + height], np.float64)).sum() for x, y in places]
    left, top = places[int(np.argmin(crowds))]
    draw.rectangle((left, top, left + width, top + height), fill=PANEL)
    for k, (colour, text) in enumerate(rows):
        middle = top + font_size // 2 + k * line + line // 2
        swatch = font_size // 3
        centre = left + font_size
        draw.ellipse((centre - swatch, middle - swatch, centre + swatch, middle + swatch), fill=colour)
        draw.text((left + 2 * font_size, middle), text, font=font, fill=TEXT, anchor="lm")


def draw_density(image: npt.NDArray[np.uint8], boxes: npt.ArrayLike, *, title: str = "", cell: str = "") -> Image.Image:
    """How many objects lie where, as cells of colour over a dimmed image, with a legend below.

    Args:
        image: (H, W, 3) uint8.
        boxes: (N, 4) ``x0, y0, x1, y1`` in pixels of `image`; each counts in the cell of its centre.
        title: first line of the legend.
        cell: what a cell of `DENSITY_CELL` pixels is on the ground, such as "120 m".

    Returns:
        An RGB image; the legend is a strip below the picture.

    Raises:
        ConfigError: the image is not (H, W, 3) uint8.
    """
    pixels = checked_image(image)
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    height, width = pixels.shape[:2]
    counts = density(corners, width, height)
    most = int(counts.max())
    # From 0 for one object to 1 for the most; a single one is at the end where there are no cells of more.
    share = np.log(np.maximum(counts, 1)) / np.log(most) if most > 1 else np.ones(counts.shape)
    block = np.ones((DENSITY_CELL, DENSITY_CELL))
    enlarged = np.kron(share, block)[:height, :width, None]
    occupied = np.kron(counts > 0, block)[:height, :width, None] > 0
    # Dim and without colour, so that no ground is taken for a density.
    grey = pixels.mean(axis=2, keepdims=True) * 0.6
    alpha = np.where(occupied, 0.5 + 0.4 * enlarged, 0.0)
    mixed = grey * (1 - alpha) + _ramp(enlarged[..., 0]) * alpha
    return _with_bar(Image.fromarray(mixed.round().astype(np.uint8)), most, title, cell)


def density(corners: _Float, width: int, height: int) -> npt.NDArray[np.int64]:
    """(rows, columns) how many boxes have their centre in each cell of `DENSITY_CELL` pixels of a picture."""
    rows, columns = -(-height // DENSITY_CELL), -(-width // DENSITY_CELL)
    x = ((corners[:, 0] + corners[:, 2]) / 2 // DENSITY_CELL).clip(0, columns - 1).astype(np.int64)
    y = ((corners[:, 1] + corners[:, 3]) / 2 // DENSITY_CELL).clip(0, rows - 1).astype(np.int64)
    return np.bincount(y * columns + x, minlength=rows * columns).reshape(rows, columns)


def _ramp(share: _Float) -> _Float:
    """(..., 3) the colour of each share, 0 to 1."""
    stops = np.linspace(0, 1, len(_RAMP))
    return np.stack([np.interp(share, stops, channel) for channel in _RAMP.T], axis=-1)


def _with_bar(picture: Image.Image, most: int, title: str, cell: str) -> Image.Image:
    size = int(np.clip(picture.width / 55, 12, 22))
    font, pad, line = font_of(size), size, round(size * 1.7)
    out = Image.new("RGB", (picture.width, picture.height + 2 * pad + line + size), PANEL)
    out.paste(picture, (0, 0))
    draw = ImageDraw.Draw(out)
    top = picture.height + pad
    draw.text((pad, top), title, font=font, fill=TEXT, anchor="lt")
    if most == 0:
        return out
    width = min(240, picture.width // 4)
    bar = np.repeat(_ramp(np.linspace(0, 1, width))[None], size, axis=0).round().astype(np.uint8)
    first = "1"
    left = pad + round(font.getlength(first)) + size // 2
    middle = top + line + size // 2
    draw.text((pad, middle), first, font=font, fill=TEXT, anchor="lm")
    out.paste(Image.fromarray(bar), (left, top + line))
    per = f"{most:,} objects in a cell" + (f" of {cell}" if cell else "")
    draw.text((left + width + size // 2, middle), per, font=font, fill=TEXT, anchor="lm")
    return out


def draw_scale_bar(picture: Image.Image, pixel: float, *, in_m: bool, height: int) -> None:
    """Draw a bar of a round length into the lower left corner of a picture.

    Args:
        picture: an RGB image, which is changed.
        pixel: width of one of its pixels, in metres on the ground or in pixels of the scene.
        in_m: whether that is metres.
        height: of the picture in pixels, without a legend below.
    """
    length, text = round_length(picture.width * _BAR_SHARE * pixel, in_m=in_m)
    bar = length / pixel
    size = int(np.clip(picture.width / 40, 11, 24))
    font, draw = font_of(size), ImageDraw.Draw(picture)
    width = max(bar, font.getlength(text))
    bottom = height - size // 2
    draw.rectangle((0, bottom - 2 * size - 2, width + 1.5 * size, height), fill=SHADOW)
    draw.text((size * 0.75, bottom - size * 0.6), text, font=font, fill=TEXT, anchor="lb")
    draw.rectangle((size * 0.75, bottom - size * 0.4, size * 0.75 + bar, bottom - size * 0.1), fill=TEXT)


def round_length(longest: float, *, in_m: bool) -> tuple[float, str]:
    """The longest length of 1, 2 or 5 times a power of ten that is not above `longest`, and its text."""
    power = 10.0 ** np.floor(np.log10(longest))
    length = float(next(step * power for step in (5, 2, 1) if step * power <= longest * (1 + 1e-9)))
    if not in_m:
        return length, f"{length:g} px"
    for unit, metres in (("km", 1000.0), ("m", 1.0), ("cm", 0.01)):
        if length >= metres:
            return length, f"{length / metres:g} {unit}"
    return length, f"{length * 1000:g} mm"


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures one below the other, each in the middle; at least one."""
    width = max(picture.width for picture in pictures)
    out = Image.new("RGB", (width, sum(picture.height for picture in pictures)), PANEL)
    top = 0
    for picture in pictures:
        out.paste(picture, ((width - picture.width) // 2, top))
        top += picture.height
    return out
