"""DOTA text: ``x1 y1 x2 y2 x3 y3 x4 y4 class difficult`` for each object, a file for each image.

https://captain-whu.github.io/DOTA/dataset.html. Objects become the upright boxes around their corners.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from geosod.datasets.contract import TAKES, Format, Source, Target
from geosod.datasets.image_files import ImageFolder, read_image, relative_name
from geosod.datasets.labels import IGNORED, LabelledImage, Labels
from geosod.datasets.per_image import (
    Entry,
    ImageFile,
    Item,
    Names,
    by_image,
    class_name,
    label_files,
    lines_of,
    read_image_files,
)
from geosod.datasets.problems import InvalidEntryError, number_of, numbers, whole_number
from geosod.datasets.text_files import read_lines
from geosod.datasets.write_files import number, place_images, safe_path, write_text
from geosod.errors import LabelError

#: Classes are single words here.
_IGNORED = "_".join(IGNORED.split())
_FOLDERS = ("labelTxt", "labelTxt-v1.0", "labelTxt-v1.5", "labelTxt-v2.0")


def read_dota(source: Source) -> Labels:
    """The labels of a folder with ``labelTxt`` and ``images``."""
    folder = _folder(source.path)
    images = ImageFolder([source.images or folder.parent / "images"])
    files: list[ImageFile] = [(path, partial(_open, path, folder, images)) for path in label_files(folder, ".txt")]
    return read_image_files(source, files, Names(source.classes))


def _folder(path: Path) -> Path:
    return next((path / name for name in _FOLDERS if (path / name).is_dir()), path)


def _open(path: Path, folder: Path, images: ImageFolder) -> tuple[LabelledImage, Iterator[Item]]:
    id_ = path.relative_to(folder).with_suffix("").as_posix()
    lines = read_lines(path)
    file = images.find(relative_name(id_))
    if file is None:
        raise LabelError(f"there is no image {images.expected(relative_name(id_))}; give the folder with --images")
    image = read_image(id_, file)
    metres = _metres(lines)
    if image.metres_per_pixel is None and metres is not None:
        image = replace(image, metres_per_pixel=(metres, metres))
    return image, lines_of(lines, _entry)


def _metres(lines: list[str]) -> float | None:
    """The ground sample distance in the first lines."""
    for line in lines[:3]:
        key, _, text = line.partition(":")
        if key.strip().lower() == "gsd":
            try:
                metres = number_of(text, "gsd")
            except InvalidEntryError:
                return None
            return metres if metres > 0 else None
    return None


def _entry(line: str) -> Entry | None:
    if line.partition(":")[0].strip().lower() in ("imagesource", "gsd", "acquisition dates"):
        return None
    words = line.split()
    if len(words) not in (9, 10):
        raise InvalidEntryError(f"has {len(words)} values, expected x1 y1 x2 y2 x3 y3 x4 y4 class difficult")
    values = numbers(words[:8], 8, "corners")
    xs, ys = values[::2], values[1::2]
    turns = sum(xs[k - 1] * ys[k] - xs[k] * ys[k - 1] for k in range(4))
    difficult = whole_number(words[9], "difficult") != 0 if len(words) == 10 else False
    name = IGNORED if words[8] == _IGNORED else words[8]
    return Entry((min(xs), min(ys), max(xs), max(ys)), name, area=abs(turns) / 2, ignore=difficult)


def write_dota(labels: Labels, target: Target) -> None:
    """Write ``labelTxt``, and the images to ``images``; crowds become difficult, and spaces in names ``_``."""
    if (labels.crowd & ~labels.ignore).any():
        target.notes.append("crowds are written as difficult objects, since DOTA has no crowds")
    names = {name: "_".join(name.split()) for name in (*labels.classes,)}
    if len(set(names.values())) < len(names):
        raise LabelError("two classes differ in spaces alone, which DOTA cannot write; map one with --rename-classes")
    place_images(labels, target.path / "images", target)
    for _, image, rows in by_image(labels):
        metres = image.metres_per_pixel
        lines = [f"gsd:{number((metres[0] * metres[1]) ** 0.5)}"] if metres else []
        for row in rows:
            x0, y0, x1, y1 = map(number, labels.boxes[row].tolist())
            name = "_".join(class_name(labels, row).split())
            difficult = int(labels.ignore[row] or labels.crowd[row])
            lines.append(f"{x0} {y0} {x1} {y0} {x1} {y1} {x0} {y1} {name} {difficult}")
        write_text(safe_path(target.path / "labelTxt", image.id, ".txt"), "".join(f"{line}\n" for line in lines))


def recognises(path: Path) -> bool:
    """Whether a folder has ``labelTxt``, or is called so."""
    return path.is_dir() and (_folder(path) != path or path.name in _FOLDERS)


FORMAT = Format("dota", "DOTA text", True, read_dota, write_dota, recognises, takes=TAKES - {"subset"}, own_images=True)
