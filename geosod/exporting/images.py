"""COCO and YOLO: boxes in pixels, image by image, with the writers of labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geosod.datasets.contract import Images, Target
from geosod.datasets.formats.coco import coco_annotations, coco_document
from geosod.datasets.formats.yolo import write_yolo
from geosod.datasets.labels import LabelledImage, Labels
from geosod.datasets.write_files import write_json
from geosod.deduplication.reading import read_batches, reading
from geosod.deduplication.sources import SceneSource
from geosod.exporting.rows import Selection, class_names

_SIDES = ("px_xmin", "px_ymin", "px_xmax", "px_ymax")


def empty_labels(scenes: Sequence[SceneSource]) -> Labels:
    """The images and classes of scenes, without boxes.

    Raises:
        UnreadableSceneError: the metadata of a scene is incomplete.
    """
    above: dict[str, str] = {}
    images = []
    for number, scene in enumerate(scenes, 1):
        with reading(scene):
            own = scene.metadata
            # Class names are repeated where several got one name.
            for name, group in zip(own["classes"], own.get("supercategories") or (), strict=False):
                above.setdefault(name, group)
            images.append(_image(scene, number))
    classes = class_names(scenes)
    return Labels.empty(images, classes).with_columns(supercategories=tuple(above.get(name, "") for name in classes))


def _image(scene: SceneSource, number: int) -> LabelledImage:
    own = scene.metadata
    scale, gsd = own.get("scale") or (1.0, 1.0), own.get("gsd")
    return LabelledImage(
        scene.id,
        str(own.get("source") or scene.uri),
        int(own["width"]),
        int(own["height"]),
        number,
        None if gsd is None else (float(gsd * scale[0]), float(gsd * scale[1])),
    )


def _batches(scene: SceneSource, index: int, labels: Labels, chosen: Selection) -> Iterator[tuple[Labels, pa.Table]]:
    """The chosen boxes of a scene as labels of image `index`, and their rows."""
    names = pa.array(labels.classes, pa.string())
    for table in read_batches(scene.detections, scene):
        rows = chosen.of(table)
        with reading(scene):
            label = pc.index_in(rows["label"], value_set=names)
            if label.null_count:
                raise ValueError("has labels that are none of its classes; detect it again")
            boxes = np.column_stack([rows[name].to_numpy() for name in _SIDES])
        yield (
            labels.with_columns(
                image=np.full(len(rows), index),
                boxes=boxes,
                labels=label.to_numpy(),
                crowd=None,
                ignore=None,
                truncated=rows["truncated"].to_numpy(zero_copy_only=False),
                area=None,
                ids=None,
            ),
            rows,
        )


def write_coco(scenes: Sequence[SceneSource], chosen: Selection, target: Target) -> int:
    """Write a COCO file whose annotations have a ``score``; the number of boxes.

    Raises:
        UnreadableSceneError: a scene cannot be read.
    """
    whole, count = empty_labels(scenes), 0

    def annotations() -> Iterator[dict[str, Any]]:
        nonlocal count
        for index, scene in enumerate(scenes):
            for labels, rows in _batches(scene, index, whole, chosen):
                scores, ids = rows["score"].to_numpy(), rows["detection_id"].to_pylist()
                found = coco_annotations(
                    labels.with_columns(ids=np.arange(count + 1, count + 1 + len(labels))),
                    lambda k, _, scores=scores, ids=ids: {  # type: ignore[misc]
                        "score": float(str(scores[k])),
                        "detection_id": ids[k],
                    },
                )
                yield from found
                count += len(labels)

    write_json(target.path, coco_document(whole, target, annotations()))
    return count


def write_yolo_folder(scenes: Sequence[SceneSource], chosen: Selection, target: Target, images: Images | None) -> int:
    """Write a YOLO folder, scene by scene; the number of boxes.

    Args:
        scenes: the scenes.
        chosen: which boxes.
        target: the folder.
        images: what becomes of the images; None links them if all are local files.

    Raises:
        LabelError: an image is missing.
        UnreadableSceneError: a scene cannot be read.
    """
    whole, count = empty_labels(scenes), 0
    if images is None:
        images = "link" if all(Path(image.uri).is_file() for image in whole.images) else "none"
        if images == "none":
            target.notes.append("the images are not linked, since not all of them are local files")
    placed = Target(target.path, target.final, images, target.crs, target.notes)
    for index, scene in enumerate(scenes):
        parts = [labels for labels, _ in _batches(scene, index, whole, chosen)]
        boxes = sum(map(len, parts))
        one = whole.of_images([index])
        if boxes:
            columns = {
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in ("boxes", "labels", "truncated")
            }
            one = one.with_columns(image=np.zeros(boxes), crowd=None, ignore=None, area=None, ids=None, **columns)
        write_yolo(one, placed)
        count += boxes
    return count
