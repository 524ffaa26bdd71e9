"""Images of a track divided so that each is tested once, by a model that has not seen its ground."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.studies.study import Study
from geosod.datasets.class_map import rename_classes
from geosod.datasets.labels import Labels
from geosod.datasets.read import read_labels
from geosod.datasets.scale import write_scaled
from geosod.datasets.write import write_labels


def labels_of(study: Study, data: Path, scale: float, work: Path) -> Labels:
    """All labelled images of a study's track, resampled where the scale is not 1."""
    parts = [read_labels(data / study.track / f"{name}.json").labels for name in ("train", "val")]
    labels = Labels.concat(parts)
    if scale != 1:
        folder = work / f"{study.track}-{scale:g}"
        if not folder.exists():
            write_scaled(labels, folder, scale)
        labels = read_labels(folder / "labels.json").labels
    return rename_classes(labels, study.rename_classes) if study.rename_classes else labels


def fold_of(labels: Labels, same_ground: tuple[tuple[str, ...], ...], folds: int) -> np.ndarray:
    """(images,) int64, the fold in which each image is tested; folds get about as many boxes each.

    Groups of images with many boxes are dealt out first, each to the fold with the fewest boxes.
    """
    boxes = np.bincount(labels.image, minlength=len(labels.images))
    together = {name: group[0] for group in same_ground for name in group}
    groups: dict[str, list[int]] = {}
    for i, image in enumerate(labels.images):
        name = Path(image.id).stem
        groups.setdefault(together.get(name, name), []).append(i)
    count, fold = np.zeros(folds), np.zeros(len(labels.images), np.int64)
    for members in sorted(groups.values(), key=lambda members: (-boxes[members].sum(), members)):
        fold[members] = count.argmin()
        count[fold[members[0]]] += boxes[members].sum() + 1e-3
    return fold


@dataclass(frozen=True, slots=True)
class Fold:
    """Label files of a fold.

    Attributes:
        train: of the images to train on.
        test: of the images to test on.
        check: of the first of the images to train on. A training needs some for the threshold of its card, which no
            study uses.
    """

    train: Path
    test: Path
    check: Path


def write_folds(labels: Labels, fold: np.ndarray, folder: Path) -> list[Fold]:
    """The label files of all folds."""
    folder.mkdir(parents=True, exist_ok=True)
    folds = []
    for k in range(int(fold.max()) + 1):
        files = Fold(*(folder / f"{name}-{k}.json" for name in ("train", "test", "check")))
        first = np.arange(len(fold)) == np.flatnonzero(fold != k)[0]
        for path, chosen in ((files.train, fold != k), (files.test, fold == k), (files.check, first)):
            write_labels(labels.of_images(chosen), path, format="coco", overwrite=True)
        folds.append(files)
    return folds
