"""What `geosod dataset check` reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from geosod.datasets.labels import Labels

#: So many boxes are named for each finding.
_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of oddity.

    Attributes:
        kind: short name, such as ``zero_area``.
        level: errors make a set unusable as it is, warnings may be on purpose.
        count: number of boxes, images or classes.
        message: what is wrong, and what to do.
        examples: some of them, with image and identifier.
    """

    kind: str
    level: Literal["error", "warning"]
    count: int
    message: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The result of a check.

    Attributes:
        counts: images, boxes and so on.
        classes: number of boxes of each class, without ignored ones.
        findings: errors first.
        histograms: see `geosod.datasets.sizes.size_histograms`.
        problems: entries that could not be read, in words.
        problem_count: how many there are.
        notes: what a user should know.
    """

    counts: dict[str, int]
    classes: dict[str, int]
    findings: tuple[Finding, ...]
    histograms: dict[str, Any]
    problems: tuple[str, ...] = ()
    problem_count: int = 0
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def errors(self) -> int:
        """Number of errors, entries that could not be read included."""
        return self.problem_count + sum(one.count for one in self.findings if one.level == "error")


def box_examples(labels: Labels, rows: Iterable[int]) -> tuple[str, ...]:
    """The first of some boxes, with image and identifier."""
    out: list[str] = []
    for row in rows:
        if len(out) == _EXAMPLES:
            break
        box = ", ".join(f"{value:g}" for value in labels.boxes[row].tolist())
        out.append(f"{labels.images[int(labels.image[row])].id}: {int(labels.ids[row])} ({box})")
    return tuple(out)


def names(values: Iterable[str]) -> tuple[str, ...]:
    """The first of some names."""
    return tuple(value for _, value in zip(range(_EXAMPLES), values, strict=False))
