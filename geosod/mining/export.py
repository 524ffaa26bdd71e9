"""The chosen crops as files: GeoTIFFs, labels, a list and a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geosod.datasets.contract import Target
from geosod.datasets.formats.coco import coco_annotations, coco_document
from geosod.datasets.labels import LabelledImage, Labels
from geosod.datasets.problems import Problems
from geosod.datasets.tile_files import read_pixels, write_tiles
from geosod.datasets.write_files import write_json
from geosod.detections import Detections
from geosod.errors import GeosodError, redacted
from geosod.mining.candidates import Candidate
from geosod.tile_size import TileSize
from geosod.tiling.grid import make_grid
from geosod.viewing.pictures import contact_sheet, draw_crop
from geosod.viewing.stretch import as_picture

LABELS, LIST, SHEET = "labels.json", "mined.csv", "contact-sheet.png"
#: A box of which a crop shows less than this share of its area counts neither way in it.
_MIN_VISIBLE = 0.25
#: Crops on the contact sheet, and the side of each in pixels of the picture.
_DRAWN, _SIDE = 24, 384


@dataclass(frozen=True, slots=True, eq=False)
class Mined:
    """A chosen crop.

    Attributes:
        candidate: the crop.
        novelty: distance to the nearest known crop or one chosen before, at most 2.
    """

    candidate: Candidate
    novelty: float

    @property
    def name(self) -> str:
        """Of its image."""
        window = self.candidate.window
        return f"{self.candidate.scene.id}_{window.col}_{window.row}"


@dataclass(frozen=True, slots=True, eq=False)
class Suggested:
    """Boxes of a crop.

    Attributes:
        found: in pixels of the crop, clipped to it.
        hidden: (N,) bool, of which it shows too little to count.
        area: (N,) square pixels that it shows.
    """

    found: Detections
    hidden: Any
    area: Any


def suggested(candidate: Candidate) -> Suggested:
    """The detections that a crop shows."""
    window = candidate.window
    whole = candidate.found.boxes - np.tile([window.col, window.row], 2)
    boxes = np.clip(whole, 0, np.tile([window.width, window.height], 2))
    area, all_of_it = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (boxes, whole))
    found = Detections(boxes=boxes, scores=candidate.found.scores, labels=candidate.found.labels)
    return Suggested(found, area < _MIN_VISIBLE * all_of_it, area)


def write_images(mined: Sequence[Mined], folder: Path, crop: TileSize, problems: Problems) -> list[Mined]:
    """Write the crops as GeoTIFFs; those that were written, in their order.

    A crop that cannot be read is recorded as a problem.
    """
    written: set[str] = set()
    by_scene: dict[str, list[Mined]] = {}
    for one in mined:
        by_scene.setdefault(one.candidate.scene.id, []).append(one)
    for some in by_scene.values():
        scene = some[0].candidate.scene
        grid = make_grid(scene.width, scene.height, tile=crop, overlap=0)
        names = {(one.candidate.window.col, one.candidate.window.row): one.name for one in some}
        try:
            done = write_tiles(scene, grid, {s: folder / f"{name}.tif" for s, name in names.items()}, problems)
        except GeosodError as error:
            problems.add(scene.ref.uri, "", error)
            continue
        written |= {names[start] for start in done}
    return [one for one in mined if one.name in written]


def write_labels_file(
    mined: Sequence[Mined], draft: Path, final: Path, names: Sequence[str], *, suggestions: bool
) -> Labels:
    """Write ``labels.json``, COCO's format with a score for each annotation.

    Args:
        mined: the crops.
        draft: folder that becomes `final`.
        final: the output folder.
        names: under which the labels of detections are reported; those of one name are one class.
        suggestions: whether detections are suggested; without, no crop holds an object.

    Returns:
        The labels, whose images lie in `final`.
    """
    classes = list(dict.fromkeys(names))
    index = np.array([classes.index(name) for name in names], np.int64)
    boxes = [suggested(one.candidate) for one in mined]
    counts = [len(one.found) if suggestions else 0 for one in boxes]
    kept = [one for one, count in zip(boxes, counts, strict=True) if count]
    scores = np.concatenate([one.found.scores for one in kept]) if kept else np.empty(0)
    labels = Labels(
        images=[_image(one, final, k) for k, one in enumerate(mined, 1)],
        classes=classes,
        image=np.repeat(np.arange(len(mined)), counts),
        boxes=np.concatenate([one.found.boxes for one in kept]) if kept else np.empty((0, 4)),
        labels=np.concatenate([index[one.found.labels] for one in kept]) if kept else (),
        ignore=np.concatenate([one.hidden for one in kept]) if kept else None,
        area=np.concatenate([one.area for one in kept]) if kept else None,
    )

    def extra(row: int, ignore: bool) -> dict[str, Any]:
        return {"score": round(float(scores[row]), 4)} | ({"ignore": 1} if ignore else {})

    target = Target(draft / LABELS, final / LABELS)
    write_json(target.path, coco_document(labels, target, coco_annotations(labels, extra)))
    return labels


def _image(one: Mined, folder: Path, number: int) -> LabelledImage:
    window, scene = one.candidate.window, one.candidate.scene
    return LabelledImage(
        one.name,
        str(folder / "images" / f"{one.name}.tif"),
        window.width,
        window.height,
        number,
        scene.pixel,
        scene.id,
        (window.col, window.row),
    )


def write_list(mined: Sequence[Mined], path: Path, *, worth: str) -> None:
    """Write a CSV of the crops in the order in which they were chosen; `worth` names the column of that."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        size = ("col", "row", "width", "height")
        rows.writerow(["rank", "image", "scene", "source", *size, worth, "novelty", "detections"])
        for rank, one in enumerate(mined, 1):
            c, w = one.candidate, one.candidate.window
            place = [w.col, w.row, w.width, w.height]
            figures = [f"{c.worth:.4f}", f"{one.novelty:.4f}", len(c.found)]
            rows.writerow([rank, f"images/{one.name}.tif", c.scene.id, redacted(c.scene.ref.uri), *place, *figures])


def draw_sheet(mined: Sequence[Mined], path: Path, names: Sequence[str], *, worth: str) -> None:
    """Draw the first crops with their detections."""
    pictures, captions = [], []
    for rank, one in enumerate(mined[:_DRAWN], 1):
        window, boxes = one.candidate.window, suggested(one.candidate).found
        zoom = max(1, _SIDE // max(window.width, window.height))
        pixels = as_picture(read_pixels(one.candidate.scene, window))
        picture = draw_crop(pixels, boxes.boxes, boxes.labels, boxes.scores, class_names=names, zoom=zoom)
        picture.thumbnail((2 * _SIDE, 2 * _SIDE))
        pictures.append(picture)
        captions.append(f"{rank}: {one.name}, {worth} {one.candidate.worth:.2f}, novelty {one.novelty:.2f}")
    contact_sheet(pictures, columns=4, captions=captions).save(path)
