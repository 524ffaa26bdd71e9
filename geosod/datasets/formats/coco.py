"""COCO's JSON (https://cocodataset.org/#format-data), and sets that extend it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from geosod.datasets.contract import Format, Source, Target
from geosod.datasets.image_files import ImageFolder, image_ids, is_file, read_image, relative_name
from geosod.datasets.labels import ANY_CLASS, IGNORED, LabelledImage, Labels, renumbered
from geosod.datasets.problems import InvalidEntryError, corners_from_size, numbers, shown, whole_number
from geosod.datasets.rows import Rows
from geosod.datasets.text_files import read_json
from geosod.datasets.write_files import image_names, write_json
from geosod.errors import GeosodError, LabelError

#: What is kept of an annotation; the outlines of a large set would not fit into memory.
_KEPT = (
    *("id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "truncated", "uncertain", "logo"),
    "in_dense_image",
)

#: Annotations that are made at a time.
_CHUNK = 10_000

_Flags = Callable[[dict[str, Any]], bool]


def read_coco(source: Source, *, ignored: _Flags = lambda entry: _is_set(entry.get("ignore"))) -> Labels:
    """The labels of a COCO file; `ignored` says which annotations count neither way."""
    document = read_json(source.path, reduce=_reduced)
    if isinstance(document, list):
        raise LabelError(f"{source.path}: is a list, as of detections; labels have images, annotations and categories")
    parts: dict[str, list[Any]] = {}
    for key in ("images", "annotations", "categories"):
        found = document.get(key) if isinstance(document, dict) else None
        if not isinstance(found, list):
            raise LabelError(f"{source.path}: has no list of {key}, so it is not COCO's format")
        parts[key] = found
    categories = _Categories(source, parts["categories"])
    numbers_, images = _read_images(source, parts["images"])
    rows = Rows()
    for position, entry in enumerate(parts["annotations"], 1):
        try:
            _add(rows, entry, position, numbers_, categories, ignored)
        except InvalidEntryError as error:
            name = entry.get("id", f"number {position}") if isinstance(entry, dict) else f"number {position}"
            source.problems.add(source.path, f"annotation {shown(name)}", error)
    own = _own(document.get("info"))
    return rows.labels(
        renumbered(images),
        categories.names,
        supercategories=categories.supercategories,
        class_ids=categories.ids,
        points=own.get("points") is True,
    )


def _reduced(entry: dict[str, Any]) -> dict[str, Any]:
    if "image_id" not in entry:
        return entry
    if not entry.get("bbox") and "segmentation" in entry:
        entry["bbox"] = _bounds(entry["segmentation"])
    return {key: entry[key] for key in _KEPT if key in entry}


def _bounds(outlines: Any) -> Any:
    """The box of a list of polygons; None for anything else."""
    try:
        values = [float(value) for outline in outlines for value in outline]
        xs, ys = values[::2], values[1::2]
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    except (TypeError, ValueError, OverflowError):
        return None


class _Categories:
    """The categories of a file; those of one name are one class."""

    def __init__(self, source: Source, entries: list[Any]) -> None:
        self.names: list[str] = []
        self.supercategories: list[str] = []
        self.ids: list[int] = []
        self.index: dict[int, int] = {}
        for position, entry in enumerate(entries, 1):
            try:
                self._add(entry)
            except InvalidEntryError as error:
                source.problems.add(source.path, f"category number {position}", error)

    def _add(self, entry: Any) -> None:
        if not isinstance(entry, dict) or not isinstance(name := entry.get("name"), str) or not name:
            raise InvalidEntryError(f"is {shown(entry)}, expected an id and a name")
        number = whole_number(entry.get("id"), "id")
        if number in self.index:
            raise InvalidEntryError(f"id {number} is that of another category, too")
        if _own(entry).get("any_class") is True:
            self.index[number] = ANY_CLASS
            return
        if name in self.names:
            raise InvalidEntryError(f"is called {name!r} like another category; give them different names")
        self.index[number] = len(self.names)
        self.names.append(name)
        above = entry.get("supercategory")
        self.supercategories.append(above if isinstance(above, str) and above != name else "")
        self.ids.append(number)


def _own(entry: Any) -> dict[str, Any]:
    """What geosod has added to an object of a file."""
    found = entry.get("geosod") if isinstance(entry, dict) else None
    return found if isinstance(found, dict) else {}


def _read_images(source: Source, entries: list[Any]) -> tuple[dict[Any, int], list[LabelledImage]]:
    """Position of each image by its number in the file, and the images."""
    usable, names = [], []
    times = Counter(
        entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), int | str)
    )
    for position, entry in enumerate(entries, 1):
        try:
            if not isinstance(entry, dict) or not isinstance(number := entry.get("id"), int | str):
                raise InvalidEntryError(f"is {shown(entry)}, expected an id, a file_name, a width and a height")
            if "corner" in entry:
                raise InvalidEntryError("is a part of a larger image (corner); give the file of whole images")
            if times[number] > 1:
                # Which of them an annotation is of cannot be known.
                raise InvalidEntryError(f"{shown(entry.get('file_name'))} has the id of another image, too")
            name = relative_name(_own(entry).get("id") or entry.get("file_name"))
        except InvalidEntryError as error:
            label = entry.get("id", f"number {position}") if isinstance(entry, dict) else f"number {position}"
            source.problems.add(source.path, f"image {shown(label)}", error)
            continue
        usable.append(entry)
        names.append(name)
    folder = _folder(source, usable)
    images: list[LabelledImage] = []
    position_of: dict[Any, int] = {}
    taken: set[str] = set()
    for entry, id_ in zip(usable, image_ids(names), strict=True):
        try:
            if id_ in taken:
                raise InvalidEntryError(f"has the file_name {shown(entry.get('file_name'))} of another image, too")
            image = _image(entry, id_, folder)
        except (InvalidEntryError, GeosodError) as error:
            source.problems.add(source.path, f"image {shown(entry['id'])}", error)
            continue
        taken.add(id_)
        position_of[entry["id"]] = len(images)
        images.append(image)
    return position_of, images


def _folder(source: Source, entries: list[dict[str, Any]]) -> ImageFolder:
    """Where the images are: the folder that was given, else that near the file which has the first image."""
    if source.images is not None:
        return ImageFolder([source.images])
    here = source.path.parent
    stem = source.path.stem.removeprefix("instances_")
    names = ("images", "Images", "data", stem)
    near = [here, *(here / name for name in names), *(here.parent / name for name in names)]
    near += [here.parent / "images" / stem, here.parent]
    first = next((name for entry in entries[:1] if isinstance(name := entry.get("file_name"), str)), "")
    try:
        found = [folder for folder in near if first and is_file(folder / relative_name(first))]
    except InvalidEntryError:
        found = []
    return ImageFolder(found or [here])


def _image(entry: dict[str, Any], id_: str, folder: ImageFolder) -> LabelledImage:
    name, own = relative_name(entry.get("file_name")), _own(entry)
    path = folder.find(name, entry.get("file_name"))
    number = entry["id"] if isinstance(entry["id"], int) and entry["id"] > 0 else 0
    if "width" not in entry and "height" not in entry:
        if path is None:
            raise InvalidEntryError(f"has no width and height, and there is no {folder.expected(name)}")
        return read_image(id_, path, number)
    width, height = (whole_number(entry.get(side), side) for side in ("width", "height"))
    if min(width, height) < 1 or max(width, height) >= 1 << 31:
        raise InvalidEntryError(f"has {width} x {height} pixels")
    metres, offset = own.get("metres_per_pixel"), own.get("offset")
    x, y = numbers(metres, 2, "metres_per_pixel") if metres is not None else (0.0, 0.0)
    col, row = (whole_number(v, "offset") for v in numbers(offset or [0, 0], 2, "offset"))
    return LabelledImage(
        id_,
        str(path or folder.expected(name)),
        width,
        height,
        number,
        (x, y) if x > 0 and y > 0 else None,
        str(own.get("scene") or ""),
        (col, row),
    )


def _add(
    rows: Rows, entry: Any, position: int, images: dict[Any, int], categories: _Categories, ignored: _Flags
) -> None:
    if not isinstance(entry, dict):
        raise InvalidEntryError(f"is {shown(entry)}, expected an object")
    image, category = entry.get("image_id"), entry.get("category_id")
    if isinstance(image, float) and image.is_integer():
        image = int(image)  # as pandas writes numbers
    if not isinstance(image, int | str) or image not in images:
        raise InvalidEntryError(f"image_id is {shown(image)}, which is none of the images")
    number_of_category = whole_number(category, "category_id")
    if number_of_category not in categories.index:
        raise InvalidEntryError(f"category_id is {shown(category)}, which is none of the categories")
    label = categories.index[number_of_category]
    number = entry.get("id", position)
    rows.add(
        corners_from_size(numbers(entry.get("bbox"), 4, "bbox")),
        image=images[image],
        label=label,
        id=number if isinstance(number, int) else position,
        area=entry.get("area"),
        crowd=_is_set(entry.get("iscrowd")),
        ignore=label == ANY_CLASS or ignored(entry),
        truncated=_is_set(entry.get("truncated")),
    )


def _is_set(flag: Any) -> bool:
    """Whether a flag is set; programs that write all values as text write "0" or "false"."""
    if not isinstance(flag, str):
        return bool(flag)
    try:
        return float(flag) != 0
    except ValueError:
        return flag.strip().lower() not in ("", "false", "no", "off", "null", "none")


def coco_document(
    labels: Labels, target: Target, annotations: Iterator[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The content of a COCO file; the annotations are made while they are written.

    Args:
        labels: any labels.
        target: where it will be, for the names of the images.
        annotations: instead of those of `labels`, from `coco_annotations`.
    """
    images = renumbered(labels.images)
    categories: list[dict[str, Any]] = [
        {"id": i, "name": name} | ({"supercategory": above} if above else {})
        for i, name, above in zip(labels.class_ids, labels.classes, labels.supercategories, strict=True)
    ]
    if (labels.labels == ANY_CLASS).any():
        categories.append({"id": _any_id(labels), "name": IGNORED, "geosod": {"any_class": True}})
    info = {"description": "geosod"} | ({"geosod": {"points": True}} if labels.points else {})
    listed = [_entry(image, name) for image, name in zip(images, image_names(labels, target), strict=True)]
    made = coco_annotations(labels) if annotations is None else annotations
    return {"info": info, "images": listed, "annotations": made, "categories": categories}


