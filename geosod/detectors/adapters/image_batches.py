"""What adapters of other libraries' objects share: images as those take them, and their classes as labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geosod.detectors.card import ModelCard
from geosod.detectors.packing.found import unique
from geosod.errors import ConfigError, ModelError

RGB = ("red", "green", "blue")
#: One image's boxes: (k, 4) corners in pixels, (k,) scores and (k,) labels.
Found = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]


def eight_bit(images: Tensor) -> list[npt.NDArray[np.uint8]]:
    """Images (B, C, H, W), 0 to 1, as contiguous arrays (H, W, C) uint8, 0 to 255, in the host's memory."""
    pixels = (images.clamp(0, 1) * 255).round_().to(torch.uint8).permute(0, 2, 3, 1)
    return list(pixels.cpu().contiguous().numpy())


@dataclass(frozen=True, slots=True)
class ClassIds:
    """The classes of a library's model.

    Attributes:
        names: in the order of the card's labels.
        labels: id of a class in the library → label.
    """

    names: tuple[str, ...]
    labels: Mapping[int, int]

    @classmethod
    def of(cls, classes: Sequence[str] | Mapping[Any, str]) -> ClassIds:
        """From names in the order of ids 0, 1, …, or from ids, numbers or their texts, and names.

        Raises:
            ConfigError: there is none, or an id is not a number.
        """
        if isinstance(classes, str):
            raise ConfigError(f"classes {classes!r}: pass several names, as ('car', 'ship'), or {{id: name}}")
        try:
            pairs = classes.items() if isinstance(classes, Mapping) else enumerate(classes)
            by_id = sorted((int(i), str(name)) for i, name in pairs)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"classes {classes!r}: pass names, or {{id: name}} with whole numbers as ids") from error
        if not by_id:
            raise ConfigError("classes is empty; pass the names of the model's classes")
        return cls(unique([name for _, name in by_id]), {i: label for label, (i, _) in enumerate(by_id)})

    def label(self, index: int, name: str = "") -> int:
        """The label of a class.

        Raises:
            ModelError: there is no class of that id.
        """
        if index not in self.labels:
            known = ", ".join(f"{i} {self.names[label]}" for i, label in list(self.labels.items())[:20])
            raise ModelError(
                f"the model found class {index} {name!r}, but classes has only {known}; pass classes={{id: name}} with "
                "every class that it may find"
            )
        return self.labels[index]


def image_card(name: str, classes: ClassIds, bands: Sequence[str], **fields: Any) -> ModelCard:
    """The card of a model that takes 8-bit images and does its own suppression.

    Raises:
        ModelError: a field is out of range, or pixels are not uint8 and it is not stated what becomes 0 and 255.
    """
    if fields.get("dtype", "uint8") != "uint8" and not {"minimum", "maximum"} <= fields.keys():
        raise ModelError(
            f"model {name!r}: pixels are {fields['dtype']}; pass minimum=(…) and maximum=(…), the values of each band "
            "that become 0 and 255 in the images that the model gets"
        )
    count = len(bands)
    usual: dict[str, Any] = {
        "dtype": "uint8",
        "minimum": (0.0,) * count,
        "maximum": (255.0,) * count,
        "nms_iou": 1.0,
        "framework": "other",
        "artifact_type": "other",
    }
    return ModelCard(name=name, bands=tuple(bands), classes=classes.names, **(usual | fields))
