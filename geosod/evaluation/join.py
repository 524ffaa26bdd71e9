"""Labels and what was found in the same images, brought together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from geosod.arrays import FloatArray, IntArray
from geosod.datasets.class_map import order_classes
from geosod.datasets.labels import Labels
from geosod.detections import Detections
from geosod.errors import ConfigError
from geosod.evaluation.comparison import Comparison
from geosod.evaluation.found_scenes import FoundScene


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """What is compared, and what was left out.

    Attributes:
        comparison: labels and detections of the images that were both labelled and inspected. Labels on ground that
            was not inspected are ignored; detections there are left out.
        scenes: the result of each image of the comparison.
        notes: what a reader of the figures should know.
    """

    comparison: Comparison
    scenes: tuple[FoundScene, ...]
    notes: tuple[str, ...]


def join(labels: Labels, scenes: Sequence[FoundScene]) -> Joined:
    """Bring labels and results together.

    A scene belongs to the image of the same file, else to the only image whose name is its identifier. Classes belong
    together by name.

    Args:
        labels: labels, with classes named as those of the model.
        scenes: what was found.

    Raises:
        ConfigError: they have no image or no class in common, or an image has another size than its labels say.
    """
    pairs = _pairs(labels, scenes)
    if not pairs:
        raise ConfigError(
            f"none of {len(scenes)} scenes ({_some([scene.id for scene in scenes])}) is one of the "
            f"{len(labels.images)} labelled images ({_some([image.id for image in labels.images])}); they are joined "
            "by file, or by name"
        )
    kept = tuple(scene for _, scene in pairs)
    part = _with_ground(labels.of_images([i for i, _ in pairs]), kept)
    classes, notes = _classes(part, kept)
    part = _supercategories(order_classes(part, classes), kept)
    ignore, unseen = part.ignore.copy(), 0
    for scene, rows in zip(kept, part.by_image(), strict=True):
        apart = scene.uninspected(_centres(part.boxes[rows]))
        ignore[rows[apart]], unseen = True, unseen + int(apart.sum())
    found, image, dropped = _found(kept, classes)
    notes = [*_left_out(labels, scenes, pairs), *notes]
    if dropped:
        notes.append(f"{dropped:,} detections of classes that are not labelled are left out")
    if unseen:
        notes.append(f"{unseen:,} labels on ground that was not inspected count neither way")
    return Joined(Comparison(part.with_columns(ignore=ignore), found, image), kept, tuple(notes))


def _with_ground(labels: Labels, scenes: Sequence[FoundScene]) -> Labels:
    """With the true size of pixels of the scenes where the labels do not know it.

    Raises:
        ConfigError: a scene has another size than its labels say.
    """
    images = []
    for image, scene in zip(labels.images, scenes, strict=True):
        if (image.width, image.height) != (scene.width, scene.height):
            raise ConfigError(
                f"image {image.id}: its labels are of {image.width} x {image.height} pixels, but scene {scene.id!r} "
                f"has {scene.width} x {scene.height}; give the labels of the images that were searched"
            )
        images.append(replace(image, metres_per_pixel=image.metres_per_pixel or scene.pixel))
    return labels.with_columns(images=images)


def _found(scenes: Sequence[FoundScene], classes: Sequence[str]) -> tuple[Detections, IntArray, int]:
    """Detections of some classes on inspected ground, the image of each, and how many of other classes there were."""
    position, parts, image, dropped = {name: k for k, name in enumerate(classes)}, [], [], 0
    for i, scene in enumerate(scenes):
        target = np.array([position.get(name, -1) for name in scene.classes], np.int32)
        label = target[scene.found.labels] if len(scene.found) else scene.found.labels
        wanted = np.flatnonzero((label >= 0) & ~scene.uninspected(_centres(scene.found.boxes)))
        dropped += int((label < 0).sum())
        parts.append(_relabelled(scene.found, wanted, label))
        image.append(np.full(len(wanted), i, np.int64))
    return Detections.concat(parts), np.concatenate([*image, np.zeros(0, np.int64)]), dropped


def _pairs(labels: Labels, scenes: Sequence[FoundScene]) -> list[tuple[int, FoundScene]]:
    """Index of the image of each scene that has one, in the order of the images."""
    by_file = {os.path.realpath(image.uri): i for i, image in enumerate(labels.images) if image.uri}
    by_name: dict[str, list[int]] = {}
    for i, image in enumerate(labels.images):
        by_name.setdefault(image.id.rsplit("/", 1)[-1], []).append(i)
    pairs: dict[int, FoundScene] = {}
    for scene in scenes:
        named = by_name.get(scene.id, [])
        i = by_file.get(os.path.realpath(scene.uri), named[0] if len(named) == 1 else -1)
        if i < 0:
            continue
        if i in pairs:
            raise ConfigError(
                f"image {labels.images[i].id} was searched twice, as scene {pairs[i].id!r} and as {scene.id!r}; give "
                "one result of each image"
            )
        pairs[i] = scene
    return sorted(pairs.items(), key=lambda pair: pair[0])


def _left_out(labels: Labels, scenes: Sequence[FoundScene], pairs: list[tuple[int, FoundScene]]) -> list[str]:
    notes = []
    if missing := [image.id for i, image in enumerate(labels.images) if i not in {i for i, _ in pairs}]:
        notes.append(
            f"{len(missing):,} of {len(labels.images):,} labelled images were not searched and count neither way: "
            f"{_some(missing)}"
        )
    used = {id(scene) for _, scene in pairs}
    if extra := [scene.id for scene in scenes if id(scene) not in used]:
        notes.append(f"{len(extra):,} scenes without labels are left out: {_some(extra)}")
    return notes


def _classes(labels: Labels, scenes: Sequence[FoundScene]) -> tuple[list[str], list[str]]:
    """Classes that are compared, those of the labels; and notes."""
    reported = list(dict.fromkeys(name for scene in scenes for name in scene.classes))
    used = [labels.classes[k] for k in np.unique(labels.labels[labels.labels >= 0])]
    common = [name for name in used if name in reported]
    if used and not common:
        hint = f"--class-map {used[0]}={reported[0]}" if reported else "another model"
        raise ConfigError(
            f"labels and detections have no class in common: the labels have {_some(used)}, the detections "
            f"{_some(reported)}; join them with {hint}"
        )
    notes = []
    if never := [name for name in used if name not in reported]:
        notes.append(f"classes that the model does not report count as missed: {_some(never)}")
    return used or [name for name in labels.classes if name in reported], notes


def _supercategories(labels: Labels, scenes: Sequence[FoundScene]) -> Labels:
    """With the supercategories of the model where the labels have none."""
    if any(labels.supercategories):
        return labels
    known = {name: above for scene in scenes for name, above in zip(scene.classes, scene.supercategories, strict=False)}
    return labels.with_columns(supercategories=[known.get(name, "") for name in labels.classes])


def _relabelled(found: Detections, rows: IntArray, label: np.ndarray[tuple[int], np.dtype[np.int32]]) -> Detections:
    part = found[rows]
    return Detections(
        boxes=part.boxes,
        scores=part.scores,
        labels=label[rows],
        truncated=part.truncated,
        fragment=part.fragment,
        n_merged=part.n_merged,
        level=part.level,
    )


def _centres(boxes: FloatArray) -> FloatArray:
    return np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def above_threshold(comparison: Comparison, threshold: float | dict[str, float]) -> Comparison:
    """The comparison without detections below a threshold, of all classes or of each.

    Args:
        comparison: labels and detections.
        threshold: a number, or class → number, with "default" for the others; those without one keep all.

    Raises:
        ConfigError: a class is not in the labels.
    """
    names = comparison.truth.classes
    by_class = threshold if isinstance(threshold, dict) else {"default": threshold}
    if unknown := [name for name in by_class if name not in (*names, "default")]:
        raise ConfigError(f"threshold of {unknown[0]!r}: there is no such class; there are {', '.join(names)}")
    low = np.array([by_class.get(name, by_class.get("default", 0.0)) for name in names])
    kept = np.flatnonzero(comparison.found.scores >= low[comparison.found.labels])
    return replace(comparison, found=comparison.found[kept], image=comparison.image[kept])
