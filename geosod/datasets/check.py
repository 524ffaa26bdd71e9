"""What looks wrong in labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from geosod.arrays import BoolArray, FloatArray, IntArray
from geosod.datasets.box_formats import format_findings
from geosod.datasets.findings import CheckReport, Finding, box_examples, names
from geosod.datasets.image_files import is_file, scene_of, with_ground_size
from geosod.datasets.labels import LabelledImage, Labels
from geosod.datasets.read import Reading
from geosod.datasets.sizes import class_counts, size_histograms
from geosod.errors import GeosodError
from geosod.scenes.open import shown_turned
from geosod.storage.uris import is_remote

#: Boxes may extend beyond their image by this, in pixels: annotation tools round.
_TOLERANCE = 1.0
#: Boxes of one class with at least this IoU are likely one object that was labelled twice.
_SAME_OBJECT = 0.9
#: The most frequent class may have so many times the boxes of another, and a class should have so many boxes.
_MAX_RATIO, _MIN_BOXES = 100, 10


def check_labels(reading: Reading, *, open_images: bool = True) -> CheckReport:
    """Examine labels.

    Args:
        reading: labels, as read with ``invalid="skip"`` so that all problems are listed.
        open_images: whether the files of the images are opened, to compare their sizes.
    """
    labels = reading.labels
    findings = [*_boxes(labels), *format_findings(labels, reading.problems), *_classes(labels)]
    findings += _images(labels, open_images=open_images)
    findings.sort(key=lambda one: (one.level, one.kind))
    used = np.bincount(labels.image, minlength=len(labels.images)) if len(labels) else np.zeros(len(labels.images))
    counts = {
        "images": len(labels.images),
        "images_without_boxes": int((used == 0).sum()),
        "boxes": len(labels),
        "crowds": int(labels.crowd.sum()),
        "ignored": int(labels.ignore.sum()),
        "truncated": int(labels.truncated.sum()),
    }
    return CheckReport(
        counts,
        class_counts(labels),
        tuple(findings),
        size_histograms(with_ground_size(labels) if open_images else labels),
        tuple(map(str, reading.problems.found)),
        reading.problems.count,
        reading.notes,
    )


def _boxes(labels: Labels) -> Iterator[Finding]:
    if not len(labels):
        yield Finding("no_boxes", "error", 1, "there is no box at all; check that the right files were read")
        return
    sizes = np.array([(image.width, image.height) for image in labels.images], np.float64)[labels.image]
    over = np.maximum(-labels.boxes[:, :2], labels.boxes[:, 2:] - sizes).max(axis=1)
    beyond = ((labels.boxes[:, :2] >= sizes) | (labels.boxes[:, 2:] <= 0)).any(axis=1)
    if labels.points:
        beyond = ((labels.boxes[:, :2] >= sizes) | (labels.boxes[:, :2] < 0)).any(axis=1)
    yield from _found(labels, beyond, "outside", "error", "lie outside their image; check coordinates and image size")
    partly = (over > _TOLERANCE) & ~beyond
    message = "extend beyond their image by more than a pixel; clip them, or check the image size"
    yield from _found(labels, partly, "beyond_edge", "warning", message)
    if not labels.points:
        empty = (labels.boxes[:, 2:] <= labels.boxes[:, :2]).any(axis=1)
        yield from _found(labels, empty, "zero_area", "error", "have no area; remove them")
        thin = (labels.boxes[:, 2:] - labels.boxes[:, :2] < 1).any(axis=1) & ~empty
        message = "are less than a pixel wide or high; check their units, or remove them"
        yield from _found(labels, thin, "thin", "warning", message)
        no_area = (labels.area == 0) & ~empty
        message = "have the area 0 in the file but a box with an area; COCO's size classes use that area"
        yield from _found(labels, no_area, "wrong_area", "warning", message)
    exact, near = duplicates(labels)
    yield from _found(labels, exact, "duplicates", "error", "repeat a box of the same class and place; remove them")
    message = f"overlap a box of their class with an IoU of {_SAME_OBJECT} or more; likely labelled twice"
    yield from _found(labels, near, "near_duplicates", "warning", message)


def _found(labels: Labels, wrong: Any, kind: str, level: str, message: str) -> Iterator[Finding]:
    rows = np.flatnonzero(wrong)
    if len(rows):
        what = "points" if labels.points else "boxes"
        text = f"{len(rows):,} {what if len(rows) > 1 else what[:-1] if labels.points else 'box'} {message}"
        yield Finding(
            kind, "error" if level == "error" else "warning", len(rows), text, box_examples(labels, rows.tolist())
        )


def duplicates(labels: Labels) -> tuple[BoolArray, BoolArray]:
    """(N,) bool each: boxes that repeat an earlier one exactly, and others that nearly do."""
    exact = np.zeros(len(labels), np.bool_)
    columns = np.column_stack([labels.image, labels.labels, np.round(labels.boxes, 3)])
    _, first = np.unique(columns, axis=0, return_index=True)
    exact[:] = True
    exact[first] = False
    near = np.zeros(len(labels), np.bool_)
    if labels.points:
        return exact, near
    for rows in labels.by_image():
        kept = rows[~exact[rows] & ~labels.crowd[rows]]
        near[kept[_repeats(labels.boxes[kept], labels.labels[kept].astype(np.int64))]] = True
    return exact, near


def _repeats(boxes: FloatArray, classes: IntArray) -> IntArray:
    """Positions of boxes that overlap an earlier one of their class almost completely."""
    x0, y0, x1, y1 = boxes.T
    shapes = shapely.box(x0, y0, x1, y1)
    a, b = shapely.STRtree(shapes).query(shapes)
    pairs = (a > b) & (classes[a] == classes[b])
    a, b = a[pairs], b[pairs]
    corner, end = np.maximum(boxes[a, :2], boxes[b, :2]), np.minimum(boxes[a, 2:], boxes[b, 2:])
    shared = np.maximum(end - corner, 0).prod(axis=1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    union = area[a] + area[b] - shared
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.unique(a[shared / union >= _SAME_OBJECT]).astype(np.int64)


def _have(count: int) -> str:
    return f"{count} class has" if count == 1 else f"{count} classes have"


def _classes(labels: Labels) -> Iterator[Finding]:
    counts = class_counts(labels)
    if not counts:
        return
    most = max(counts.values())
    if unused := [name for name, count in counts.items() if count == 0]:
        yield Finding(
            "unused_classes",
            "warning",
            len(unused),
            f"{_have(len(unused))} no box, of {len(counts)}",
            names(unused),
        )
    if rare := [name for name, count in counts.items() if 0 < count < _MIN_BOXES]:
        message = f"{_have(len(rare))} fewer than {_MIN_BOXES} boxes: too few to learn or to measure"
        yield Finding("rare_classes", "warning", len(rare), message, names(f"{name}: {counts[name]}" for name in rare))
    if uneven := [name for name, count in counts.items() if 0 < count * _MAX_RATIO < most]:
        message = f"{_have(len(uneven))} less than a {_MAX_RATIO}th of the boxes of the most frequent one"
        yield Finding("imbalance", "warning", len(uneven), message, names(f"{name}: {counts[name]}" for name in uneven))


def _images(labels: Labels, *, open_images: bool) -> Iterator[Finding]:
    local = [image for image in labels.images if image.uri and not is_remote(image.uri)]
    missing = [image.uri for image in local if not is_file(Path(image.uri))]
    if missing:
        message = f"{len(missing):,} of {len(labels.images):,} images are missing; give their folder with --images"
        yield Finding("missing_images", "error", len(missing), message, names(missing))
    if not open_images:
        return
    wrong, broken, turned = list[str](), list[str](), list[str]()
    absent = set(missing)
    for image in local:
        if image.uri in absent:
            continue
        try:
            _compare(image, wrong, turned)
        except GeosodError as error:
            broken.append(str(error))
    if wrong:
        yield Finding(
            "image_size",
            "error",
            len(wrong),
            f"{len(wrong):,} {'image has' if len(wrong) == 1 else 'images have'} another size than the labels say",
            names(wrong),
        )
    if broken:
        yield Finding("broken_images", "error", len(broken), f"{len(broken):,} images cannot be opened", names(broken))
    if turned:
        yield Finding("orientation", "warning", len(turned), about_turned(len(turned)), names(turned))


def about_turned(count: int) -> str:
    """What to say of images whose metadata ask viewers to rotate them."""
    return (
        f"{count:,} {'image is' if count == 1 else 'images are'} tagged to be shown rotated or mirrored; geosod takes "
        "pixels as they are stored, so check that the boxes were not drawn on the rotated image"
    )


def _compare(image: LabelledImage, wrong: list[str], turned: list[str]) -> None:
    scene = scene_of(image)
    if (scene.width, scene.height) != (image.width, image.height):
        wrong.append(f"{image.uri}: {scene.width} x {scene.height}, labels say {image.width} x {image.height}")
    if shown_turned(scene):
        turned.append(image.uri)
