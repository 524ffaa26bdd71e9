"""What models are measured and calibrated on: tiles of a user's scenes, drawn ones, or noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from geosod.scene import TileBatch, Window

if TYPE_CHECKING:
    from geosod.running.job import Job

#: Side and seed of the drawn scene.
_SIDE, _SEED = 4096, 11


class Sample(NamedTuple):
    """Tiles, and what they are in words."""

    tiles: TileBatch
    what: str


def sample_of(job: Job, scenes: Sequence[str], count: int) -> Sample:
    """Tiles of scenes; without scenes drawn ones for models of 8-bit pixels, bands repeated, else noise.

    Raises:
        UsageError: the scenes do not fit the model, or there are none.
        SceneError: a scene cannot be read.
    """
    if scenes:
        from geosod.running.sample import sample_tiles

        tiles = sample_tiles(job, scenes, count)
        return Sample(tiles, f"{len(tiles)} tiles of {', '.join(scenes)}")
    if job.model.card.whole_values:
        return Sample(_drawn(job, count), f"{count} tiles of a drawn scene")
    from geosod.detectors.measure import noise

    return Sample(noise(job.model.card, job.tile, count), f"{count} tiles of noise; give --scenes to compare boxes")


def _drawn(job: Job, count: int) -> TileBatch:
    from geosod.demo.layout import make_layout
    from geosod.demo.render import render

    width, height = job.tile
    layout = make_layout(max(_SIDE, width, height), _SEED)
    across, down = layout.size // width, layout.size // height
    # From the middle on: the edges of a drawn scene are nodata.
    order = sorted(
        range(across * down), key=lambda i: (abs(i % across - across // 2) + abs(i // across - down // 2), i)
    )
    bands = [i % 3 for i in range(len(job.model.card.bands))]
    pixels = []
    for k in range(count):
        i = order[k % len(order)]
        drawn, _ = render(layout, Window(i % across * width, i // across * height, width, height))
        pixels.append(drawn[bands])
    window = np.tile(np.array([[0, 0, width, height]], np.int64), (count, 1))
    return TileBatch(np.stack(pixels), window, None, window[:, 2:].copy())
