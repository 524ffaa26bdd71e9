"""Objects of other images, to be pasted into samples."""

from __future__ import annotations

import numpy as np

from geosod.errors import SceneError
from geosod.scene import Window
from geosod.training.augment import Donor
from geosod.training.config import TrainConfig
from geosod.training.pixels import PixelReader
from geosod.training.samples import Draw, Sample, object_weights
from geosod.training.shown import Shown, show
from geosod.training.training_set import TrainingSet

#: Pixels around a pasted object.
_MARGIN = 3


def object_donor(data: TrainingSet, reader: PixelReader, config: TrainConfig) -> Donor | None:
    """Draws objects, those of rare classes more often where the settings balance classes; None where there is none."""
    if not len(data.objects):
        return None
    draw = Draw(object_weights(data, data.objects, config.balance))

    def donor(rng: np.random.Generator, scale: float) -> Shown | None:
        row = int(data.objects[draw(rng)])
        image = int(data.labels.image[row])
        scene, box = data.scenes[image], data.labels.boxes[row]
        low = np.maximum(np.floor(box[:2]) - _MARGIN, 0).astype(int)
        high = np.minimum(np.ceil(box[2:]) + _MARGIN, [scene.width, scene.height]).astype(int)
        if (high - low < 2 * _MARGIN).any() or (high - low > config.tile).any():
            return None
        window = Window(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))
        size = (max(1, round(window.width * scale)), max(1, round(window.height * scale)))
        try:
            return show(data, reader, Sample(image, 1.0, window, size, ()), min_visible=config.min_visible)
        except SceneError:
            return None

    return donor
