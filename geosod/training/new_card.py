"""The card of a model to be: what its data and settings say, before it is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from geosod.datasets.labels import Labels
from geosod.detectors.card import ModelCard
from geosod.detectors.network_input import NetworkInput
from geosod.errors import ConfigError, GeosodError, LabelError
from geosod.scene import Scene
from geosod.scenes.bands import choose_bands
from geosod.training.config import TrainConfig
from geosod.training.training_set import open_image

_RGB = ("red", "green", "blue")
#: Percentiles that are scaled to 0 and 1 where nothing else is said.
_PERCENTILES = (2.0, 98.0)
#: GSDs at which a model may be run differ from those of its data by this ratio.
_GSD_MARGIN = 1.2
#: Overlaps hold this share of the objects, and are multiples of so many pixels.
_OVERLAP_SHARE, _OVERLAP_STEP = 0.99, 32


def first_card(
    labels: Labels, config: TrainConfig, *, architecture: str, parameters: dict[str, Any], **fields: Any
) -> ModelCard:
    """What a model will state, from the labels, the first image that opens, and the settings.

    Args:
        labels: to train on.
        config: the settings.
        architecture, parameters: of the network.
        fields: others of the card, which replace those of the data.

    Raises:
        LabelError: there is no class, or no image opens.
        ConfigError: a setting does not fit the images.
        ModelError: a value is out of range.
    """
    if not labels.classes:
        raise LabelError("the labels name no class, so there is nothing to learn; check them with geosod dataset check")
    scenes = _some_scenes(labels, config)
    first = scenes[0]
    names = band_names(first, config)
    scaling = config.scaling or ("stored" if first.dtype == "uint8" else "percentile")
    default = (0.0, 255.0) if scaling == "stored" and first.dtype == "uint8" else _PERCENTILES
    if scaling != "percentile" and default == _PERCENTILES and None in (config.minimum, config.maximum):
        raise ConfigError(
            f"scaling {scaling} of {first.dtype}: give --minimum and --maximum, the values that become 0 and 1"
        )
    gsd = _gsd(scenes)
    values: dict[str, Any] = {
        "name": config.name or "trained",
        "bands": names,
        "dtype": first.dtype,
        "minimum": _each("minimum", config.minimum, default[0], len(names)),
        "maximum": _each("maximum", config.maximum, default[1], len(names)),
        "scaling": scaling,
        "gamma": config.gamma,
        "classes": labels.classes,
        "supercategories": labels.supercategories if any(labels.supercategories) else (),
        "tile": config.tile,
        "overlap": config.overlap or usual_overlap(labels, config.tile),
        "threshold": 0.05,
        "gsd": gsd,
        "gsd_range": config.gsd_range or (None if gsd is None else (gsd / _GSD_MARGIN, gsd * _GSD_MARGIN)),
        "top_k": _top_k(labels, config),
        "license": config.license or "proprietary",
        "input": NetworkInput(),
    }
    return ModelCard(architecture=architecture, parameters=parameters, **values | fields)


def _some_scenes(labels: Labels, config: TrainConfig, count: int = 20) -> list[Scene]:
    """The first images that open, a few of them."""
    found: list[Scene] = []
    error: GeosodError = LabelError("the labels name no image")
    for image in labels.images:
        try:
            found.append(open_image(image, config))
        except GeosodError as problem:
            error = problem
        if len(found) == count:
            break
    if not found:
        raise LabelError(f"none of the {len(labels.images)} images can be opened: {error}") from error
    return found


def band_names(scene: Scene, config: TrainConfig) -> tuple[str, ...]:
    """What the model calls its bands: as the settings say, or as the image does.

    Raises:
        ConfigError: the settings name another number of bands than they read.
    """
    if isinstance(config.bands, dict):
        return tuple(config.bands)
    if config.bands is None:
        numbers = tuple(i for i in range(1, scene.count + 1) if i != scene.alpha)
        if config.band_names is not None:
            numbers = choose_bands(scene, config.band_names, None)
    else:
        numbers = choose_bands(scene, [str(k) for k, _ in enumerate(config.bands)], config.bands)
    if config.band_names is not None:
        if len(config.band_names) != len(numbers):
            raise ConfigError(f"band-names names {len(config.band_names)} bands, but bands chooses {len(numbers)}")
        return config.band_names
    named = [scene.band_names[number - 1].lower() for number in numbers]
    if all(named) and len(set(named)) == len(named):
        return tuple(named)
    return _RGB if len(numbers) == 3 else tuple(f"band{number}" for number in numbers)


def _each(name: str, given: tuple[float, ...] | None, default: float, bands: int) -> tuple[float, ...]:
    values = given or (default,)
    if len(values) not in (1, bands):
        raise ConfigError(f"{name} has {len(values)} values for {bands} bands; give one, or one for each")
    return values * bands if len(values) == 1 else values


def _gsd(scenes: Sequence[Scene]) -> float | None:
    known = [scene.gsd for scene in scenes if scene.gsd is not None]
    return None if not known else float(f"{float(np.median(known)):.3g}")


def usual_overlap(labels: Labels, tile: tuple[int, int]) -> tuple[int, int]:
    """An overlap that holds nearly all objects whole, at most a third of the tile; regions do not count."""
    boxes = labels.boxes[~labels.ignore & ~labels.crowd]
    sides = np.asarray(boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    longest = float(np.quantile(sides, _OVERLAP_SHARE)) if len(sides) else 0.0
    wanted = _OVERLAP_STEP * max(1, math.ceil((longest + 4) / _OVERLAP_STEP))
    return (min(wanted, tile[0] // 3), min(wanted, tile[1] // 3))


def _top_k(labels: Labels, config: TrainConfig) -> int:
    """Twice as many boxes as the densest part of an image that a tile shows, and 300 at least."""
    # At scales below 1 a tile shows more of the image.
    scale = min([1.0, *(float(level.scale) for level in config.levels or ())])
    sizes = np.array([(image.width, image.height) for image in labels.images], np.float64).reshape(-1, 2)
    centres = np.clip((labels.boxes[:, :2] + labels.boxes[:, 2:]) / 2, 0, sizes[labels.image])
    cells = np.column_stack([labels.image, centres // (np.array(config.tile) / scale)]).astype(np.int64)
    most = int(np.unique(cells, axis=0, return_counts=True)[1].max(initial=0))
    return min(20_000, max(300, 100 * math.ceil(2 * most / 100)))
