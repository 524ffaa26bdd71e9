"""The criterion of each network of the zoo, and of those of other libraries."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from geosod.detectors.zoo import ARCHITECTURES, CLASSIFIER
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
    "classifier": "geosod.training.crop_criterion:CropCriterion",
}

#: Package of a network that is not of the zoo → "module:class", likewise.
LIBRARIES = {
    "torchvision": "geosod.training.library_criterion:TorchvisionCriterion",
    "transformers": "geosod.training.library_criterion:TransformersCriterion",
}


def criterion_of(network: Any, **options: Any) -> Criterion:
    """The criterion that a network is trained with.

    Args:
        network: of the zoo, or one of `LIBRARIES`.
        options: keywords of the criterion's class.

    Raises:
        ConfigError: there is none for this network, or it refuses an option.
    """
    name = architecture_of(network)
    known = CRITERIA | LIBRARIES
    if name not in known:
        raise ConfigError(f"no criterion for {name or type(network).__name__}; there are for: {', '.join(CRITERIA)}")
    module, kind = known[name].split(":")
    try:
        made: Criterion = getattr(import_module(module), kind)(network, **options)
    except TypeError as error:
        raise ConfigError(f"criterion of {name}: {error}") from error
    return made


def architecture_of(network: Any) -> str:
    """The name of a network's class in the zoo, or one of `LIBRARIES`; "" where it is neither."""
    place = f"{type(network).__module__}:{type(network).__qualname__}"
    if place == CLASSIFIER:
        return "classifier"
    library = place.partition(".")[0]
    return next((name for name, of in ARCHITECTURES.items() if of == place), library if library in LIBRARIES else "")
