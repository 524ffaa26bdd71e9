"""YOLO folders: a text file for each image, with boxes relative to its size, and ``data.yaml``.

Lines are ``class cx cy w h`` or ``class x1 y1 x2 y2 …`` with at least three corners; an image without a file has no
objects. https://docs.ultralytics.com/datasets/detect/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from geosod.datasets.contract import TAKES, Format, Source, Target
from geosod.datasets.image_files import image_ids, images_in, is_file, read_image, relative_name
from geosod.datasets.labels import ANY_CLASS, LabelledImage, Labels
from geosod.datasets.per_image import Entry, ImageFile, Item, Names, by_image, lines_of, read_image_files
from geosod.datasets.problems import InvalidEntryError, numbers, shown, whole_number
from geosod.datasets.text_files import MAX_IMAGE_FILE, read_bytes, read_lines
from geosod.datasets.write_files import number, place_images, safe_path, write_text
from geosod.errors import LabelError, one_line
from geosod.storage.uris import LOCAL_SUFFIXES

_SUBSETS = ("train", "val", "test")
#: Larger values cannot be relative to the size of the image; those a little above 1 are boxes beyond its edge.
_MAX_RELATIVE = 2.0


def read_yolo(source: Source) -> Labels:
    """The labels of a YOLO folder, or of its ``data.yaml``."""
    settings = source.path if source.path.is_file() else source.path / "data.yaml"
    known = _settings(settings) if is_file(settings) else {}
    root = _root(settings.parent, known)
    files = dict(_images(source, root, known, settings))
    given = source.classes or _names(settings, known) or _names_file(root)
    if given is None:
        raise LabelError(f"{root}: has no data.yaml and no classes.txt with the names of the classes; give --classes")
    if files and not any(map(is_file, files.values())):
        image, labels = next(iter(files.items()))
        raise LabelError(f"{labels.parent}: has no labels for the images in {image.parent}")
    _report_orphans(source, files)
    ids = image_ids([relative_name(_name(path, source.images or root)) for path in files])
    opened: list[ImageFile] = [
        (labels, partial(_open, path, labels, id_)) for (path, labels), id_ in zip(files.items(), ids, strict=True)
    ]
    return read_image_files(source, opened, Names(given), class_ids=list(range(len(given))))


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(read_bytes(path, MAX_IMAGE_FILE))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise LabelError(f"{path}: cannot be read as YAML: {one_line(error)}") from error
    if not isinstance(found, dict):
        raise LabelError(f"{path}: holds {type(found).__name__}, expected train, val and names")
    return found


def _root(folder: Path, known: dict[str, Any]) -> Path:
    given = known.get("path")
    if isinstance(given, str) and "\0" not in given and (folder / given).is_dir():
        return folder / given
    return folder


def _names(path: Path, known: dict[str, Any]) -> list[str] | None:
    """The names in ``data.yaml``, a list or a mapping from numbers; None where there are none."""
    names = known.get("names")
    if names is None:
        return None
    if isinstance(names, dict):
        try:
            pairs = sorted((whole_number(key, "class"), str(name)) for key, name in names.items())
        except InvalidEntryError as error:
            raise LabelError(f"{path}: names: {error}") from error
        if [key for key, _ in pairs] != list(range(len(pairs))):
            raise LabelError(f"{path}: names have the numbers {shown([k for k, _ in pairs])}, expected 0, 1, 2, …")
        names = [name for _, name in pairs]
    if not isinstance(names, list) or len(set(map(str, names))) != len(names):
        raise LabelError(f"{path}: names are {shown(names)}, expected a list of different names")
    if isinstance(known.get("nc"), int) and known["nc"] != len(names):
        raise LabelError(f"{path}: nc is {known['nc']}, but there are {len(names)} names")
    return [str(name) for name in names]


def _names_file(root: Path) -> list[str] | None:
    path = next((p for p in (root / "classes.txt", root / "labels" / "classes.txt") if is_file(p)), None)
    return [line.strip() for line in read_lines(path) if line.strip()] if path else None


def _images(source: Source, root: Path, known: dict[str, Any], settings: Path) -> Iterator[tuple[Path, Path]]:
    """The images of the subset, or of all, with their files of labels."""
    if source.images is not None:
        for path in images_in(source.images / source.subset if source.subset else source.images):
            yield path, (root / "labels" / path.relative_to(source.images)).with_suffix(".txt")
        return
    for path in _found_images(source, root, known, settings):
        yield path, _label_path(path)


def _found_images(source: Source, root: Path, known: dict[str, Any], settings: Path) -> Iterator[Path]:
    listed = [name for name in _SUBSETS if known.get(name)]
    if not listed:
        folder = root / "images" if (root / "images").is_dir() else root
        yield from images_in(folder / source.subset if source.subset else folder)
        return
    if source.subset and source.subset not in listed:
        raise LabelError(f"{source.path}: has no subset {source.subset!r}, but {', '.join(listed)}")
    for name in [source.subset] if source.subset else listed:
        entries = known[name] if isinstance(known[name], list) else [known[name]]
        for entry in entries:
            yield from _listed(source, root, str(entry), settings)


def _listed(source: Source, root: Path, entry: str, settings: Path) -> Iterator[Path]:
    """The images in a folder, or those that a list names."""
    # Exports of Roboflow name folders from one below their own.
    places = [root / entry, root / entry.removeprefix("../")] if "\0" not in entry else []
    found = next((place for place in places if place.exists()), None)
    if found is None:
        source.problems.add(settings, entry, "there is no such folder or list of images")
        return
    if found.is_dir():
        yield from images_in(found)
        return
    for line in map(str.strip, read_lines(found)):
        path = found.parent / line if line.startswith("./") else root / line
        if line and is_file(path):
            yield path
        elif line:
            source.problems.add(found, line[:200], "there is no such image")


def _name(path: Path, root: Path) -> str:
    try:
        parts = list(path.relative_to(root).parts)
    except ValueError:
        return path.name
    if "images" in parts[:-1]:
        del parts[len(parts) - 2 - parts[-2::-1].index("images")]
    return "/".join(parts)


def _label_path(path: Path) -> Path:
    """The last folder ``images`` of a path becomes ``labels``."""
    parts = list(path.parts)
    for k in range(len(parts) - 2, -1, -1):
        if parts[k] == "images":
            parts[k] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _report_orphans(source: Source, files: dict[Path, Path]) -> None:
    """Files of labels whose image is missing."""
    expected = set(files.values())
    for folder in sorted({path.parent for path in expected}):
        for path in sorted(folder.glob("*.txt")):
            if path not in expected and path.name != "classes.txt":
                source.problems.add(path, "", "there is no image of that name")


def _open(path: Path, labels: Path, id_: str) -> tuple[LabelledImage, Iterator[Item]]:
    image = read_image(id_, path)
    lines = read_lines(labels) if is_file(labels) else []
    return image, lines_of(lines, partial(_entry, image=image))


def _entry(line: str, *, image: LabelledImage) -> Entry:
    words = line.split()
    label = whole_number(words[0], "class")
    values = numbers(words[1:], len(words) - 1, "box")
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise InvalidEntryError(f"has {len(words)} values, expected class cx cy w h, or class x1 y1 x2 y2 x3 y3 …")
    if max(map(abs, values)) > _MAX_RELATIVE:
        raise InvalidEntryError(f"box is {shown(values)}; values are relative to the size of the image, not pixels")
    size = (image.width, image.height)
    if len(values) > 4:
        return _outline(np.array(values).reshape(-1, 2) * size, label)
    cx, cy, w, h = values
    if w < 0 or h < 0:
        raise InvalidEntryError(f"box has the size {w:g} x {h:g}, which is negative")
    (x0, x1), (y0, y1) = (
        (side * (c - d / 2), side * (c + d / 2)) for side, c, d in zip(size, (cx, cy), (w, h), strict=True)
    )
    return Entry((x0, y0, x1, y1), label)


def _outline(xy: np.ndarray[Any, Any], label: int) -> Entry:
    (x0, y0), (x1, y1) = xy.min(axis=0).tolist(), xy.max(axis=0).tolist()
    x, y = xy.T
    area = abs(float(x @ np.roll(y, -1) - np.roll(x, -1) @ y)) / 2
    return Entry((x0, y0, x1, y1), label, area=area)


def write_yolo(labels: Labels, target: Target) -> None:
    """Write ``images``, ``labels`` and ``data.yaml``; boxes that do not count are left out."""
    left_out = labels.ignore | labels.crowd | (labels.labels == ANY_CLASS)
    if left_out.any():
        target.notes.append(
            f"{int(left_out.sum()):,} ignored or crowd boxes left out: YOLO cannot mark them, and trains on their "
            "ground as background"
        )
    labels = _with_stems_of_their_own(labels)
    place_images(labels, target.path / "images", target)
    (target.path / "images").mkdir(parents=True, exist_ok=True)
    for _, image, rows in by_image(labels):
        lines = []
        for row in rows:
            if not left_out[row]:
                x0, y0, x1, y1 = (labels.boxes[row] / ([image.width, image.height] * 2)).tolist()
                values = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
                lines.append(" ".join([str(labels.labels[row]), *map(number, values)]))
        write_text(safe_path(target.path / "labels", image.id, ".txt"), "".join(f"{line}\n" for line in lines))
    settings = {"path": ".", "train": "images", "val": "images", "names": dict(enumerate(labels.classes))}
    write_text(target.path / "data.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def _with_stems_of_their_own(labels: Labels) -> Labels:
    """Images that differ in the suffix alone would share a file of labels: ``a.tif`` becomes ``a_tif``."""
    taken = {image.id for image in labels.images}
    images = []
    for image in labels.images:
        id_ = PurePosixPath(image.id)
        if id_.suffix.lower() in LOCAL_SUFFIXES:
            name = id_.with_name(f"{id_.stem}_{id_.suffix[1:]}").as_posix()
            while name in taken:
                name += "_"
            taken.add(name)
            image = replace(image, id=name)  # noqa: PLW2901
        images.append(image)
    return labels.with_columns(images=images)


def recognises(path: Path) -> bool:
    """Whether it is a ``data.yaml``, or a folder with ``images`` and ``labels``."""
    if path.suffix.lower() in (".yaml", ".yml"):
        return is_file(path)
    return path.is_dir() and (
        is_file(path / "data.yaml") or ((path / "labels").is_dir() and (path / "images").is_dir())
    )


FORMAT = Format(
    "yolo", "YOLO folder with data.yaml", True, read_yolo, write_yolo, recognises, takes=TAKES, own_images=True
)