def _any_id(labels: Labels) -> int:
    return max((*labels.class_ids, 0)) + 1


def coco_annotations(
    labels: Labels, extra: Callable[[int, bool], dict[str, Any]] | None = None, *, first_id: int = 1
) -> Iterator[dict[str, Any]]:
    """The annotations of a COCO file.

    Args:
        labels: any labels.
        extra: further keys of an annotation, from its row and whether it is ignored.
        first_id: number of the first annotation, where those of the labels are not unique.
    """
    images = renumbered(labels.images)
    ids = [*labels.class_ids, _any_id(labels)]
    unique = len(np.unique(labels.ids)) == len(labels)
    columns = (labels.ids, labels.image, labels.labels, labels.area, labels.crowd, labels.ignore, labels.truncated)
    for begin in range(0, len(labels), _CHUNK):
        chunk = slice(begin, begin + _CHUNK)
        boxes = labels.boxes[chunk].copy()
        boxes[:, 2:] -= boxes[:, :2]
        rows = zip(boxes.tolist(), *(column[chunk].tolist() for column in columns), strict=True)
        for k, (box, number, image, label, area, crowd, ignore, truncated) in enumerate(rows, begin):
            entry = {"id": number if unique else first_id + k, "image_id": images[image].number}
            entry |= {"category_id": ids[label], "bbox": box, "area": area, "iscrowd": int(crowd)}
            entry |= extra(k, ignore) if extra else {"ignore": 1} if ignore else {}
            yield entry | ({"truncated": 1} if truncated else {})


