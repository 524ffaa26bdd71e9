"""Networks of geosod's own, by the name of their architecture."""

from __future__ import annotations

from geosod.detectors.adapters import BACKENDS
from geosod.errors import ModelError

#: Architecture as a card names it → "module:class" of a torch module that is a `geosod.detectors.adapters.zoo.Network`,
#: built with keywords bands, classes and the card's parameters.
ARCHITECTURES = {
    "small-fpn": "geosod.detectors.zoo.fpn:SmallFPN",
    "centre-unet": "geosod.detectors.zoo.unet:CentreUNet",
    "retinanet": "geosod.detectors.zoo.retinanet:RetinaNet",
    "fcos": "geosod.detectors.zoo.fcos:FCOS",
    "faster-rcnn": "geosod.detectors.zoo.faster_rcnn:FasterRCNN",
    "ssd": "geosod.detectors.zoo.ssd:SSD",
    "centre": "geosod.detectors.zoo.centre:Centre",
}

#: Architectures with prior boxes, whose `sizes` and `ratios` can be estimated from data.
WITH_PRIOR_BOXES = ("retinanet", "faster-rcnn")

#: Numbers of views of an image whose heat maps may be averaged, see `geosod.detectors.zoo.views`.
VIEWS = (1, 2, 4, 8)

#: The classifier of crops, which is no detector.
CLASSIFIER = "geosod.detectors.zoo.classifier:CropClassifier"

#: Architecture → values of `Execution.backend` with which it runs, where these are not all.
_BACKENDS: dict[str, tuple[str, ...]] = {"faster-rcnn": ("eager",)}


def backends_of(architecture: str) -> tuple[str, ...]:
    """Values of `Execution.backend` with which a network runs, the preferred one first."""
    return _BACKENDS.get(architecture, BACKENDS["zoo"])


def check_architecture(name: str, *, model: str) -> None:
    """Refuse an architecture that is not in the zoo.

    Raises:
        ModelError: it is not.
    """
    if name not in ARCHITECTURES:
        raise ModelError(f"model {model!r}: unknown architecture {name!r}; known are: {', '.join(ARCHITECTURES)}")
