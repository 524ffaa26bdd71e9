"""The criterion of each network of the zoo."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from geosod.detectors.zoo import ARCHITECTURES
from geosod.errors import ConfigError
from geosod.training.criterion import Criterion

#: Architecture → "module:class" of a `Criterion`, built with the network and keywords.
CRITERIA = {
    "retinanet": "geosod.training.anchor_criterion:AnchorCriterion",
    "fcos": "geosod.training.point_criterion:PointCriterion",
    "faster-rcnn": "geosod.training.two_stage_criterion:TwoStageCriterion",
    "ssd": "geosod.training.anchor_criterion:AnchorCriterion",
    "centre": "geosod.training.heat_criterion:HeatCriterion",
    "small-fpn": "geosod.training.heat_criterion:HeatCriterion",
    "centre-unet": "geosod.training.heat_criterion:HeatCriterion",
}


def criterion_of(network: Any, **options: Any) -> Criterion:
    """The criterion that a network is trained with.

    Args:
        network: of the zoo.
        options: keywords of the criterion's class.

    Raises:
        ConfigError: there is none for this network, or it refuses an option.
    """
    name = architecture_of(network)
    if name not in CRITERIA:
        raise ConfigError(f"no criterion for {name or type(network).__name__}; there are for: {', '.join(CRITERIA)}")
    module, kind = CRITERIA[name].split(":")
    try:
        made: Criterion = getattr(import_module(module), kind)(network, **options)
    except TypeError as error:
        raise ConfigError(f"criterion of {name}: {error}") from error
    return made


def architecture_of(network: Any) -> str:
    """The name of a network's class in the zoo; "" where it is not one of it."""
    place = f"{type(network).__module__}:{type(network).__qualname__}"
    return next((name for name, of in ARCHITECTURES.items() if of == place), "")
