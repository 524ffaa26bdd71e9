"""The members of the zoo by size, to choose from by name: what they are, before any training."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from geosod.detectors.zoo import ARCHITECTURES
from geosod.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Member:
    """A network with all its parameters, as a card states them.

    Attributes:
        name: by which it is chosen.
        architecture: in the registry of the zoo.
        parameters: of the network, besides bands and classes.
        options: of its criterion.
        upscale: factor by which tiles are enlarged before the network gets them, the `upscale` of a card's input.
        init: what training starts from, where there are public weights.
        use: when to take it, in a few words.
    """

    name: str
    architecture: str
    parameters: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    upscale: float = 1.0
    init: str | None = None
    use: str = ""


_LITE0 = {"backbone": "efficientnet-lite0", "norm": "batch"}
_ALIGNED: dict[str, Any] = {"quality": "varifocal"}
_LARGE = {"backbone": "resnet50", "channels": 256, "tower": 4, **_ALIGNED}

MEMBERS = {
    member.name: member
    for member in (
        Member(
            "points", "centre", {**_LITE0, "channels": 64, "stride": 4, "side": 12.0}, {"sigma": 3.0}, init="imagenet",
            use="objects labelled by points, or all of one size: trees, animals",
        ),
        Member(
            "tiny", "ssd", {**_LITE0, "maps": 3}, init="imagenet",
            use="the smallest and fastest; heads straight on the backbone's maps",
        ),
        Member(
            "S", "fcos", {**_LITE0, "channels": 64, "tower": 2, "head_norm": "none", **_ALIGNED},
            {"assigner": "task-aligned"}, init="imagenet", use="CPUs, many scenes",
        ),
        Member(
            "M", "fcos", {**_LITE0, "channels": 128, "tower": 3, **_ALIGNED}, {"assigner": "task-aligned"},
            init="imagenet", use="the first to try on a GPU",
        ),
        Member(
            "L", "fcos", _LARGE, {"assigner": "task-aligned"},
            use="much data and a GPU; give it ImageNet weights of your own, a state dict of torchvision's ResNet-50",
        ),
        Member(
            "XL", "fcos", _LARGE, {"assigner": "task-aligned"}, upscale=2.0,
            use="L on tiles enlarged twice: objects of fewer than about 12 px, where four times the time is no matter",
        ),
        Member(
            "two-stage", "faster-rcnn", {"backbone": "resnet50", "channels": 256}, {"sampler": "ohem"},
            use="image pyramids with SNIP; torch alone",
        ),
    )
}  # fmt: skip


def member(name: str) -> Member:
    """A member by its name.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in MEMBERS:
        raise ConfigError(f"no network {name!r} in the zoo; choose from {', '.join(MEMBERS)}")
    return MEMBERS[name]


def build(architecture: str, *, bands: int, classes: int, **parameters: Any) -> Any:
    """A new network of the zoo, with random weights.

    Args:
        architecture: in the registry of the zoo.
        bands: channels of the input.
        classes: number of classes.
        parameters: of the network.

    Raises:
        ConfigError: the architecture is unknown, or a parameter is unknown or out of range.
    """
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"unknown architecture {architecture!r}; known are: {', '.join(ARCHITECTURES)}")
    module, name = ARCHITECTURES[architecture].split(":")
    try:
        return getattr(import_module(module), name)(bands=bands, classes=classes, **parameters)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{architecture} refuses its parameters: {error}") from error
