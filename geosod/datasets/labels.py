"""Labels of many images as columns, like `geosod.Detections`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.errors import ConfigError

#: Label of an ignored region that holds for all classes.
ANY_CLASS = -1
#: What files call such regions that have no other way to mark them (VisDrone's name).
IGNORED = "ignored regions"
#: Column of `Labels` → its dtype and default. The default of `area` is the area of the box.
_COLUMNS: dict[str, tuple[Any, Any]] = {
    "image": (np.int32, 0),
    "labels": (np.int32, 0),
    "crowd": (np.bool_, False),
    "ignore": (np.bool_, False),
    "truncated": (np.bool_, False),
    "area": (np.float64, 0),
    "ids": (np.int64, 0),
}


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image or scene that labels refer to.

    Attributes:
        id: unique in the set; the path of the image without its suffix, relative to the images of the set. The last
            part of it is the scene identifier that `geosod.detect` gives to the file.
        uri: path or address of its pixels. There may be nothing there; "" where only the size is known.
        width: pixels of full resolution.
        height: pixels of full resolution.
        number: its identifier in files that number images (COCO).
        metres_per_pixel: true size of a pixel on the ground in x and y, or None where it is not known.
        scene: `id` of the scene that it is a tile of; "" for a scene of its own.
        offset: column and row of its top-left pixel in that scene.
    """

    id: str
    uri: str
    width: int
    height: int
    number: int = 0
    metres_per_pixel: tuple[float, float] | None = None
    scene: str = ""
    offset: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ConfigError(f"image {self.id}: {self.width} x {self.height} pixels; width and height are 1 or more")


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class Labels:
    """Labelled boxes of many images as columns. Row i of every column describes box i. They may be empty.

    Immutable: the columns are copies of what is passed in, and cannot be written to.

    Attributes:
        images: every image of the set, also those without boxes.
        classes: names, unique.
        supercategories: of each class; "" for none.
        class_ids: identifier of each class in files that number them, unique.
        image: (N,) int32, index into `images`.
        boxes: (N, 4) float64 ``x0, y0, x1, y1``, pixels of the image's full resolution, frame of `geosod.Detections`.
            They may have no area and may lie outside the image (`geosod dataset check` reports both).
        labels: (N,) int32, index into `classes`; `ANY_CLASS` for ignored regions that hold for all classes.
        crowd: (N,) bool, a group of objects in one box (``iscrowd`` of COCO).
        ignore: (N,) bool, counts neither as found nor as missed: ignored regions of VisDrone, ``difficult`` of VOC and
            DOTA, ``ignore`` and ``uncertain`` of TinyPerson.
        truncated: (N,) bool, the image shows only a part of the object.
        area: (N,) float64, square pixels: that of the outline where the file has one, else that of the box.
        ids: (N,) int64, identifier in its file: the annotation of COCO, or the line or feature, counted from 1.
        points: whether objects are marked by points; their boxes have width and height 0.

    Raises:
        ConfigError: a column has the wrong shape or unusable values.
    """

    images: tuple[LabelledImage, ...]
    classes: tuple[str, ...]
    supercategories: tuple[str, ...]
    class_ids: tuple[int, ...]
    image: npt.NDArray[np.int32]
    boxes: FloatArray
    labels: npt.NDArray[np.int32]
    crowd: BoolArray
    ignore: BoolArray
    truncated: BoolArray
    area: FloatArray
    ids: IntArray
    points: bool

    def __init__(
        self,
        *,
        images: Iterable[LabelledImage],
        classes: Iterable[str],
        image: npt.ArrayLike,
        boxes: npt.ArrayLike,
        labels: npt.ArrayLike,
        crowd: npt.ArrayLike | None = None,
        ignore: npt.ArrayLike | None = None,
        truncated: npt.ArrayLike | None = None,
        area: npt.ArrayLike | None = None,
        ids: npt.ArrayLike | None = None,
        supercategories: Iterable[str] | None = None,
        class_ids: Iterable[int] | None = None,
        points: bool = False,
    ) -> None:
        images, classes = tuple(images), tuple(classes)
        corners = _corners(boxes)
        if area is None:
            area = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
        if ids is None:
            ids = np.arange(1, len(corners) + 1)
        given: dict[str, Any] = {"image": image, "labels": labels, "crowd": crowd, "ignore": ignore}
        given |= {"truncated": truncated, "area": area, "ids": ids}
        columns = {name: _column(name, value, len(corners)) for name, value in given.items()}
        columns["boxes"] = corners
        for name, column in columns.items():
            column.flags.writeable = False
            object.__setattr__(self, name, column)
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "supercategories", tuple(supercategories or ("",) * len(classes)))
        object.__setattr__(self, "class_ids", tuple(class_ids or range(1, len(classes) + 1)))
        object.__setattr__(self, "points", bool(points))
        self._validate()

    def _validate(self) -> None:
        _unique("images", [image.id for image in self.images])
        _unique("classes", self.classes)
        _unique("class_ids", self.class_ids)
        for name in ("supercategories", "class_ids"):
            if len(getattr(self, name)) != len(self.classes):
                raise ConfigError(f"Labels: {len(getattr(self, name))} {name} for {len(self.classes)} classes")
        for name, count in (("image", len(self.images)), ("labels", len(self.classes))):
            column = getattr(self, name)
            column = column[(column != ANY_CLASS) | ~self.ignore] if name == "labels" else column
            if len(column) and not (column.min() >= 0 and column.max() < count):
                wrong = column[(column < 0) | (column >= count)][0]
                raise ConfigError(f"Labels: {name} holds {wrong}, but there are {count}; they count from 0")
        if self.points and (self.boxes[:, :2] != self.boxes[:, 2:]).any():
            raise ConfigError("Labels: points have boxes of width and height 0")
        if not (np.isfinite(self.area).all() and (self.area >= 0).all()):
            raise ConfigError("Labels: area holds values that are negative or not finite")

    @classmethod
    def empty(cls, images: Iterable[LabelledImage] = (), classes: Iterable[str] = ()) -> Self:
        """No boxes."""
        return cls(images=images, classes=classes, image=(), boxes=np.empty((0, 4)), labels=())

    @classmethod
    def concat(cls, parts: Iterable[Labels]) -> Self:
        """All images and boxes of `parts`, in their order. Classes of the same name are one class.

        Raises:
            ConfigError: an image is in two parts, or some parts are points and some are not.
        """
        kept = list(parts)
        if len({part.points for part in kept if len(part)}) > 1:
            raise ConfigError("Labels: points and boxes cannot be joined; convert one of them first")
        classes = list(dict.fromkeys(name for part in kept for name in part.classes))
        position = {name: i for i, name in enumerate(classes)}
        above = {n: s for part in reversed(kept) for n, s in zip(part.classes, part.supercategories, strict=True)}
        ids = {n: i for part in reversed(kept) for n, i in zip(part.classes, part.class_ids, strict=True)}
        starts = np.cumsum([0, *(len(part.images) for part in kept)])
        columns = {name: [getattr(part, name) for part in kept] for name in ("boxes", *_COLUMNS)}
        columns["image"] = [part.image + start for part, start in zip(kept, starts, strict=False)]
        columns["labels"] = [np.take([*(position[n] for n in part.classes), ANY_CLASS], part.labels) for part in kept]
        unique = len(set(ids.values())) == len(ids)
        return cls(
            images=[image for part in kept for image in part.images],
            classes=classes,
            supercategories=[above[name] for name in classes],
            class_ids=[ids[name] for name in classes] if unique else None,
            points=any(part.points for part in kept),
            **{name: np.concatenate(column) if column else () for name, column in columns.items()},
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        kind = "points" if self.points else "boxes"
        return f"Labels({len(self)} {kind}, {len(self.images)} images, {len(self.classes)} classes)"

    def __getitem__(self, index: slice | npt.NDArray[Any] | Sequence[int]) -> Labels:
        """Some of the boxes; images and classes stay."""
        rows = np.arange(len(self))[np.asarray(index, np.int64) if isinstance(index, list | tuple) else index]
        return self.with_columns(**{name: getattr(self, name)[rows] for name in ("boxes", *_COLUMNS)})

    def with_columns(self, **columns: Any) -> Labels:
        """The same labels with some attributes replaced."""
        kept = {name: getattr(self, name) for name in self.__slots__}
        return Labels(**(kept | columns))

    def of_images(self, index: npt.NDArray[Any] | Sequence[int]) -> Labels:
        """Some of the images, in the order of `index`, with their boxes; classes stay."""
        chosen = np.asarray(index)
        if chosen.dtype == np.bool_:
            chosen = np.flatnonzero(chosen)
        target = np.full(len(self.images), -1, np.int64)
        target[chosen.astype(np.int64)] = np.arange(len(chosen))
        rows = np.flatnonzero(target[self.image] >= 0) if len(self) else np.arange(0)
        rows = rows[np.argsort(target[self.image[rows]], kind="stable")]
        part = {name: getattr(self, name)[rows] for name in ("boxes", *_COLUMNS)}
        part["image"] = target[part["image"]] if len(rows) else part["image"]
        return self.with_columns(images=tuple(self.images[i] for i in chosen.tolist()), **part)

    def by_image(self) -> list[IntArray]:
        """For every image the rows of its boxes, in their order."""
        order = np.argsort(self.image, kind="stable")
        return np.split(order, np.searchsorted(self.image[order], np.arange(1, len(self.images))))[: len(self.images)]


def renumbered(images: Iterable[LabelledImage]) -> tuple[LabelledImage, ...]:
    """Images with numbers from 1 where two have the same or one has none."""
    kept = tuple(images)
    numbers = {image.number for image in kept}
    if len(numbers) == len(kept) and 0 not in numbers:
        return kept
    return tuple(replace(image, number=i) for i, image in enumerate(kept, 1))


def _corners(boxes: npt.ArrayLike) -> FloatArray:
    corners = np.array(boxes, np.float64, order="C")
    corners = corners.reshape(0, 4) if corners.size == 0 else corners
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise ConfigError(f"Labels: boxes have shape {corners.shape}, expected (N, 4) as x0, y0, x1, y1")
    wrong = ~np.isfinite(corners).all(axis=1) | (corners[:, :2] > corners[:, 2:]).any(axis=1)
    if wrong.any():
        raise ConfigError(
            f"Labels: box {np.flatnonzero(wrong)[0]} is {corners[wrong][0].tolist()}, expected "
            "x0 <= x1 and y0 <= y1 and finite values"
        )
    return corners


def _column(name: str, values: Any, length: int) -> npt.NDArray[Any]:
    dtype, default = _COLUMNS[name]
    try:
        column = np.full(length, default, dtype) if values is None else np.array(values, dtype, order="C")
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"Labels: {name} holds no {np.dtype(dtype)}: {' '.join(str(error).split())}") from error
    if column.shape != (length,):
        raise ConfigError(f"Labels: {name} has shape {column.shape}, expected ({length},), one value per box")
    return column


def _unique(name: str, values: Sequence[Any]) -> None:
    if len(set(values)) != len(values):
        seen: set[Any] = set()
        twice = next(v for v in values if v in seen or seen.add(v))  # type: ignore[func-returns-value]
        raise ConfigError(f"Labels: {name} holds {twice!r} twice")
