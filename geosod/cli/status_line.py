"""One line about what a command is doing, as long as the terminal is wide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

#: Of a message.
Kind = Literal["info", "detail", "warning", "error"]

SPINNER, ASCII_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"
#: Columns of the bar: as many as there is room for, and none where the smallest does not fit.
BAR_WIDTHS = (20, 10)
MAX_BAR = 40
GAP = "  "


@dataclass(frozen=True, slots=True)
class Status:
    """What a command is doing.

    Attributes:
        phase: in plain words.
        fraction: of the phase that is done, 0 to 1; None where that is not known.
        details: the most important first, each in several wordings, the longest first.
    """

    phase: str
    fraction: float | None = None
    details: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Moment:
    """A status at a moment.

    Attributes:
        status: what is shown.
        elapsed: seconds since the command began.
        left: seconds that the phase will still take; None where that is not known.
    """

    status: Status
    elapsed: float
    left: float | None = None

    def in_words(self) -> str:
        """The status as a line for a log."""
        shown = [] if self.status.fraction is None else [percent(self.status.fraction)]
        shown.append(f"{clock(self.elapsed)} elapsed")
        shown += [] if self.left is None else [f"{clock(self.left)} left"]
        return f"{self.status.phase}: {', '.join(shown + [forms[0] for forms in self.status.details])}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the line; the last column of the console stays free, since some terminals wrap there."""
        spinner, (full, empty) = (ASCII_SPINNER, "#-") if options.ascii_only else (SPINNER, "━─")
        bar, before, after = self.arranged(options.max_width - 3)
        done = int(bar * (self.status.fraction or 0.0))
        yield Text.assemble(
            (spinner[int(self.elapsed * 8) % len(spinner)], "cyan"),
            f" {before}",
            (full * done, "green"),
            (empty * (bar - done), "dim"),
            after,
            no_wrap=True,
            overflow="crop",
            end="",
        )

    def arranged(self, width: int) -> tuple[int, str, str]:
        """Columns of the bar, and the text before and after it; less important parts are left out where needed."""
        room, chosen = width - len(self.status.phase), {}
        for name, forms in self._by_importance():
            fitting = next((form for form in forms if len(GAP) + len(form) <= room), None)
            if fitting is not None:
                chosen[name] = fitting
                room -= len(GAP) + len(fitting)
        bar = min(MAX_BAR, len(chosen.pop("bar")) + room) if "bar" in chosen else 0
        order = ("percent", "elapsed", "left", *(str(i) for i in range(len(self.status.details))))
        texts = [GAP + chosen[name] for name in order if name in chosen]
        return bar, (self.status.phase + (GAP if bar else ""))[: max(0, width)], "".join(texts)

    def _by_importance(self) -> Iterator[tuple[str, Sequence[str]]]:
        details = [(str(i), forms) for i, forms in enumerate(self.status.details)]
        if self.status.fraction is not None:
            yield "percent", [f"{percent(self.status.fraction):>4}"]
        yield "elapsed", [clock(self.elapsed)]
        yield from details[:1]
        if self.left is not None:
            yield "left", [f"{clock(self.left)} left"]
        if self.status.fraction is not None:
            yield "bar", [" " * columns for columns in BAR_WIDTHS]
        yield from details[1:]


def percent(fraction: float) -> str:
    """Rounded down: 100 % is when all is done."""
    return f"{int(100 * min(1.0, max(0.0, fraction)) + 1e-9)} %"


def clock(seconds: float) -> str:
    """``m:ss``, or ``h:mm:ss``."""
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(number: int, noun: str) -> str:
    """A number and what it counts."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
