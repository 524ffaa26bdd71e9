"""Boxes collected one by one from a file, with little memory each, and made into `Labels` at the end."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np

from geosod.datasets.labels import LabelledImage, Labels
from geosod.datasets.problems import InvalidEntryError, number_of

_CROWD, _IGNORE, _TRUNCATED = 1, 2, 4


class Rows:
    """The boxes of a set, in the order of its files."""

    def __init__(self) -> None:
        self._numbers = array("d")
        self._whole = array("q")

    def __len__(self) -> int:
        return len(self._whole) // 4

    def add(
        self,
        box: tuple[float, float, float, float],
        *,
        image: int,
        label: int,
        id: int,
        area: Any = None,
        crowd: bool = False,
        ignore: bool = False,
        truncated: bool = False,
    ) -> None:
        """Add a box ``x0, y0, x1, y1`` with ordered corners.

        Raises:
            InvalidEntryError: a number is not finite, or the area is negative.
        """
        x0, y0, x1, y1 = box
        own = (x1 - x0) * (y1 - y0)
        if not math.isfinite(own) or abs(id) >= 1 << 62:
            raise InvalidEntryError(f"box {x0:g}, {y0:g}, {x1:g}, {y1:g} is too large")
        if area is None:
            area = own
        elif (area := number_of(area, "area")) < 0:
            raise InvalidEntryError(f"area is {area:g}, which is negative")
        self._numbers.extend((x0, y0, x1, y1, area))
        flags = _CROWD * crowd | _IGNORE * ignore | _TRUNCATED * truncated
        self._whole.extend((image, label, id, flags))

    def labels(
        self,
        images: Iterable[LabelledImage],
        classes: Iterable[str],
        *,
        supercategories: Iterable[str] | None = None,
        class_ids: Iterable[int] | None = None,
        points: bool = False,
    ) -> Labels:
        """The labels of all boxes; ConfigError as `Labels`."""
        values = np.frombuffer(self._numbers, np.float64).reshape(-1, 5) if len(self) else np.empty((0, 5))
        image, label, ids, flags = (
            (np.frombuffer(self._whole, np.int64) if len(self) else np.empty(0, np.int64)).reshape(-1, 4).T
        )
        return Labels(
            images=images,
            classes=classes,
            supercategories=supercategories,
            class_ids=class_ids,
            image=image,
            boxes=values[:, :4],
            labels=label,
            crowd=flags & _CROWD > 0,
            ignore=flags & _IGNORE > 0,
            truncated=flags & _TRUNCATED > 0,
            area=values[:, 4],
            ids=ids,
            points=points,
        )
