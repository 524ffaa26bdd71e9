"""The labels of a training run, as its settings name them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geosod.datasets.class_map import order_classes, rename_classes
from geosod.datasets.labels import Labels
from geosod.datasets.problems import Problems
from geosod.datasets.read import read_labels
from geosod.datasets.split import split_labels
from geosod.errors import ConfigError, GeosodError
from geosod.training.config import TrainConfig
from geosod.training.training_set import as_boxes, one_class


@dataclass(frozen=True, slots=True, eq=False)
class RunLabels:
    """What is trained on, and what is validated on.

    Attributes:
        train, val: boxes of objects, with the same classes.
        problems: entries that were left out.
        notes: what a user should know.
    """

    train: Labels
    val: Labels
    problems: Problems
    notes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 of images, classes and boxes, but for where the images lie."""
        found = hashlib.sha256()
        for labels in (self.train, self.val):
            found.update(repr((labels.classes, [(i.id, i.width, i.height) for i in labels.images])).encode())
            for column in (labels.image, labels.boxes, labels.labels, labels.ignore, labels.crowd):
                found.update(np.ascontiguousarray(column).tobytes())
        return found.hexdigest()


def read_run_labels(config: TrainConfig) -> RunLabels:
    """Read the labels; without labels to validate on, a share of the images is held out.

    Raises:
        ConfigError: no labels are named, or a setting does not fit them.
        LabelError: they cannot be read.
    """
    if config.labels is None:
        raise ConfigError("no labels are given: name the file, or add `labels: FILE` to the configuration")
    problems, notes = Problems(), list[str]()
    train = _read(config, config.labels, config.subset, problems, notes)
    if config.val is None and config.val_subset is None:
        train, val = _held_out(_named(train, config, train.classes), config, notes)
    else:
        val = _read(config, config.val or config.labels, config.val_subset, problems, notes)
        known = (*train.classes, *val.classes)
        train, val = _named(train, config, known), _named(val, config, known)
        val = order_classes(val, train.classes, where=config.val or config.labels)
    return RunLabels(train, val, problems, tuple(dict.fromkeys(notes)))


def _read(config: TrainConfig, path: str, subset: str | None, problems: Problems, notes: list[str]) -> Labels:
    names: tuple[str, ...] = ("format", "images", "label_column", "points")
    options: dict[str, Any] = {name: getattr(config, name) for name in names}
    reading = read_labels(
        path,
        **options,
        scenes=config.scenes,
        subset=subset,
        classes=config.classes,
        crs=config.labels_crs,
        invalid="skip" if config.on_error == "skip" else "refuse",
    )
    for problem in reading.problems.found:
        problems.add(problem.file, problem.where, problem.message)
    problems.count += reading.problems.count - len(reading.problems.found)
    notes += reading.notes
    return as_boxes(reading.labels, config.box_size)


def _named(labels: Labels, config: TrainConfig, known: Sequence[str]) -> Labels:
    """With the names of classes that the settings give; `known` are those that may be renamed here or elsewhere."""
    # A class may be missing in one of two sets; a name that neither knows is a mistake.
    names = {old: new for old, new in config.rename_classes.items() if old in labels.classes or old not in known}
    labels = rename_classes(labels, names) if names else labels
    return one_class(labels) if config.class_agnostic else labels


def _held_out(labels: Labels, config: TrainConfig, notes: list[str]) -> tuple[Labels, Labels]:
    """A share of the images for validation; images of one place, or tiles of one scene, stay together."""
    parts = {"train": 1 - config.val_share, "val": config.val_share}
    try:
        found = split_labels(labels, parts, by="location", seed=config.seed)
        how = "so that none overlaps those trained on"
    except GeosodError:
        found = _by_scene(labels, parts, config.seed)
        how = "at random"
    notes.append(
        f"{len(found['val'].images)} of {len(labels.images)} images are held out to validate on, {how}; --val names "
        "others"
    )
    return found["train"], found["val"]


def _by_scene(labels: Labels, parts: dict[str, float], seed: int) -> dict[str, Labels]:
    try:
        return split_labels(labels, parts, by="scene", seed=seed)
    except ConfigError as error:
        few = {0: "no image", 1: "one image"}.get(len(labels.images), f"{len(labels.images)} tiles of one scene")
        raise ConfigError(
            f"nothing can be held out to validate on, since the labels are of {few}; give others with --val"
        ) from error
