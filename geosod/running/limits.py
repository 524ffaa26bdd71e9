"""The pixel values of a scene that a model's network gets as 0 and 1."""

from __future__ import annotations

import math

from geosod.detectors.card import ModelCard
from geosod.errors import SceneError
from geosod.scene import Scene
from geosod.scenes.statistics import percentiles


def pixel_limits(card: ModelCard, scene: Scene, bands: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
    """The pixel values that are scaled to 0 and 1, for each of the 1-based `bands`.

    Raises:
        SceneError: the tags of the bands give no physical values.
        ReadError: nothing can be read, where the values are percentiles.
    """
    if card.scaling == "percentile":
        return percentiles(scene, bands, card.minimum, card.maximum)
    limits = tuple(zip(card.minimum, card.maximum, strict=True))
    if card.scaling == "stored" or not scene.scales:
        return limits
    tags = [(scene.scales[band - 1], scene.offsets[band - 1]) for band in bands]
    if any(scale == 0 or not math.isfinite(scale) or not math.isfinite(offset) for scale, offset in tags):
        raise SceneError(
            f"{scene.ref.uri}: bands {bands} are tagged with scales and offsets {tags}, which give no physical values; "
            "fix them (gdal_edit -scale -offset)"
        )
    return tuple(
        ((low - offset) / scale, (high - offset) / scale)
        for (low, high), (scale, offset) in zip(limits, tags, strict=True)
    )
