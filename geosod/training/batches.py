"""The batch of a step: images as the network's input, and their targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from geosod.detectors.resize import prepare
from geosod.errors import SceneError
from geosod.tile_size import STRIDE
from geosod.training.augment import Augmentation
from geosod.training.pixels import PixelReader, padded_batch
from geosod.training.samples import Sample
from geosod.training.shown import Shown, show, targets
from geosod.training.targets import Targets
from geosod.training.training_set import TrainingSet

#: Where no image of a batch can be read, those of so many steps later are shown, which no run reaches; so many tries.
_BEYOND, _TRIES = 1 << 32, 50


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one step trains on.

    Attributes:
        images: (B, C, H, W) float32, the network's input.
        targets: of each image.
        samples: where each is from.
        problems: (file, message) of images that could not be read, and were replaced by others.
    """

    images: Tensor
    targets: list[Targets]
    samples: list[Sample]
    problems: list[tuple[str, str]]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        targets = [
            Targets(*(None if part is None else part.to(device, non_blocking=True) for part in _parts(target)))  # type: ignore[arg-type]
            for target in self.targets
        ]
        return replace(self, images=self.images.to(device, non_blocking=True), targets=targets)


def _parts(target: Targets) -> tuple[Tensor | None, ...]:
    return target.boxes, target.labels, target.ignored, target.valid_range


class BatchMaker:
    """Makes the batch of a step.

    Args:
        data: the images.
        reader: of their pixels.
        choose: step → samples of the batch, or of a worker's share of it.
        augmentation: what is changed; None for nothing.
        min_visible: as `geosod.training.shown.show`.
        skip: whether images that cannot be read are replaced by others of the batch or, where there are none, of one
            that the run does not reach.
    """

    def __init__(
        self,
        data: TrainingSet,
        reader: PixelReader,
        choose: Callable[[int], list[Sample]],
        augmentation: Augmentation | None,
        *,
        min_visible: float,
        skip: bool = True,
    ) -> None:
        self._data, self._reader, self._choose = data, reader, choose
        self._augmentation, self._min_visible, self._skip = augmentation, min_visible, skip

    def __call__(self, step: int) -> Batch:
        """The batch of a step.

        Raises:
            SceneError: an image cannot be read, where it is not to be skipped, or none of many can.
        """
        problems: list[tuple[str, str]] = []
        for k in range(_TRIES):
            samples = self._choose(step + k * _BEYOND)
            kept, shown, error = self._read(samples, problems)
            if error is None or shown:
                break
        else:
            assert error is not None
            raise error
        # The batch keeps its size, so that the loss does.
        while len(shown) < len(samples):
            shown.append(shown[len(shown) % len(kept)])
        return self._batch(shown, kept, problems)

    def _read(
        self, samples: list[Sample], problems: list[tuple[str, str]]
    ) -> tuple[list[Sample], list[Shown], SceneError | None]:
        """The samples that can be read, what they show, and the last error; the others are added to `problems`."""
        shown: list[Shown] = []
        kept: list[Sample] = []
        last: SceneError | None = None
        for sample in samples:
            try:
                one = show(self._data, self._reader, sample, min_visible=self._min_visible)
                if self._augmentation is not None:
                    one = self._augmentation(one, np.random.default_rng(sample.seed))
            except SceneError as error:
                if not self._skip:
                    raise
                last = error
                problems.append((self._data.scenes[sample.image].ref.uri, str(error)))
                continue
            shown.append(one)
            kept.append(sample)
        return kept, shown, last

    def _batch(self, shown: list[Shown], samples: list[Sample], problems: list[tuple[str, str]]) -> Batch:
        card = self._data.card
        images = padded_batch([one.pixels.values for one in shown], fill=card.input.fill, multiple=STRIDE)
        fit = card.input.fit(images.shape[3], images.shape[2])
        ready = prepare(images, card.input, fit, whole=card.whole_values)
        return Batch(ready, [targets(one, fit) for one in shown], samples, problems)
