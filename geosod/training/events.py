"""What a training run reports while it goes on. Printing is left to whoever listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Started:
    """A run starts, or goes on from a checkpoint; on Ray also in mid-run, where a worker was lost.

    Attributes:
        step, steps: number of steps that are done, and of all.
    """

    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class Stepped:
    """A step is done.

    Attributes:
        step, steps: number of steps that are done, and of all.
        losses: each part of the loss, and "total".
        rate: learning rate of the step.
        seconds: of training so far, earlier parts of the run included.
        images: shown so far.
    """

    step: int
    steps: int
    losses: dict[str, float]
    rate: float
    seconds: float
    images: int


@dataclass(frozen=True, slots=True)
class Validated:
    """The averaged weights were tried on the validation images.

    Attributes:
        step: after which.
        figures: name → value, such as "AP50".
        best: whether they are the best so far.
    """

    step: int
    figures: dict[str, float] = field(default_factory=dict)
    best: bool = False


@dataclass(frozen=True, slots=True)
class Noted:
    """Something that a user should know."""

    text: str


Event = Started | Stepped | Validated | Noted
Emit = Callable[[Event], None]
