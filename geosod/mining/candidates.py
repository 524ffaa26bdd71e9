"""Crops of scenes that may be worth labelling, gathered scene by scene; the best of them are kept."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from geosod.arrays import FloatArray
from geosod.datasets.labels import Labels
from geosod.detections import Detections
from geosod.detectors.classes import ClassRules
from geosod.merging.merge import merge
from geosod.mining.doubt import MOST, entropy, relative_scores
from geosod.output.scene_outputs import SceneOutputs
from geosod.scene import Scene, Window
from geosod.storage.uris import is_remote
from geosod.tile_size import TileSize
from geosod.tiling.grid import Grid, make_grid

#: Candidates that are kept for each crop that is asked for: in all, and of one scene.
_KEPT, _KEPT_OF_SCENE = 20, 5
#: A crop of which more is labelled already is no candidate.
_MAX_LABELLED = 0.5
#: Detections of which a better one covers this share count once.
_MAX_SHARED = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A crop.

    Attributes:
        scene: that it is a part of.
        window: scene frame.
        worth: its uncertainty in bits, or for negatives the confidence of its detections.
        found: detections of which it shows a part, scene frame.
    """

    scene: Scene
    window: Window
    worth: float
    found: Detections

    @property
    def order(self) -> tuple[float, str, int, int]:
        """The best first; crops of equal worth by scene and position, whatever the order in which they came."""
        return (-self.worth, self.scene.id, self.window.row, self.window.col)


@dataclass(slots=True)
class Candidates:
    """Gathers crops.

    Attributes:
        crop: (width, height) in pixels.
        count: crops that will be chosen.
        rules: thresholds of the model's classes.
        negatives: whether the worth of a crop is the confidence of its detections, not its uncertainty.
        labelled: ground that is labelled already.
        left_out: number of crops that were no candidates since they are labelled already.
    """

    crop: TileSize
    count: int
    rules: ClassRules
    negatives: bool
    labelled: Labelled
    left_out: int = 0
    _kept: list[Candidate] = field(default_factory=list)

    def take(self, outputs: SceneOutputs) -> None:
        """Add the crops of a scene that hold detections."""
        scene, found = outputs.scene, outputs.detections
        if not len(found):
            return
        grid = make_grid(scene.width, scene.height, tile=self.crop, overlap=0)
        # A box of a part of an object, beside one of all of it, is no doubt of its own.
        alone = merge(found, method="nms", metric="ios", threshold=_MAX_SHARED, class_agnostic=True)
        worth = self._worth(alone, grid)
        best = np.argsort(-worth, kind="stable")[: _KEPT_OF_SCENE * self.count]
        labelled = self.labelled.of(scene)
        for k in best[worth[best] > 0].tolist():
            window = grid.window(*divmod(k, grid.cols))
            if _share(window, labelled) > _MAX_LABELLED:
                self.left_out += 1
                continue
            self._kept.append(Candidate(scene, window, float(worth[k]), _seen(found, window)))
        if len(self._kept) > _KEPT * self.count:
            self._kept = heapq.nsmallest(_KEPT * self.count, self._kept, key=lambda one: one.order)

    def best(self) -> list[Candidate]:
        """The candidates, the best first."""
        return sorted(self._kept, key=lambda one: one.order)

    def _worth(self, found: Detections, grid: Grid) -> FloatArray:
        """(crops,) in reading order. A detection counts in the crop in which its centre lies, so in one."""
        centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
        col, row = (
            np.clip(np.searchsorted(starts, centres[:, axis], side="right") - 1, 0, len(starts) - 1)
            for axis, starts in enumerate((grid.x_starts, grid.y_starts))
        )
        place = row * grid.cols + col
        relative = relative_scores(found.scores, np.array(self.rules.thresholds)[found.labels])
        worth = np.zeros(grid.rows * grid.cols)
        if self.negatives:
            np.maximum.at(worth, place, relative)
            return worth
        bits = entropy(relative)
        order = np.lexsort((-bits, place))
        place, bits = place[order], bits[order]
        # The rank of each among those of its crop.
        rank = np.arange(len(place)) - np.searchsorted(place, place)
        np.add.at(worth, place[rank < MOST], bits[rank < MOST])
        return worth


@dataclass(frozen=True, slots=True)
class Labelled:
    """Ground that is labelled already.

    Attributes:
        whole: files of which all is.
        parts: identifier of a scene → windows of it.
    """

    whole: frozenset[Path] = frozenset()
    parts: dict[str, list[Window]] = field(default_factory=dict)

    @classmethod
    def in_labels(cls, labels: Labels | None) -> Labelled:
        """What the images of labels show."""
        whole, parts = set(), dict[str, list[Window]]()
        for image in () if labels is None else labels.images:
            if image.scene:
                window = Window(*image.offset, image.width, image.height)
                parts.setdefault(image.scene, []).append(window)
            elif image.uri and not is_remote(image.uri):
                whole.add(Path(image.uri).resolve())
        return cls(frozenset(whole), parts)

    def of(self, scene: Scene) -> Sequence[Window]:
        """Windows of a scene."""
        uri = scene.ref.uri
        if not is_remote(uri) and Path(uri).resolve() in self.whole:
            return [scene.window]
        return self.parts.get(scene.id, [])


def _share(window: Window, labelled: Sequence[Window]) -> float:
    """The largest share of a window that one of others covers."""
    shared = (window.intersection(other) for other in labelled)
    return max((one.width * one.height / (window.width * window.height) for one in shared if one), default=0.0)


def _seen(found: Detections, window: Window) -> Detections:
    """Detections of which a window shows a part."""
    low, high = found.boxes[:, :2], found.boxes[:, 2:]
    inside = (low < [window.right, window.bottom]).all(axis=1) & (high > [window.col, window.row]).all(axis=1)
    return found[np.flatnonzero(inside)]
