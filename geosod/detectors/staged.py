"""Staged detection: a classifier looks at every detection once more, enlarged and with its surroundings.

The detector says where something is; the classifier, trained on crops, says what it is. Crops are cut and resized on
the device, all of a batch of tiles in one operation, before boxes of different tiles are merged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from geosod.detectors.card import CLASSIFICATION, ModelCard
from geosod.detectors.classes import ClassRules
from geosod.detectors.detector import Detector
from geosod.detectors.operators import roi_align
from geosod.detectors.postprocess import BatchDetections
from geosod.detectors.radiometry import scaled_tiles
from geosod.detectors.resize import prepare
from geosod.errors import ModelError
from geosod.scene import TileBatch

#: Crops in one forward pass, always so many, so that a crop's numbers do not depend on how many others there are.
CROPS = 32
#: Share of a box's width and height that a crop shows on each side of it, where the card does not say.
CONTEXT = 0.25


@runtime_checkable
class CropAdapter(Protocol):
    """A classifier's network, ready to run."""

    def probabilities(self, crops: Tensor) -> Tensor:
        """The probability of every class.

        Args:
            crops: (CROPS, C, H, W) float32, as the card's `input` states.

        Returns:
            (CROPS, classes) float32, 0 to 1.
        """
        ...


class Crops:
    """Cuts crops of boxes out of tiles, with their surroundings, in the size that a classifier takes.

    Args:
        card: of the classifier: the size and the bands of its crops, and how much of the surroundings they show.
        bands: of the tiles.

    Raises:
        ModelError: the crops have no size.
    """

    def __init__(self, card: ModelCard, bands: tuple[str, ...]) -> None:
        self._bands = [bands.index(band) for band in card.bands]
        self.size = crop_size(card)
        # Crops are cut at this size, so that nothing is left to resize.
        self._input = replace(card.input, size=self.size)
        self.context = float(card.parameters.get("context", CONTEXT))

    def regions(self, boxes: Tensor, tile: Tensor) -> Tensor:
        """(M, 5) index of the tile and corners of each crop: the box with its surroundings, in the input's shape.

        Args:
            boxes: (M, 4) in pixels of their tile.
            tile: (M,) index of each box's tile.
        """
        width, height = self.size
        centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * (1 + 2 * self.context)
        ratio = width / height
        wide = torch.maximum(size[:, 0], size[:, 1] * ratio)
        half = torch.stack([wide, wide / ratio], dim=1) / 2
        return torch.cat([tile[:, None].to(boxes.dtype), centre - half, centre + half], dim=1)

    def cut(self, tiles: Tensor, regions: Tensor) -> Tensor:
        """(M, C, h, w) regions of tiles (B, bands, H, W), 0 to 1, resized; outside of a tile the card's fill value."""
        width, height = self.size
        fill = self._input.fill
        # Outside of the image the operation gives 0.
        cut = roi_align(tiles[:, self._bands] - fill, regions.to(tiles.dtype), (height, width), 1.0, samples=-1)
        return torch.as_tensor(cut + fill)

    def ready(self, crops: Tensor) -> Tensor:
        """Crops as the classifier's network gets them, with the scale, mean and deviation that its card states."""
        return prepare(crops, self._input, self._input.fit(*self.size), whole=False)


class Classifier:
    """Says what detections are.

    Args:
        card: of the classifier; `card.input.size` is the size of its crops.
        adapter: its network.
        bands: of the detector, whose tiles crops are cut from.

    Raises:
        ModelError: it is no classifier, its crops have no size, or it takes a band that the detector does not.
    """

    def __init__(self, card: ModelCard, adapter: CropAdapter, bands: tuple[str, ...]) -> None:
        self.card, self._adapter = card, adapter
        self.crops = Crops(card, bands)

    def classify(self, tiles: Tensor, boxes: Tensor, tile: Tensor) -> tuple[Tensor, Tensor]:
        """The most probable class of each box, and its probability.

        Args:
            tiles: (B, C, H, W) float32, the detector's bands, 0 to 1.
            boxes: (M, 4) in pixels of their tile.
            tile: (M,) index of each box's tile.

        Returns:
            (M,) int64 and (M,) float32.
        """
        parts = [self._chunk(tiles, rois) for rois in torch.split(self.crops.regions(boxes, tile), CROPS)]
        if not parts:
            return torch.zeros(0, dtype=torch.int64), torch.zeros(0)
        best, labels = torch.cat(parts).max(dim=1)
        return labels, best

    def _chunk(self, tiles: Tensor, regions: Tensor) -> Tensor:
        crops = self.crops.cut(tiles, regions)
        padded = crops.new_zeros((CROPS, *crops.shape[1:]))
        padded[: len(crops)] = crops
        found = self._adapter.probabilities(self.crops.ready(padded))
        if found.shape != (CROPS, len(self.card.classes)):
            raise ModelError(
                f"classifier {self.card.name!r}: the network returned {tuple(found.shape)} for {CROPS} crops; its card "
                f"has {len(self.card.classes)} classes"
            )
        return found[: len(regions)].float()


