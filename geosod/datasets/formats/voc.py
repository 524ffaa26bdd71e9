"""Pascal VOC XML: a file for each image. Corners are pixels counted from 1, both inside the box.

http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from geosod.datasets.contract import TAKES, Format, Source, Target
from geosod.datasets.image_files import ImageFolder, read_image, relative_name
from geosod.datasets.labels import LabelledImage, Labels
from geosod.datasets.per_image import (
    Entry,
    ImageFile,
    Item,
    Names,
    by_image,
    class_name,
    label_files,
    read_image_files,
    subfolder,
)
from geosod.datasets.problems import InvalidEntryError, number_of, numbers, ordered_corners, whole_number
from geosod.datasets.text_files import read_lines, read_xml
from geosod.datasets.write_files import number, place_images, safe_path, write_text
from geosod.errors import LabelError

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(source: Source) -> Labels:
    """The labels of a folder of XML files, which may be one of a VOC devkit."""
    folder = subfolder(source.path, ["Annotations", "annotations"])
    images = ImageFolder([source.images or subfolder(source.path, ["JPEGImages", "images"])])
    paths = label_files(folder, ".xml")
    if source.subset:
        listed = source.path / "ImageSets" / "Main" / f"{source.subset}.txt"
        wanted = [line.split()[0] for line in read_lines(listed) if line.strip()]
        known = {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
        for name in wanted:
            if name not in known:
                source.problems.add(listed, name[:200], f"there is no {name[:200]}.xml in {folder}")
        paths = [known[name] for name in wanted if name in known]
    files: list[ImageFile] = [(path, partial(_open, path, folder, images)) for path in paths]
    return read_image_files(source, files, Names(source.classes))


def _open(path: Path, folder: Path, images: ImageFolder) -> tuple[LabelledImage, Iterator[Item]]:
    root = read_xml(path, "annotation")
    id_ = path.relative_to(folder).with_suffix("").as_posix()
    below = PurePosixPath(id_)
    named = relative_name((root.findtext("filename") or "").strip() or id_)
    # The name of the XML file counts: tools leave names of other images and other machines inside.
    file = images.find(below) or images.find(below.with_name(named.name)) or images.find(named)
    size = _size(root)
    if size is not None:
        expected = images.expected(below.with_name(named.name))
        return LabelledImage(id_, str(file or expected), *size), _items(root)
    if file is None:
        raise LabelError(f"has no size, and there is no {images.expected(named)}")
    return read_image(id_, file), _items(root)


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    """Width and height, where the file has them; labelling tools may write 0 or nothing."""
    try:
        width, height = (whole_number(root.findtext(f"size/{side}"), side) for side in ("width", "height"))
    except InvalidEntryError:
        return None
    return (width, height) if min(width, height) >= 1 and max(width, height) < 1 << 31 else None


def _items(root: ElementTree.Element) -> Iterator[Item]:
    for position, entry in enumerate(root.iter("object"), 1):
        yield position, f"object {position}", partial(_entry, entry)


def _entry(entry: ElementTree.Element) -> Entry:
    name = (entry.findtext("name") or "").strip()
    if not name:
        raise InvalidEntryError("has no name")
    box = entry.find("bndbox")
    if box is None:
        raise InvalidEntryError("has no bndbox")
    x0, y0, x1, y1 = numbers([box.findtext(corner) for corner in _CORNERS], 4, "bndbox")
    return Entry(
        ordered_corners([x0 - 1, y0 - 1, x1, y1]),
        name,
        ignore=_flag(entry, "difficult"),
        truncated=_flag(entry, "truncated"),
    )


def _flag(entry: ElementTree.Element, tag: str) -> bool:
    text = (entry.findtext(tag) or "0").strip()
    words = {"unspecified": 0, "false": 0, "true": 1}
    # Some sets have the share that is truncated.
    return number_of(words.get(text.lower(), text), tag) != 0


def write_voc(labels: Labels, target: Target) -> None:
    """Write ``Annotations``, and the images to ``JPEGImages``; crowds become difficult."""
    if (labels.crowd & ~labels.ignore).any():
        target.notes.append("crowds are written as difficult objects, since VOC has no crowds")
    placed = place_images(labels, target.path / "JPEGImages", target)
    for k, image, rows in by_image(labels):
        root = ElementTree.Element("annotation")
        _text(root, "filename", placed[k].name)
        size = ElementTree.SubElement(root, "size")
        _text(size, "width", str(image.width))
        _text(size, "height", str(image.height))
        for row in rows:
            _write(root, labels, row)
        ElementTree.indent(root)
        text = ElementTree.tostring(root, encoding="unicode") + "\n"
        write_text(safe_path(target.path / "Annotations", image.id, ".xml"), text)


def _write(root: ElementTree.Element, labels: Labels, row: int) -> None:
    entry = ElementTree.SubElement(root, "object")
    _text(entry, "name", class_name(labels, row))
    _text(entry, "truncated", str(int(labels.truncated[row])))
    _text(entry, "difficult", str(int(labels.ignore[row] or labels.crowd[row])))
    box = ElementTree.SubElement(entry, "bndbox")
    x0, y0, x1, y1 = labels.boxes[row].tolist()
    for corner, value in zip(_CORNERS, (x0 + 1, y0 + 1, x1, y1), strict=True):
        _text(box, corner, number(value))


def _text(parent: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = text


def recognises(path: Path) -> bool:
    """Whether a folder has ``Annotations`` with XML files, or XML files and nothing else of labels."""
    if not path.is_dir():
        return False
    folder = subfolder(path, ["Annotations", "annotations"])
    first = next(iter(sorted(folder.glob("*.xml"))), None) or next(folder.rglob("*.xml"), None)
    if first is None:
        return False
    try:
        return read_xml(first, "annotation") is not None
    except LabelError:
        return folder != path


FORMAT = Format("voc", "Pascal VOC XML", True, read_voc, write_voc, recognises, takes=TAKES)
