"""xView's GeoJSON: a feature for each object, with its box in pixels of an image. https://xviewdataset.org"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geosod.datasets.contract import Format, Source, Target
from geosod.datasets.image_files import ImageFolder, image_ids, is_file, read_image, relative_name
from geosod.datasets.labels import LabelledImage, Labels
from geosod.datasets.per_image import class_name
from geosod.datasets.problems import InvalidEntryError, numbers, ordered_corners, shown, whole_number
from geosod.datasets.rows import Rows
from geosod.datasets.text_files import read_json
from geosod.datasets.write_files import number, write_json
from geosod.errors import GeosodError, LabelError
from geosod.storage.uris import suffix

#: ``type_id`` → class.
CLASSES = {
    11: "Fixed-wing Aircraft", 12: "Small Aircraft", 13: "Cargo Plane", 15: "Helicopter", 17: "Passenger Vehicle",
    18: "Small Car", 19: "Bus", 20: "Pickup Truck", 21: "Utility Truck", 23: "Truck", 24: "Cargo Truck",
    25: "Truck w/Box", 26: "Truck Tractor", 27: "Trailer", 28: "Truck w/Flatbed", 29: "Truck w/Liquid",
    32: "Crane Truck", 33: "Railway Vehicle", 34: "Passenger Car", 35: "Cargo Car", 36: "Flat Car", 37: "Tank car",
    38: "Locomotive", 40: "Maritime Vessel", 41: "Motorboat", 42: "Sailboat", 44: "Tugboat", 45: "Barge",
    47: "Fishing Vessel", 49: "Ferry", 50: "Yacht", 51: "Container Ship", 52: "Oil Tanker", 53: "Engineering Vehicle",
    54: "Tower crane", 55: "Container Crane", 56: "Reach Stacker", 57: "Straddle Carrier", 59: "Mobile Crane",
    60: "Dump Truck", 61: "Haul Truck", 62: "Scraper/Tractor", 63: "Front loader/Bulldozer", 64: "Excavator",
    65: "Cement Mixer", 66: "Ground Grader", 71: "Hut/Tent", 72: "Shed", 73: "Building", 74: "Aircraft Hangar",
    76: "Damaged Building", 77: "Facility", 79: "Construction Site", 83: "Vehicle Lot", 84: "Helipad",
    86: "Storage Tank", 89: "Shipping container lot", 91: "Shipping Container", 93: "Pylon", 94: "Tower",
}  # fmt: skip


def read_xview(source: Source) -> Labels:
    """The labels of a GeoJSON file; boxes are those in ``bounds_imcoords``, which are exact."""
    document = read_json(source.path, reduce=_reduced)
    features = document.get("features") if isinstance(document, dict) else None
    if not isinstance(features, list):
        raise LabelError(f"{source.path}: has no list of features, so it is not xView's format")
    images = _Images(source)
    rows, numbers_ = Rows(), {type_id: k for k, type_id in enumerate(CLASSES)}
    for position, feature in enumerate(features, 1):
        properties = feature.get("properties") if isinstance(feature, dict) else None
        where = f"feature {position}"
        try:
            if not isinstance(properties, dict):
                raise InvalidEntryError(f"is {shown(feature)}, expected properties")
            if isinstance(given := properties.get("feature_id"), int):
                where = f"feature {given}"
            _add(rows, properties, position, images, numbers_)
        except InvalidEntryError as error:
            source.problems.add(source.path, where, error)
    return rows.labels(images.images, CLASSES.values(), class_ids=CLASSES)


def _reduced(entry: dict[str, Any]) -> dict[str, Any]:
    """Coordinates are not needed."""
    return {} if "coordinates" in entry else entry


class _Images:
    """The images that features name, opened once each."""

    def __init__(self, source: Source) -> None:
        self.source = source
        here = source.path.parent
        near = [path for name in ("train_images", "images") if (path := here / name).is_dir()]
        self.folder = ImageFolder([source.images] if source.images else [*near, here])
        self.images: list[LabelledImage] = []
        self._index: dict[str, int | str] = {}

    def index(self, name: str) -> int:
        """Position of an image; InvalidEntryError where it cannot be opened."""
        if name not in self._index:
            self._index[name] = self._opened(name)
        found = self._index[name]
        if isinstance(found, str):
            raise InvalidEntryError(found)
        return found

    def _opened(self, name: str) -> int | str:
        try:
            relative = relative_name(name)
            path = self.folder.find(relative)
            if path is None:
                return f"image_id is {shown(name)}, and there is no {self.folder.expected(relative)}"
            self.images.append(read_image(image_ids([relative])[0], path))
        except (GeosodError, InvalidEntryError) as error:
            return str(error)
        return len(self.images) - 1


def _add(rows: Rows, properties: dict[str, Any], position: int, images: _Images, classes: dict[int, int]) -> None:
    type_id = whole_number(properties.get("type_id"), "type_id")
    if type_id not in classes:
        raise InvalidEntryError(f"type_id is {type_id}, which is none of xView's classes")
    text = properties.get("bounds_imcoords")
    box = numbers(text.split(",") if isinstance(text, str) else text, 4, "bounds_imcoords")
    given = properties.get("feature_id")
    rows.add(
        ordered_corners(box),
        image=images.index(str(properties.get("image_id"))),
        label=classes[type_id],
        id=given if isinstance(given, int) else position,
    )


def write_xview(labels: Labels, target: Target) -> None:
    """Write a GeoJSON file; classes must be those of xView. Geometries are in pixels, since scenes need no position."""
    types = {name: type_id for type_id, name in CLASSES.items()}
    left_out = labels.ignore | labels.crowd
    if left_out.any():
        target.notes.append(f"{int(left_out.sum()):,} ignored or crowd boxes left out: xView cannot mark them")
    features = []
    for row in range(len(labels)):
        if left_out[row]:
            continue
        name = class_name(labels, row)
        if name not in types:
            raise LabelError(f"class {name!r} is none of xView's; map it with --rename-classes")
        features.append(_feature(labels, row, types[name]))
    write_json(target.path, {"type": "FeatureCollection", "features": features})


def _feature(labels: Labels, row: int, type_id: int) -> dict[str, Any]:
    x0, y0, x1, y1 = labels.boxes[row].tolist()
    image = labels.images[int(labels.image[row])]
    properties = {
        "bounds_imcoords": ",".join(map(number, (x0, y0, x1, y1))),
        "image_id": image.id + suffix(image.uri),
        "type_id": type_id,
        "feature_id": int(labels.ids[row]),
    }
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    return {
        "type": "Feature",
        "properties": properties,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }


def recognises(path: Path) -> bool:
    """Whether a GeoJSON file has boxes in ``bounds_imcoords``."""
    if path.suffix.lower() not in (".geojson", ".json") or not is_file(path):
        return False
    with path.open("rb") as file:
        return b'"bounds_imcoords"' in file.read(1 << 20)


FORMAT = Format("xview", "xView GeoJSON", False, read_xview, write_xview, recognises, suffix=".geojson")