def crop_size(card: ModelCard) -> tuple[int, int]:
    """(width, height) of a classifier's crops."""
    return card.input.size or card.tile_size


def check_classifier(card: ModelCard, detector: ModelCard) -> None:
    """Refuse a classifier that cannot look at a detector's tiles.

    Raises:
        ModelError: it is none, or takes other bands or values.
    """
    name = card.name
    if card.task != CLASSIFICATION:
        raise ModelError(f"classifier {name!r}: is a model for {card.task}; give a classifier")
    if missing := [band for band in card.bands if band not in detector.bands]:
        raise ModelError(
            f"classifier {name!r}: takes the bands {', '.join(missing)}, which {detector.name!r} does not read; it has "
            f"{', '.join(detector.bands)}"
        )
    same = ("dtype", "scaling", "gamma")
    limits = dict(zip(detector.bands, zip(detector.minimum, detector.maximum, strict=True), strict=True))
    own = dict(zip(card.bands, zip(card.minimum, card.maximum, strict=True), strict=True))
    if any(getattr(card, key) != getattr(detector, key) for key in same) or any(own[b] != limits[b] for b in own):
        raise ModelError(
            f"classifier {name!r}: scales pixel values otherwise than {detector.name!r}; pack it with the same "
            "--dtype, --minimum and --maximum, and with --scale, --mean and --std for what the network expects"
        )


def staged_card(detector: ModelCard, classifier: ModelCard) -> ModelCard:
    """The card of a detector and a classifier together: where it looks is the detector's, what it says the other's."""
    accuracy = {"detector": detector.accuracy, "classifier": classifier.accuracy}
    return replace(
        detector,
        name=f"{detector.name}+{classifier.name}",
        classes=classifier.classes,
        unreported=classifier.unreported,
        supercategories=classifier.supercategories,
        threshold=classifier.threshold,
        class_thresholds=classifier.class_thresholds,
        # Views of one object in two tiles may be given different names.
        class_agnostic=True,
        accuracy={key: value for key, value in accuracy.items() if value},
        description=" ".join(text for text in (detector.description, classifier.description) if text),
    )


class StagedDetector(Detector):
    """A detector whose detections a classifier names.

    A score is the detector's times the probability of the class. Which classes are reported, and from which score, is
    the classifier's card's to say; the detector's own threshold decides what the classifier is shown. What is not
    reported is dropped before boxes of different tiles are merged.

    Attributes:
        first: the detector.
        classifier: the classifier.
    """

    def __init__(self, first: Detector, classifier: Classifier, *, rules: ClassRules | None = None) -> None:
        self.first, self.classifier = first, classifier
        super().__init__(staged_card(first.card, classifier.card), first.adapter, first.execution, rules=rules)

    def with_rules(self, rules: ClassRules) -> Detector:
        """The same networks with other rules for the classifier's classes."""
        return self if rules == self.rules else StagedDetector(self.first, self.classifier, rules=rules)

    def with_half_the_batch(self) -> Detector | None:
        """The same with half as many tiles at once in the first stage."""
        first = self.first.with_half_the_batch()
        return None if first is None else StagedDetector(first, self.classifier, rules=self.rules)

    def _check_min_score(self) -> None:
        """Scores are lower than those of the first stage."""

    def _forward(self, batch: TileBatch) -> BatchDetections:
        found = self.first._forward(batch)
        if not len(found.detections):
            return found
        tiles = scaled_tiles(batch, self.first.card, size=len(batch), device=self._device)
        tile = np.repeat(np.arange(len(batch)), found.counts)
        corners = np.tile(batch.windows[:, :2], 2)[tile]
        boxes = torch.from_numpy(found.detections.boxes - corners).to(tiles.device)
        labels, probabilities = self.classifier.classify(tiles, boxes, torch.from_numpy(tile).to(tiles.device))
        named = labels.cpu().numpy()
        scores = found.detections.scores * probabilities.cpu().numpy()
        reported = np.array(self.rules.labels, np.int32)[named]
        kept = np.flatnonzero((reported >= 0) & (scores >= np.array(self.rules.thresholds, np.float32)[named]))
        detections = found.detections.with_columns(labels=reported, scores=scores.astype(np.float32))[kept]
        return replace(found, detections=detections, counts=np.bincount(tile[kept], minlength=len(batch)))
