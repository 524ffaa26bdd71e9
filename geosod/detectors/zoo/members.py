"""Members of the zoo: networks with parameters that were found to work, by a short name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Member:
    """A network and its parameters.

    Attributes:
        architecture: a name in `geosod.detectors.zoo.ARCHITECTURES`.
        parameters: as a card states them.
    """

    architecture: str
    parameters: dict[str, Any] = field(default_factory=dict)


MEMBERS = {
    "S": Member("retinanet", {"backbone": "slim", "channels": 48, "tower": 1}),
    "M": Member("retinanet", {"backbone": "efficientnet-lite0", "channels": 64, "tower": 2}),
}