def _entry(image: LabelledImage, name: str) -> dict[str, Any]:
    own: dict[str, Any] = {}
    if image.metres_per_pixel:
        own["metres_per_pixel"] = list(image.metres_per_pixel)
    if image.scene:
        own |= {"scene": image.scene, "offset": list(image.offset)}
    try:
        same = image_ids([relative_name(name)]) == [image.id]
    except InvalidEntryError:
        same = False
    if not same:
        own["id"] = image.id
    entry = {"id": image.number, "file_name": name, "width": image.width, "height": image.height}
    return entry | ({"geosod": own} if own else {})


def write_coco(labels: Labels, target: Target) -> None:
    """Write a COCO file."""
    write_json(target.path, coco_document(labels, target))


def recognises(path: Path, *, key: str | None = None) -> bool:
    """Whether a JSON file begins like COCO's; with `key`, whether its annotations have that."""
    if path.suffix.lower() != ".json" or not is_file(path):
        return False
    try:
        with path.open("rb") as file:
            head = file.read(1 << 20)
    except OSError:
        return False
    text = head.decode("utf-8", "replace")
    coco = text.lstrip("\ufeff \t\r\n").startswith("{") and any(
        f'"{name}"' in text for name in ("images", "annotations", "categories")
    )
    return coco and (key is None or f'"{key}"' in text)


FORMAT = Format("coco", "COCO JSON", False, read_coco, write_coco, recognises, suffix=".json")
