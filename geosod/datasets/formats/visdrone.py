"""VisDrone-DET text: ``x,y,w,h,score,category,truncation,occlusion`` for each box, a file for each image.

https://github.com/VisDrone/VisDrone2018-DET-toolkit
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from geosod.datasets.contract import Format, Source, Target
from geosod.datasets.image_files import ImageFolder, is_file, read_image, relative_name
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
from geosod.datasets.problems import InvalidEntryError, corners_from_size, numbers, whole_number
from geosod.datasets.text_files import read_lines
from geosod.datasets.write_files import number, place_images, safe_path, write_text
from geosod.errors import LabelError

#: Class and supercategory of the categories 1, 2, 3, …
CLASSES = {
    "pedestrian": "pedestrian",
    "people": "pedestrian",
    "bicycle": "motor",
    "car": "car",
    "van": "car",
    "truck": "truck",
    "tricycle": "motor",
    "awning-tricycle": "motor",
    "bus": "truck",
    "motor": "motor",
    "others": "",
}


def read_visdrone(source: Source) -> Labels:
    """The labels of a folder with ``annotations`` and ``images``."""
    folder = source.path / "annotations"
    folder = folder if folder.is_dir() else source.path
    images = ImageFolder([source.images or source.path / "images"])
    files: list[ImageFile] = [(path, partial(_open, path, folder, images)) for path in label_files(folder, ".txt")]
    names, above = list(CLASSES), list(CLASSES.values())
    return read_image_files(source, files, Names(names), supercategories=above)


def _open(path: Path, folder: Path, images: ImageFolder) -> tuple[LabelledImage, Iterator[Item]]:
    id_ = path.relative_to(folder).with_suffix("").as_posix()
    file = images.find(relative_name(id_))
    if file is None:
        raise LabelError(f"there is no image {images.expected(relative_name(id_))}; give the folder with --images")
    return read_image(id_, file), lines_of(read_lines(path), _entry)


def _entry(line: str) -> Entry:
    words = line.strip().rstrip(",").split(",")
    if len(words) != 8:
        raise InvalidEntryError(f"has {len(words)} values, expected x,y,w,h,score,category,truncation,occlusion")
    values = numbers(words, 8, "line")
    category = whole_number(words[5], "category")
    if not 0 <= category <= len(CLASSES):
        raise InvalidEntryError(f"category is {category}, expected 0 to {len(CLASSES)}")
    return Entry(
        corners_from_size(values[:4]),
        IGNORED if category == 0 else category - 1,
        ignore=values[4] == 0,
        truncated=values[6] != 0,
    )


def write_visdrone(labels: Labels, target: Target) -> None:
    """Write ``annotations``, and the images to ``images``; classes must be those of VisDrone."""
    numbers_ = {name: i for i, name in enumerate(CLASSES, 1)} | {IGNORED: 0}
    used = {class_name(labels, row) for row in range(len(labels))}
    if unknown := sorted(used - set(numbers_)):
        raise LabelError(
            f"class {unknown[0]!r} is none of VisDrone's: {', '.join(CLASSES)}; map it with --rename-classes"
        )
    if (labels.crowd & ~labels.ignore).any():
        target.notes.append("crowds are written as ignored objects, since VisDrone has no crowds")
    place_images(labels, target.path / "images", target)
    for _, image, rows in by_image(labels):
        lines = []
        for row in rows:
            x0, y0, x1, y1 = labels.boxes[row].tolist()
            ignored = bool(labels.ignore[row] or labels.crowd[row])
            category, cut = numbers_[class_name(labels, row)], int(labels.truncated[row])
            values = (*map(number, (x0, y0, x1 - x0, y1 - y0)), int(not ignored), category, cut, 0)
            lines.append(",".join(map(str, values)) + "\n")
        write_text(safe_path(target.path / "annotations", image.id, ".txt"), "".join(lines))


def recognises(path: Path) -> bool:
    """Whether the first text in ``annotations`` has lines of eight numbers."""
    if not (path / "annotations").is_dir():
        return False
    for file in sorted((path / "annotations").glob("*.txt"))[:20]:
        try:
            lines = [line for line in read_lines(file) if line.strip()] if is_file(file) else []
            if lines:
                return len(numbers(lines[0].strip().rstrip(",").split(","), 8, "line")) == 8
        except (LabelError, InvalidEntryError):
            return False
    return False


FORMAT = Format("visdrone", "VisDrone-DET text", True, read_visdrone, write_visdrone, recognises, own_images=True)
