"""What is wrong with files of labels: collected while they are read, then refused or reported."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geosod.errors import redacted

#: So many problems are kept in words; the others are counted.
MAX_KEPT = 1000


class InvalidEntryError(ValueError):
    """An entry of a file cannot be used; the message says why, and the reader adds where it stands."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An entry of a file that was left out.

    Attributes:
        file: path of the file.
        where: the entry, such as ``annotation 17`` or ``line 3``; "" for the whole file.
        message: what is wrong with it.
    """

    file: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}{', ' if self.where else ''}{self.where}: {self.message}"


@dataclass(slots=True)
class Problems:
    """The problems of a set of files, in the order in which they were found.

    Attributes:
        found: the first `MAX_KEPT` of them.
        count: how many there are.
    """

    found: list[Problem] = field(default_factory=list)
    count: int = 0

    def add(self, file: Path | str, where: str, message: object) -> None:
        """Record one."""
        self.count += 1
        if len(self.found) < MAX_KEPT:
            self.found.append(Problem(redacted(str(file)), where, redacted(str(message))))


def numbers(values: Any, count: int, what: str) -> list[float]:
    """Finite numbers from a list of a file.

    Raises:
        InvalidEntryError: it is no list of `count` finite numbers.
    """
    if not isinstance(values, list | tuple) or len(values) != count:
        raise InvalidEntryError(f"{what} is {shown(values)}, expected {count} numbers")
    return [number_of(value, what, values) for value in values]


def number_of(value: Any, what: str, whole: Any = None) -> float:
    """A finite number from a file; InvalidEntryError for anything else, which shows `whole` if it is a part of that."""
    shown_value = shown(value if whole is None else whole)
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        expected = "a number" if whole is None else f"{len(whole)} numbers"
        raise InvalidEntryError(f"{what} is {shown_value}, expected {expected}") from None
    if not math.isfinite(found):
        raise InvalidEntryError(f"{what} is {shown_value}, and must be finite")
    return found


def whole_number(value: Any, what: str) -> int:
    """A whole number from a file, which may be written as 3, 3.0 or "3"; InvalidEntryError for others."""
    found = number_of(value, what)
    if found != int(found) or abs(found) >= 1 << 53:
        raise InvalidEntryError(f"{what} is {shown(value)}, expected a whole number")
    return int(found)


def corners_from_size(box: list[float]) -> tuple[float, float, float, float]:
    """``x, y, width, height`` as corners; InvalidEntryError where width or height is negative."""
    x, y, width, height = box
    if width < 0 or height < 0:
        raise InvalidEntryError(f"box has the size {width:g} x {height:g}, which is negative; expected x, y, w, h")
    return x, y, x + width, y + height


def ordered_corners(box: list[float]) -> tuple[float, float, float, float]:
    """``x0, y0, x1, y1``; InvalidEntryError where a corner is on the wrong side of the other."""
    x0, y0, x1, y1 = box
    if x1 < x0 or y1 < y0:
        raise InvalidEntryError(f"box {x0:g}, {y0:g}, {x1:g}, {y1:g} has a negative size; expected x0, y0, x1, y1")
    return x0, y0, x1, y1


def shown(value: Any) -> str:
    """A value of a file for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
