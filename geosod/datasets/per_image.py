"""Read sets that have a file of labels for each image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from geosod.datasets.contract import Source
from geosod.datasets.labels import ANY_CLASS, IGNORED, LabelledImage, Labels
from geosod.datasets.problems import InvalidEntryError
from geosod.datasets.rows import Rows
from geosod.errors import GeosodError, LabelError

_Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Entry:
    """One box of a file.

    Attributes:
        box: ``x0, y0, x1, y1`` in pixels.
        label: name of the class, or its position; `IGNORED` is a region that holds for all classes.
        area, crowd, ignore, truncated: as `Labels`; no area is that of the box.
    """

    box: _Box
    label: str | int
    area: float | None = None
    crowd: bool = False
    ignore: bool = False
    truncated: bool = False


#: Identifier of an entry, where it stands, and what parses it (InvalidEntryError where it cannot be used).
Item = tuple[int, str, Callable[[], Entry | None]]
#: A file, and what opens it: the image, and the entries.
ImageFile = tuple[Path, Callable[[], tuple[LabelledImage, Iterable[Item]]]]


class Names:
    """Names of classes in the order of their first use, or a given order that has all of them."""

    def __init__(self, given: Iterable[str] | None) -> None:
        self.fixed = given is not None
        self.names = list(given or ())
        self._index = {name: i for i, name in enumerate(self.names)}

    def index(self, label: str | int) -> int:
        """Position of a class; InvalidEntryError where a given order lacks it."""
        if label == IGNORED:
            return ANY_CLASS
        if isinstance(label, int):
            if not 0 <= label < len(self.names):
                raise InvalidEntryError(f"class {label} is none of the {len(self.names)} classes, which count from 0")
            return label
        if label not in self._index:
            if self.fixed or not label:
                raise InvalidEntryError(f"class {label!r} is none of {', '.join(self.names)[:200]}")
            self._index[label] = len(self.names)
            self.names.append(label)
        return self._index[label]


def read_image_files(
    source: Source,
    files: Iterable[ImageFile],
    names: Names,
    *,
    supercategories: list[str] | None = None,
    class_ids: list[int] | None = None,
) -> Labels:
    """The labels of all images.

    A file that cannot be read is recorded as a problem, and its image is left out: without its labels its objects
    would count as background.

    Raises:
        LabelError: there is no file.
    """
    rows, images, seen, empty = Rows(), list[LabelledImage](), set[str](), True
    for path, open_file in files:
        empty = False
        try:
            image, items = open_file()
            if image.id in seen:
                raise LabelError(f"image {image.id} has two files of labels")
            items = list(items)
        except (GeosodError, InvalidEntryError) as error:
            source.problems.add(path, "", str(error).removeprefix(f"{path}: "))
            continue
        seen.add(image.id)
        for id_, where, parse in items:
            try:
                if (entry := parse()) is not None:
                    _add(rows, entry, len(images), names, id_)
            except InvalidEntryError as error:
                source.problems.add(path, where, error)
        images.append(image)
    if empty:
        raise LabelError(f"{source.path}: has no file of labels" + (f" for {source.subset}" if source.subset else ""))
    labels = rows.labels(images, names.names, supercategories=supercategories, class_ids=class_ids)
    return labels if names.fixed else _sorted_classes(labels)


def _add(rows: Rows, entry: Entry, image: int, names: Names, id_: int) -> None:
    label = names.index(entry.label)
    rows.add(
        entry.box,
        image=image,
        label=label,
        id=id_,
        area=entry.area,
        crowd=entry.crowd,
        ignore=entry.ignore or label == ANY_CLASS,
        truncated=entry.truncated,
    )


def _sorted_classes(labels: Labels) -> Labels:
    """With classes in alphabetical order, which does not depend on the order of the images."""
    from geosod.datasets.class_map import order_classes

    return order_classes(labels, sorted(labels.classes)).with_columns(class_ids=None)


def lines_of(lines: list[str], parse: Callable[[str], Entry | None]) -> Iterator[Item]:
    """An entry for every line that is not empty."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, f"line {number}", _bound(parse, line)


def _bound(parse: Callable[[str], Entry | None], line: str) -> Callable[[], Entry | None]:
    return lambda: parse(line)


def label_files(folder: Path, ending: str) -> list[Path]:
    """The files below a folder with an ending, in order."""
    return sorted(path for path in folder.rglob(f"*{ending}") if path.is_file())


def subfolder(folder: Path, names: Iterable[str]) -> Path:
    """The first of some subfolders that exists, else the folder itself."""
    return next((folder / name for name in names if (folder / name).is_dir()), folder)


def by_image(labels: Labels) -> Iterator[tuple[int, LabelledImage, list[int]]]:
    """Position, image and rows of each image, for writers."""
    for k, (image, rows) in enumerate(zip(labels.images, labels.by_image(), strict=True)):
        yield k, image, rows.tolist()


def class_name(labels: Labels, row: int) -> str:
    """The name of a box's class."""
    label = int(labels.labels[row])
    return IGNORED if label == ANY_CLASS else labels.classes[label]
