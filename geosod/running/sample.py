"""Tiles from all over some scenes, to measure or calibrate a model on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geosod.errors import ConfigError
from geosod.running.job import Job
from geosod.running.planning import plan_scene
from geosod.running.stages import read_spec, read_tiles
from geosod.scene import SceneRef, TileBatch
from geosod.scenes.sources import find_scenes


def sample_tiles(job: Job, scenes: Sequence[str], count: int) -> TileBatch:
    """Tiles with valid pixels, spread over scenes; always the same.

    Args:
        job: model and settings.
        scenes: as in `geosod.detect`.
        count: number of tiles; fewer where the scenes have no more.

    Raises:
        ConfigError: there are no scenes, or none of their tiles has a valid pixel.
        SceneError: a scene cannot be read.
        ModelError: the model is not made for a scene.
    """
    refs, missing = find_scenes(list(scenes), bands=job.config.bands, asset=job.config.asset)
    if missing or not refs:
        raise ConfigError(f"{missing[0].uri}: {missing[0].message}" if missing else f"no scenes in {', '.join(scenes)}")
    parts: list[TileBatch] = []
    for i, ref in enumerate(refs):
        wanted = (i + 1) * count // len(refs) - i * count // len(refs)
        parts += _tiles_of(job, ref, max(1, wanted))
    if not parts:
        raise ConfigError(f"no tile of {', '.join(scenes)} has a valid pixel")
    return TileBatch.concat(parts[:count])


def _tiles_of(job: Job, ref: SceneRef, count: int) -> list[TileBatch]:
    """Single tiles from units spread evenly over a scene."""
    plan = plan_scene(job, ref)
    level = plan.levels[0]
    units = [unit for unit in plan.units if unit.level == level.scale]
    # Tiles of the input's full size, also in small scenes.
    spec = read_spec(job, plan, level.scene, "compile", 1)
    found: list[TileBatch] = []
    chosen = [units[k] for k in np.unique(np.linspace(0, len(units) - 1, min(count, len(units))).astype(int))]
    for k, unit in enumerate(chosen):
        wanted = -(-(count - len(found)) // (len(chosen) - k))
        tiles = [item for item in read_tiles(level.scene, [unit], spec) if isinstance(item, TileBatch)]
        found += [tiles[j] for j in np.unique(np.linspace(0, len(tiles) - 1, min(wanted, len(tiles))).astype(int))]
    return found
