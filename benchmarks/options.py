"""What the runner passes to a benchmark."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

#: Seed of every drawn scene; the shipped model was not trained on it.
SEED = 7

T = TypeVar("T")


class UnavailableError(Exception):
    """A benchmark, or a part of one, cannot run here; the message says why in one line."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a benchmark.

    Attributes:
        folder: an empty folder that is removed afterwards.
        scenes: where drawn scenes are kept, so that they are drawn once.
        quick: run at a size that shows only that it works.
        rounds: how often each way is timed; medians are reported.
        model: name or folder of the model, which must suit drawn scenes.
        docs: folder of the documentation, if it is to be updated.
    """

    folder: Path
    scenes: Path
    quick: bool = False
    rounds: int = 3
    model: str = "demo-harbour"
    docs: Path | None = None

    def pick(self, usual: T, quick: T) -> T:
        """One value, or another in a quick run."""
        return quick if self.quick else usual


def say(line: str) -> None:
    """Report progress; tables are the runner's business."""
    print(f"   {line}", file=sys.stderr, flush=True)
