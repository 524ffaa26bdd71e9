"""CityPersons' JSON: a file for each image of Cityscapes, in folders of cities.

https://github.com/cvgroup-njust/CityPersons. Groups are crowds; what is labelled ``ignore`` counts neither way.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from geosod.datasets.contract import TAKES, Format, Source, Target
from geosod.datasets.image_files import ImageFolder, relative_name
from geosod.datasets.labels import IGNORED, LabelledImage, Labels
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
from geosod.datasets.problems import InvalidEntryError, corners_from_size, numbers, shown, whole_number
from geosod.datasets.text_files import MAX_IMAGE_FILE, read_json
from geosod.datasets.write_files import place_images, safe_path, write_json
from geosod.errors import LabelError

_ENDING, _IMAGE_ENDING = "_gtBboxCityPersons.json", "_leftImg8bit"
_GROUP = "person group"


def read_citypersons(source: Source) -> Labels:
    """The labels below a folder, which may have ``gtBboxCityPersons`` and ``leftImg8bit`` with subsets."""
    folder = subfolder(source.path, ["gtBboxCityPersons", "gtBbox_cityPersons_trainval/gtBboxCityPersons"])
    if source.subset:
        folder = folder / source.subset
    near = [source.path / "leftImg8bit", folder.parent / "leftImg8bit"]
    place = next((path for path in near if path.is_dir()), source.path)
    images = ImageFolder([source.images or (place / source.subset if source.subset else place)])
    files: list[ImageFile] = [(path, partial(_open, path, folder, images)) for path in label_files(folder, _ENDING)]
    return read_image_files(source, files, Names(source.classes))


def _open(path: Path, folder: Path, images: ImageFolder) -> tuple[LabelledImage, Iterator[Item]]:
    document = read_json(path, limit=MAX_IMAGE_FILE)
    if not isinstance(document, dict) or not isinstance(objects := document.get("objects"), list):
        raise LabelError("has no list of objects, so it is not CityPersons' format")
    id_ = path.relative_to(folder).as_posix().removesuffix(_ENDING)
    name = relative_name(id_ + _IMAGE_ENDING)
    width, height = (whole_number(document.get(key), key) for key in ("imgWidth", "imgHeight"))
    if min(width, height) < 1 or max(width, height) >= 1 << 31:
        raise InvalidEntryError(f"imgWidth and imgHeight are {width} x {height}")
    file = images.find(name) or images.find(relative_name(id_)) or images.expected(name.with_name(name.name + ".png"))
    return LabelledImage(id_, str(file), width, height), _items(objects)


def _items(objects: list[Any]) -> Iterator[Item]:
    for position, entry in enumerate(objects, 1):
        number = entry.get("instanceId") if isinstance(entry, dict) else None
        yield number if isinstance(number, int) else position, f"object {position}", partial(_entry, entry)


def _entry(entry: Any) -> Entry:
    if not isinstance(entry, dict) or not isinstance(label := entry.get("label"), str):
        raise InvalidEntryError(f"is {shown(entry)}, expected a label and a bbox")
    box = corners_from_size(numbers(entry.get("bbox"), 4, "bbox"))
    return Entry(box, IGNORED if label == "ignore" else label, crowd=label == _GROUP, ignore=label == "ignore")


def write_citypersons(labels: Labels, target: Target) -> None:
    """Write ``gtBboxCityPersons``, and the images to ``leftImg8bit``."""
    groups = [class_name(labels, row) == _GROUP for row in range(len(labels))]
    if ((labels.ignore & (labels.labels >= 0)) | (labels.crowd != groups)).any():
        target.notes.append(
            "ignored and crowd boxes are written as ignored regions of any class, which is what CityPersons has"
        )
    if target.images != "none":
        renamed = labels.with_columns(images=[_renamed(image) for image in labels.images])
        place_images(renamed, target.path / "leftImg8bit", target)
    for _, image, rows in by_image(labels):
        objects = [_object(labels, row, groups[row]) for row in rows]
        path = safe_path(target.path / "gtBboxCityPersons", image.id, _ENDING)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"imgHeight": image.height, "imgWidth": image.width, "objects": objects})


def _renamed(image: LabelledImage) -> LabelledImage:
    return LabelledImage(image.id + _IMAGE_ENDING, image.uri, image.width, image.height)


def _object(labels: Labels, row: int, group: bool) -> dict[str, Any]:
    x0, y0, x1, y1 = labels.boxes[row].tolist()
    ignored = bool(labels.ignore[row] or (labels.crowd[row] and not group))
    box = [x0, y0, x1 - x0, y1 - y0]
    label = "ignore" if ignored else class_name(labels, row)
    return {"instanceId": int(labels.ids[row]), "bbox": box, "bboxVis": box, "label": label}


def recognises(path: Path) -> bool:
    """Whether there is a file of that ending below a folder."""
    return path.is_dir() and next(path.rglob(f"*{_ENDING}"), None) is not None


FORMAT = Format("citypersons", "CityPersons JSON", True, read_citypersons, write_citypersons, recognises, takes=TAKES)
